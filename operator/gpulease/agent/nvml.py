"""NVML behind a deadline: its calls run on one thread of their own, because a sick driver hangs them.

One device that does not answer is reported as such and does not hide the others. XIDs come from a second thread that
only waits for events; if it breaks it starts over, and no device is blamed for that.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import structlog

from gpulease.agent.model import Device, NvmlReading, Xid
from gpulease.errors import NodeUnreachable

T = TypeVar("T")

MAX_DEVICES = 128
MAX_XIDS_WAITING = 1024
_EVENT_WAIT_MS = 1000
_EVENT_RETRY_S = 5.0
_RECOVERY_ACTION_FIELD = 230
_LOG = structlog.get_logger(__name__)


class Nvml:
    """``library`` is the module ``pynvml`` or one like it."""

    def __init__(self, library: Any = None, *, timeout_s: float = 2.0) -> None:
        self._library = library
        self._timeout_s = timeout_s
        self._thread = _CallThread()
        self._watch: XidWatch | None = None
        self._ready = False
        self._known: dict[int, Device] = {}
        """By index: who sits there, for the time when the device itself no longer says."""

    async def read(self) -> NvmlReading:
        """Every device; ``NodeUnreachable`` when NVML is missing, broken or too slow."""
        reading = await self._thread.call(self._read, timeout_s=self._timeout_s)
        if self._watch is None:
            self._watch = XidWatch(self._library)
            self._watch.start()
        return reading

    def drain_xids(self) -> Sequence[Xid]:
        return () if self._watch is None else self._watch.drain()

    def close(self) -> None:
        self._thread.stop()
        if self._watch is not None:
            self._watch.stop()

    def _read(self) -> NvmlReading:
        if self._library is None:
            import pynvml

            self._library = pynvml
        lib = self._library
        try:
            if not self._ready:
                lib.nvmlInit()
                self._ready = True
            driver = str(lib.nvmlSystemGetDriverVersion())
            count = min(int(lib.nvmlDeviceGetCount()), MAX_DEVICES)
            return NvmlReading(driver, tuple(self._device(lib, index) for index in range(count)))
        except lib.NVMLError as error:
            self._restart(lib)
            raise NodeUnreachable(_explain(lib, error)) from error

    def _restart(self, lib: Any) -> None:
        """Initialise anew at the next read: a driver may have been reloaded."""
        if self._ready:
            self._ready = False
            try:
                lib.nvmlShutdown()
            except lib.NVMLError as error:
                _LOG.debug("nvml shutdown failed", error=str(error))

    def _device(self, lib: Any, index: int) -> Device:
        try:
            handle = lib.nvmlDeviceGetHandleByIndex(index)
            device = _read_device(lib, handle, index)
        except lib.NVMLError as error:
            known = self._known.get(index, Device("", index))
            words = f"GPU {index} does not answer NVML: {error}"
            return Device(known.uuid, index, known.product, known.memory_bytes, known.pci_bus_id, problem=words)
        self._known[index] = device
        return device


def _read_device(lib: Any, handle: Any, index: int) -> Device:
    def optional(read: Callable[[], T]) -> T | None:
        try:
            return read()
        except lib.NVMLError as error:
            if isinstance(error, lib.NVMLError_GpuIsLost):
                raise
            return None

    def memory() -> tuple[int, int]:
        info = lib.nvmlDeviceGetMemoryInfo(handle)
        return int(info.total), int(info.used)

    total, used = optional(memory) or (None, None)
    mig = bool(optional(lambda: lib.nvmlDeviceGetMigMode(handle)[0]))
    return Device(
        uuid=str(lib.nvmlDeviceGetUUID(handle)),
        index=index,
        product=str(lib.nvmlDeviceGetName(handle)),
        memory_bytes=total,
        pci_bus_id=optional(lambda: _text(lib.nvmlDeviceGetPciInfo(handle).busId)) or "",
        energy_mj=optional(lambda: int(lib.nvmlDeviceGetTotalEnergyConsumption(handle))),
        util_permille=optional(lambda: int(lib.nvmlDeviceGetUtilizationRates(handle).gpu) * 10),
        mem_used_bytes=used,
        temperature_c=optional(lambda: int(lib.nvmlDeviceGetTemperature(handle, lib.NVML_TEMPERATURE_GPU))),
        ecc_uncorrected=optional(
            lambda: int(
                lib.nvmlDeviceGetTotalEccErrors(handle, lib.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, lib.NVML_VOLATILE_ECC)
            )
        ),
        recovery_action=optional(lambda: _recovery_action(lib, handle)),
        row_remap_failed=optional(lambda: bool(lib.nvmlDeviceGetRemappedRows(handle)[3])),
        mig_enabled=mig,
        mig=_instances(lib, handle) if mig else (),
    )


def _instances(lib: Any, handle: Any) -> tuple[str, ...]:
    """UUIDs of a GPU's MIG instances; slots without one are passed over."""
    found = []
    for index in range(int(lib.nvmlDeviceGetMaxMigDeviceCount(handle))):
        try:
            found.append(str(lib.nvmlDeviceGetUUID(lib.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))))
        except lib.NVMLError as error:
            if isinstance(error, lib.NVMLError_GpuIsLost):
                raise
    return tuple(found)


