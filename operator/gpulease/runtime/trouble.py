"""Why a tenant's services do not come up, from the events of the provider's cluster: the kubelet's own words.

Events repeat with other numbers and in turns (``ErrImagePull``, ``ImagePullBackOff``); the sentence made of them stays
the same, so that the object's status does not move with every repetition.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from gpulease.errors import GpuleaseError

MOST_EVENTS = 500
DEADLINE_S = 5.0
_IMAGE = re.compile(r"image \"(?P<image>[^\"]{1,512})\"")
_MOST_CHARS = 400


async def read(events: AsyncIterator[Mapping[str, Any]]) -> tuple[str, str] | None:
    """(reason, sentence) of the last warning; None when there is none or the gateway does not tell."""
    warnings: list[Mapping[str, Any]] = []
    count = 0
    try:
        async with asyncio.timeout(DEADLINE_S):
            async for event in events:
                count += 1
                if event.get("type") == "Warning":
                    warnings.append(event)
                if count >= MOST_EVENTS:
                    break
    except (TimeoutError, GpuleaseError):
        # What was told until then counts; trouble that is not known is no trouble.
        pass
    return explain(warnings)


def explain(warnings: list[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Pure; ``warnings`` in the order they were told, the newest last."""
    for event in reversed(warnings):
        note, reason = str(event.get("note") or ""), str(event.get("reason") or "Unknown")
        pull = _IMAGE.search(note) if "pull" in note.lower() else None
        if pull is not None:
            words = f"The provider's node cannot pull image {pull['image']} (ErrImagePull)"
            return "ImagePullBackOff", f"{words}; check the image's name and tag, and whether its registry is public."
        if reason == "BackOff":
            words = "The container ends again and again (CrashLoopBackOff); look at its log with gpulease lease logs."
            return "CrashLoopBackOff", words
    if not warnings:
        return None
    last = warnings[-1]
    note = " ".join(str(last.get("note") or "no more is told").split())[:_MOST_CHARS]
    return str(last.get("reason") or "Unknown")[:64], f"The provider's cluster says: {note}"
