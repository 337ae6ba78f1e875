"""SDLs for tests: a small good one, and ways to change it in one place."""

from __future__ import annotations

import copy
from typing import Any

from gpulease.workload.sdl import Compiled, compile_text
from gpulease.workload.sdl.convert import dump

DELETE = object()


def small(version: str = "2.0") -> dict[str, Any]:
    """One service ``web`` with one GPU at the placement ``here``."""
    return {
        "version": version,
        "services": {"web": {"image": "nginx:1.27", "expose": [{"port": 80, "to": [{"global": True}]}]}},
        "profiles": {
            "compute": {
                "web": {
                    "resources": {
                        "cpu": {"units": "500m"},
                        "memory": {"size": "1Gi"},
                        "storage": {"size": "2Gi"},
                        "gpu": {"units": 1, "attributes": {"vendor": {"nvidia": [{"model": "a100"}]}}},
                    }
                }
            },
            "placement": {"here": {"pricing": {"web": {"denom": "uact", "amount": 100}}}},
        },
        "deployment": {"web": {"here": {"profile": "web", "count": 1}}},
    }


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with ``value`` at a path such as ``services/web/expose/0/port``; ``DELETE`` takes it away."""
    found = copy.deepcopy(document)
    holder: Any = found
    *keys, last = [int(key) if key.isdecimal() else key for key in path.split("/")]
    for key in keys:
        if isinstance(key, str) and key not in holder:
            holder[key] = {}
        holder = holder[key]
    if value is DELETE:
        del holder[last]
    elif isinstance(last, int) and last == len(holder):
        holder.append(value)
    else:
        holder[last] = value
    return found


def with_service(document: dict[str, Any], name: str, *, profile: str = "web", to: Any = None) -> dict[str, Any]:
    """A copy with a further service at ``here`` that listens on port 9000."""
    service = {"image": f"{name}:1", "expose": [{"port": 9000, "to": to or [{"service": "web"}]}]}
    found = changed(document, f"services/{name}", service)
    return changed(found, f"deployment/{name}", {"here": {"profile": profile, "count": 2}})


def compiled(document: dict[str, Any], *, lenient: bool = False) -> Compiled:
    return compile_text(dump(document), lenient=lenient)
