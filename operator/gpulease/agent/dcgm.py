"""Evidence from dcgm-exporter, joined by device UUID.

Its pod labels are not used: they are attached at scrape time and lie at pod boundaries. One series per device is
enough: exporters repeat a device's value for every pod or MIG instance on it, so the first one is taken.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

import aiohttp

from gpulease.agent.model import DcgmDevice
from gpulease.errors import NodeUnreachable

MAX_ANSWER_BYTES = 8 * 1024 * 1024
STALE_S = 90.0
"""Three of the exporter's default sampling intervals."""
_MIB = 1024 * 1024
_SCALES = {
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ("energy_mj", 1),
    "DCGM_FI_DEV_GPU_UTIL": ("util_permille", 10),
    "DCGM_FI_DEV_FB_USED": ("mem_used_bytes", _MIB),
}
_LINE = re.compile(r"(?P<name>DCGM_FI_DEV_[A-Z0-9_]+)\{(?P<labels>.*)\}\s+(?P<value>[^\s]+)(?:\s+-?[0-9]+)?\s*\Z")
_UUID = re.compile(r'(?:^|,)\s*(?:UUID|uuid|gpu_uuid)="(?P<uuid>(?:[^"\\]|\\.)*)"')
_INSTANCE = re.compile(r'(?:^|,)\s*GPU_I_ID="[^"]+"')


def parse(text: str) -> dict[str, DcgmDevice]:
    """By device UUID. Lines of no interest or form are passed over; MIG instances repeat their parent's values."""
    found: dict[str, dict[str, int]] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None or match["name"] not in _SCALES:
            continue
        uuid = _UUID.search(match["labels"])
        if uuid is None:
            continue
        field, scale = _SCALES[match["name"]]
        if field != "energy_mj" and _INSTANCE.search(match["labels"]):
            continue
        value = _whole(match["value"], scale)
        if value is not None:
            found.setdefault(uuid["uuid"], {}).setdefault(field, value)
    return {uuid: DcgmDevice(**fields) for uuid, fields in found.items()}


def _whole(text: str, scale: int) -> int | None:
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return int(value * scale) if value.is_finite() and value >= 0 else None


class DcgmExporter:
    """Scrapes one exporter, with a deadline and a size limit.

    An exporter whose host engine hangs goes on serving its last sample. A GPU always draws power, so a device whose
    energy counter stands still for ``stale_s`` is left out until it moves again.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 2.0,
        stale_s: float = STALE_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stale_s, self._now_s = stale_s, now_s
        self._moved: dict[str, tuple[int, float]] = {}
        """By device: the last energy reading and when it last changed."""
        self._url = url if url.rstrip("/").endswith("/metrics") else url.rstrip("/") + "/metrics"
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def read(self) -> dict[str, DcgmDevice]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        try:
            async with self._session.get(self._url) as answer:
                if answer.status != 200:
                    raise NodeUnreachable(f"the DCGM exporter {self._url} answered {answer.status}")
                body = bytearray()
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        raise NodeUnreachable(f"the DCGM exporter {self._url} sends more than {MAX_ANSWER_BYTES} bytes")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            words = str(error) or type(error).__name__
            raise NodeUnreachable(f"the DCGM exporter {self._url} did not answer: {words}") from error
        return self._fresh(parse(body.decode(errors="replace")))

    def _fresh(self, found: dict[str, DcgmDevice]) -> dict[str, DcgmDevice]:
        now_s = self._now_s()
        moved: dict[str, tuple[int, float]] = {}
        fresh = {}
        for uuid, device in found.items():
            if device.energy_mj is not None:
                last = self._moved.get(uuid)
                changed = last is None or last[0] != device.energy_mj
                moved[uuid] = (device.energy_mj, now_s) if last is None or changed else last
                if now_s - moved[uuid][1] > self._stale_s:
                    continue
            fresh[uuid] = device
        self._moved = moved
        return fresh

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