def _recovery_action(lib: Any, handle: Any) -> int | None:
    value = lib.nvmlDeviceGetFieldValues(handle, [_RECOVERY_ACTION_FIELD])[0]
    return int(value.value.uiVal) if value.nvmlReturn == lib.NVML_SUCCESS else None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _explain(lib: Any, error: Any) -> str:
    if isinstance(error, lib.NVMLError_LibraryNotFound):
        return (
            "libnvidia-ml.so.1 was not found: install NVIDIA's driver on this node, or run the agent with the "
            "runtime class that mounts it"
        )
    if isinstance(error, lib.NVMLError_DriverNotLoaded):
        return "NVIDIA's kernel driver is not loaded on this node: load it, or do not run the agent here"
    return f"NVML failed: {error}"


class _CallThread:
    """Runs one call at a time. A call that hangs keeps the thread; later calls fail at once until it is back."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._busy = threading.Event()
        self._thread: threading.Thread | None = None

    async def call(self, job: Callable[[], T], *, timeout_s: float) -> T:
        if self._busy.is_set():
            raise NodeUnreachable("NVML has not returned from an earlier call; the driver may hang")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="nvml", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            result: T | None = None
            failure: BaseException | None = None
            try:
                result = job()
            except BaseException as error:
                failure = error
            # Free before the answer is handed over: the one who waits for it may call again at once.
            self._busy.clear()
            _hand_over(loop, future, result=result, error=failure)

        self._busy.set()
        self._jobs.put(work)
        try:
            return await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            raise NodeUnreachable(f"NVML did not answer within {timeout_s:g} s; the driver may hang") from None

    def stop(self) -> None:
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _hand_over(
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[T],
    *,
    result: T | None = None,
    error: BaseException | None = None,
) -> None:
    def settle() -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:
        _LOG.debug("nvml answered after the agent had stopped")


class XidWatch(threading.Thread):
    """Waits for XID events of all devices."""

    def __init__(self, library: Any) -> None:
        super().__init__(name="nvml-events", daemon=True)
        self._lib = library
        self._found: deque[Xid] = deque(maxlen=MAX_XIDS_WAITING)
        self._stopped = threading.Event()

    def drain(self) -> list[Xid]:
        found = []
        while self._found:
            found.append(self._found.popleft())
        return found

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._listen()
            except self._lib.NVMLError as error:
                _LOG.warning("XID events cannot be read; trying again", error=str(error), retry_s=_EVENT_RETRY_S)
                self._stopped.wait(_EVENT_RETRY_S)

    def _listen(self) -> None:
        lib = self._lib
        lib.nvmlInit()
        events = None
        try:
            events = lib.nvmlEventSetCreate()
            registered = 0
            for index in range(min(int(lib.nvmlDeviceGetCount()), MAX_DEVICES)):
                registered += self._register(index, events)
            if not registered:
                self._stopped.wait(60 * _EVENT_RETRY_S)
                return
            while not self._stopped.is_set():
                self._wait(events)
        finally:
            try:
                if events is not None:
                    lib.nvmlEventSetFree(events)
                lib.nvmlShutdown()
            except lib.NVMLError as error:
                _LOG.debug("nvml event set not freed", error=str(error))

    def _register(self, index: int, events: Any) -> int:
        lib = self._lib
        try:
            handle = lib.nvmlDeviceGetHandleByIndex(index)
            if not int(lib.nvmlDeviceGetSupportedEventTypes(handle)) & lib.nvmlEventTypeXidCriticalError:
                return 0
            lib.nvmlDeviceRegisterEvents(handle, lib.nvmlEventTypeXidCriticalError, events)
        except lib.NVMLError as error:
            _LOG.warning("XIDs of a GPU cannot be watched", index=index, error=str(error))
            return 0
        return 1

    def _wait(self, events: Any) -> None:
        lib = self._lib
        try:
            event = lib.nvmlEventSetWait_v2(events, _EVENT_WAIT_MS)
        except lib.NVMLError_Timeout:
            return
        if int(event.eventType) != lib.nvmlEventTypeXidCriticalError:
            return
        try:
            uuid = str(lib.nvmlDeviceGetUUID(event.device))
        except lib.NVMLError:
            uuid = ""
        self._found.append(Xid(uuid, int(event.eventData)))
