"""Plain HTTP for tests: a status, a JSON body, metrics as numbers."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from tests.rig.errors import RigError


def status_of(url: str, *, timeout_s: float = 3.0) -> int:
    """The answer's status; 0 where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (urllib.error.URLError, OSError):
        return 0


def get_text(url: str, *, headers: Mapping[str, str] | None = None, timeout_s: float = 5.0) -> str:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers or {})), timeout=timeout_s) as got:
            return str(got.read().decode())
    except urllib.error.HTTPError as error:
        words = error.read().decode(errors="replace")[:500]
        raise RigError(f"{url} answered {error.code}: {words}") from error
    except (urllib.error.URLError, OSError) as error:
        raise RigError(f"{url} did not answer: {error}") from error


def get_json(url: str, *, headers: Mapping[str, str] | None = None, tries: int = 1, timeout_s: float = 5.0) -> Any:
    """``tries`` looks, a third of a second apart, for answers that are not always there."""
    for left in range(tries - 1, -1, -1):
        try:
            return json.loads(get_text(url, headers=headers, timeout_s=timeout_s))
        except (RigError, ValueError) as error:
            if not left:
                raise RigError(str(error)) from error
            time.sleep(0.3)
    raise RigError(f"{url} was asked no time")


def metric_sum(text: str, name: str, **labels: str) -> float | None:
    """Sum of a metric's samples with these labels in an exposition; None where there is none."""
    found: list[float] = []
    for line in text.splitlines():
        head, _, value = line.rpartition(" ")
        series, _, inside = head.partition("{")
        if series == name and all(f'{key}="{want}"' in inside for key, want in labels.items()):
            found.append(float(value))
    return sum(found) if found else None
