"""Who wrote what to the API server: counted from its audit log, not from what the writer says of itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
_QUESTIONS = frozenset({"authorization.k8s.io", "authentication.k8s.io"})
"""Groups whose objects are questions: creating one changes nothing."""


@dataclass(frozen=True, slots=True)
class Write:
    """``at_s`` is Unix time. ``resource`` carries a subresource after a slash: ``gpuleases/status``."""

    at_s: float
    user: str
    verb: str
    resource: str
    namespace: str
    name: str
    code: int

    def __str__(self) -> str:
        return f"{self.verb} {self.resource} {self.namespace}/{self.name}".rstrip("/")


def writes(log: Path, *, user: str = "", since_s: float = 0.0, until_s: float = float("inf")) -> Sequence[Write]:
    """In the log's order. ``user`` empty means everybody."""
    found = []
    for line in log.read_text().splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # the last line, still being written
            continue
        ref = event.get("objectRef") or {}
        if event.get("verb") not in _WRITES or ref.get("apiGroup") in _QUESTIONS:
            continue
        at_s = datetime.fromisoformat(event["requestReceivedTimestamp"].replace("Z", "+00:00")).timestamp()
        name = event["user"]["username"]
        if (user and name != user) or not since_s <= at_s <= until_s:
            continue
        resource = "/".join(filter(None, (ref.get("resource", ""), ref.get("subresource", ""))))
        code = int((event.get("responseStatus") or {}).get("code", 0))
        place = str(ref.get("namespace", "")), str(ref.get("name", ""))
        found.append(Write(at_s, name, event["verb"], resource, *place, code))
    return found
