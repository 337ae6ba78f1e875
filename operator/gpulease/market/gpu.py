"""GPU kinds: how a product is named on the market, and which kinds an order accepts.

An order asks for ``vendor/nvidia/model/<m|*>[/ram/<n>Gi][/interface/<i>]`` (several keys mean any of them); a provider
publishes all four variants of each kind it has (akash reference §2.6). A MIG slice is a model of its own, such as
``a100-mig-1g.10gb``: it is sold to orders that name it, never to one that takes any GPU.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from gpulease.market.model import Attribute

VENDOR = "nvidia"
_SLICE = "-mig-"
_MIG_MEMORY = re.compile(r"\.([0-9]+)gb")
# Words behind a match that make another, lesser product of it.
_OTHER_PRODUCT = re.compile(r"(D|TI|SUPER|LAPTOP|MAX)\b")
_SIZES_GIB = (4, 5, 6, 8, 10, 11, 12, 16, 20, 24, 32, 40, 48, 64, 80, 94, 96, 128, 141, 144, 180, 192, 288)
_SIZE_TOLERANCE = 0.12
"""NVML's total leaves out what the firmware keeps: less than this share of the size on the box."""
_WANT = re.compile(
    r"^vendor/(?P<vendor>[a-z0-9]+)/model/(?P<model>[A-Za-z0-9_.\-*]+)(?:/ram/(?P<ram>[0-9]+Gi))?"
    r"(?:/interface/(?P<interface>[a-z0-9]+))?$"
)


@dataclass(frozen=True, slots=True, order=True)
class GpuKind:
    """A market name with memory ("80Gi") and interface ("sxm" or "pcie")."""

    model: str
    ram: str
    interface: str

    def __str__(self) -> str:
        return f"{self.model} {self.ram} {self.interface}"

    @property
    def is_slice(self) -> bool:
        """A part of a GPU: its model name says which profile."""
        return _SLICE in self.model


@dataclass(frozen=True, slots=True)
class GpuWant:
    """One acceptable kind; empty ``ram`` or ``interface`` and model ``*`` accept any, ``*`` no slices."""

    model: str
    ram: str = ""
    interface: str = ""

    def accepts(self, kind: GpuKind) -> bool:
        return (
            (self.model == kind.model or (self.model == "*" and not kind.is_slice))
            and self.ram in ("", kind.ram)
            and normal_interface(self.interface) in ("", kind.interface)
        )

    def attribute(self) -> Attribute:
        key = f"vendor/{VENDOR}/model/{self.model}"
        key += f"/ram/{self.ram}" if self.ram else ""
        key += f"/interface/{self.interface}" if self.interface else ""
        return Attribute(key, "true")

    def __str__(self) -> str:
        return " ".join(part for part in (self.model, self.ram, self.interface) if part)


def normal_interface(text: str) -> str:
    """``sxm2`` … ``sxm5`` are all ``sxm`` on the market."""
    return "sxm" if text.startswith("sxm") else text


def wants(attributes: Iterable[Attribute]) -> tuple[GpuWant, ...]:
    """What an order's GPU attributes accept; keys that are no GPU request accept nothing."""
    found = []
    for attribute in attributes:
        match = _WANT.match(attribute.key)
        if match is not None and match["vendor"] == VENDOR and attribute.value == "true":
            found.append(GpuWant(match["model"], match["ram"] or "", match["interface"] or ""))
    return tuple(found)


def accepted(kind: GpuKind, wanted: Iterable[GpuWant]) -> bool:
    """No want at all accepts any whole GPU."""
    asked = tuple(wanted)
    if not asked:
        return not kind.is_slice
    return any(want.accepts(kind) for want in asked)


def published(kinds: Iterable[GpuKind]) -> tuple[Attribute, ...]:
    """Every variant a tenant may ask for, as provider attributes, sorted and without repeats."""
    keys: set[str] = set()
    for kind in kinds:
        base = f"capabilities/gpu/vendor/{VENDOR}/model/{kind.model}"
        keys |= {
            base,
            f"{base}/ram/{kind.ram}",
            f"{base}/interface/{kind.interface}",
            f"{base}/ram/{kind.ram}/interface/{kind.interface}",
        }
    return tuple(Attribute(key, "true") for key in sorted(keys))


def kinds_offered(attributes: Iterable[Attribute]) -> tuple[str, ...]:
    """The kinds a provider's attributes name in full, for a person to read."""
    prefix = f"capabilities/gpu/vendor/{VENDOR}/model/"
    full = re.compile(re.escape(prefix) + r"(?P<m>[^/]+)/ram/(?P<r>[^/]+)/interface/(?P<i>[^/]+)$")
    found = {f"{x['m']} {x['r']} {x['i']}" for a in attributes if a.value == "true" and (x := full.match(a.key))}
    return tuple(sorted(found))


@lru_cache(maxsize=1)
def _table() -> tuple[tuple[str, GpuKind], ...]:
    raw = json.loads(resources.files("gpulease.market").joinpath("gpu_models.json").read_text())
    entries = [(e["match"], GpuKind(e["model"], e["ram"], e["interface"])) for e in raw["models"]]
    return tuple(sorted(entries, key=lambda e: -len(e[0])))


def _plain(product: str) -> str:
    return re.sub(r"[\s\-_]+", " ", product.upper()).strip()


def kind_of_product(
    product: str, *, overrides: Mapping[str, GpuKind] | None = None, memory_bytes: int | None = None
) -> GpuKind | None:
    """The kind of an NVML or GFD product name, None for one the table does not know.

    The longest matching entry decides, on word boundaries; ``overrides`` (exact product name, dashes and spaces
    alike) go first. Memory that NVML measured and that differs from the table's goes before the table's.
    """
    plain = _plain(product)
    for name, kind in (overrides or {}).items():
        if _plain(name) == plain:
            return kind
    for needle, kind in _table():
        _, found, after = f" {plain} ".partition(f" {needle} ")
        if found and not _OTHER_PRODUCT.match(after.strip()):
            return kind if memory_bytes is None else _with_memory(kind, memory_bytes)
    return None


def slice_kind(product: str, profile: str, *, overrides: Mapping[str, GpuKind] | None = None) -> GpuKind | None:
    """The kind of a MIG slice (profile such as ``1g.10gb``) of a product."""
    whole = kind_of_product(product, overrides=overrides)
    memory = _MIG_MEMORY.search(f".{profile}" if "." not in profile else profile)
    if whole is None or memory is None:
        return None
    name = profile.replace("+", ".").lower()
    return GpuKind(f"{whole.model}{_SLICE}{name}", f"{memory[1]}Gi", whole.interface)


def _with_memory(kind: GpuKind, memory_bytes: int) -> GpuKind:
    gib = memory_bytes / (1 << 30)
    told = float(kind.ram.removesuffix("Gi"))
    if abs(gib - told) <= told * _SIZE_TOLERANCE:
        return kind
    nearest = min(_SIZES_GIB, key=lambda size: abs(size - gib))
    return GpuKind(kind.model, f"{nearest}Gi", kind.interface)
