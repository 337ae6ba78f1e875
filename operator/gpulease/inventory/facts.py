"""What a node's agent says of its devices, device by device: labels describe a node, only NVML knows each GPU.

NVML's answers are claims of the node's own software (a double can answer anything); they are good for telling devices
apart and for believing a node that calls its own device sick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpulease.errors import BadInput

MOST_DEVICES = 128
MOST_XIDS = 64


@dataclass(frozen=True, slots=True)
class XidEvent:
    """``at_ms`` on the agent's timeline (wall-clock milliseconds that never go back)."""

    at_ms: int
    code: int


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """One GPU. None is unknown; ``problem`` is set when NVML answers for the node but not for this device.

    ``mig`` are the UUIDs of its instances; a GPU with ``mig_enabled`` is not sold whole.
    """

    uuid: str
    index: int = 0
    product: str = ""
    memory_bytes: int | None = None
    ecc_uncorrected: int | None = None
    recovery_action: int | None = None
    row_remap_failed: bool | None = None
    problem: str | None = None
    xids: tuple[XidEvent, ...] = ()
    mig_enabled: bool = False
    mig: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """All devices of a node as of ``at_ms``. No object at all means unknown, never "no devices"."""

    node: str
    boot_id: str
    at_ms: int
    driver_version: str
    devices: tuple[DeviceFacts, ...]

    def device(self, uuid: str) -> DeviceFacts | None:
        """By the GPU's UUID or that of one of its MIG instances."""
        return next((d for d in self.devices if uuid == d.uuid or uuid in d.mig), None)


def node_facts(raw: Mapping[str, Any]) -> NodeFacts:
    """From the agent's answer at ``/v1/devices``; ``BadInput`` for what is none."""
    try:
        devices = tuple(_device(one) for one in list(raw["devices"])[:MOST_DEVICES])
        return NodeFacts(
            str(raw["node"]), str(raw["boot_id"]), int(raw["at_ms"]), str(raw.get("driver_version") or ""), devices
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"the agent sent no list of devices: {type(error).__name__} {error}") from error


def _device(raw: Mapping[str, Any]) -> DeviceFacts:
    def number(name: str) -> int | None:
        value = raw.get(name)
        return None if value is None else int(value)

    problem, failed = raw.get("problem"), raw.get("row_remap_failed")
    xids = tuple(XidEvent(int(x["at_ms"]), int(x["xid"])) for x in list(raw.get("xids") or ())[-MOST_XIDS:])
    return DeviceFacts(
        uuid=str(raw["uuid"]),
        index=int(raw.get("index", 0)),
        product=str(raw.get("product") or ""),
        memory_bytes=number("memory_bytes"),
        ecc_uncorrected=number("ecc_uncorrected"),
        recovery_action=number("recovery_action"),
        row_remap_failed=None if failed is None else bool(failed),
        problem=None if problem is None else str(problem)[:300],
        xids=xids,
        mig_enabled=bool(raw.get("mig_enabled")),
        mig=tuple(str(u) for u in list(raw.get("mig") or ())[:MOST_DEVICES]),
    )
