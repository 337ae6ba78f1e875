"""Amounts as an SDL writes them: CPU, bytes, GPUs, prices, durations; ``ValueError`` with what to write instead.

Fractions are floats times the unit, cut off, as the peer computes them (``1.001`` cores are 1000 milli-cores):
the manifest's hash depends on it. Texts are bounded before they are looked at.
"""

from __future__ import annotations

import math
import re

from gpulease.units import Dec

_LONGEST = 64
_FLOAT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,4})?\Z")
_DIGITS = re.compile(r"[0-9]+\Z")
_AMOUNT = re.compile(r"[0-9]+(\.[0-9]{1,18})?\Z")
_STEP = re.compile(r"(?P<number>[0-9]+\.?[0-9]*|\.[0-9]+)(?P<unit>ns|us|µs|μs|ms|s|m|h)")
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
_DECIMAL = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_MAX_U64 = 2**64 - 1
_MAX_I64 = 2**63 - 1
_GI = 2**30


def _float(text: str, wants: str) -> float:
    if len(text) > _LONGEST or not _FLOAT.match(text):
        raise ValueError(wants)
    value = float(text)
    if value < 0 or not math.isfinite(value):
        raise ValueError(wants)
    return value


def cpu_milli(text: str) -> int:
    """``100m`` or cores such as ``0.5``."""
    wants = "CPU cores such as 500m or 2"
    if text.endswith("m"):
        digits = text[:-1]
        if len(digits) > _LONGEST or not _DIGITS.match(digits):
            raise ValueError(wants)
        return int(digits)
    return int(_float(text, wants) * 1000)


def size_bytes(text: str) -> int:
    """Bytes, with a suffix k M G T P E (powers of 1000) or Ki Mi Gi Ti Pi Ei (of 1024)."""
    return _sized(text, _BINARY | _DECIMAL, "a size such as 512Mi or 10Gi")


def gpu_ram_gib(text: str) -> int:
    """GPU memory in whole GiB; binary suffixes only."""
    return _sized(text, _BINARY, "GPU memory such as 80Gi") // _GI


def _sized(text: str, units: dict[str, int], wants: str) -> int:
    suffix = next((s for s in units if text.endswith(s)), "")
    value = _float(text.removesuffix(suffix), wants) * units.get(suffix, 1)
    if not math.isfinite(value) or value > _MAX_U64:
        raise ValueError(wants)
    return int(value)


def gpu_units(text: str) -> int:
    if len(text) > 20 or not _DIGITS.match(text):
        raise ValueError("a whole number of GPUs")
    return int(text)


def price(text: str) -> Dec:
    """A decimal above 0 with at most 18 places."""
    if len(text) > _LONGEST or not _AMOUNT.match(text):
        raise ValueError("a price per block such as 100 or 0.25, with at most 18 decimal places")
    amount = Dec.of(text)
    if not amount:
        raise ValueError("a price above 0; no provider can bid below 0")
    return amount


def duration_ns(text: str) -> int:
    """Nanoseconds from ``24h``, ``1h30m`` or ``0.5s``; may be 0 or below."""
    wants = 'a time such as "24h" or "30m"'
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    if not rest or len(rest) > _LONGEST:
        raise ValueError(wants)
    total, at = 0, 0
    while at < len(rest):
        step = _STEP.match(rest, at)
        if step is None:
            raise ValueError(wants)
        whole, _, fraction = step["number"].partition(".")
        unit = _NS[step["unit"]]
        total += int(whole or "0") * unit + int(fraction or "0") * unit // 10 ** len(fraction)
        at = step.end()
    if total > _MAX_I64:
        raise ValueError(wants)
    return sign * total
