"""Health, usage and the journal together: meters stand and go on, restarts forget nothing, releases count once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpulease.agent.client import Cursor, RecordPage
from gpulease.agent.collector import UsageCollector
from gpulease.ids import LeaseId
from gpulease.inventory.amounts import Amounts
from gpulease.inventory.facts import DeviceFacts, NodeFacts, XidEvent
from gpulease.inventory.placement import Grant, Overcommit, Placement
from gpulease.lease.states import CreditView
from gpulease.market.model import Lease, LeaseState
from gpulease.meter.records import GENESIS, UsageRecord
from gpulease.meter.usage import Usage
from gpulease.runtime.books import Books
from gpulease.runtime.health import DeviceHealth
from gpulease.runtime.stock import Held, Reservations
from gpulease.runtime.views import credit, credit_uact, quarantine_list
from gpulease.store.journal import Journal
from gpulease.units import DEC_SCALE, Dec, DecCoin

pytestmark = pytest.mark.contract
T0 = 1_750_000_000_000
LEASE = LeaseId("akash1tenant", 7, 1, 1, "akash1provider")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "j.db")


def record(
    seq: int, from_s: int, to_s: int, *, device: str = "GPU-0", namespace: str = "ns-a", open_: bool = True
) -> UsageRecord:
    return UsageRecord(
        seq, "n1", "b1", namespace, "web-0", "web", device, "", T0, T0 + from_s * 1000, T0 + to_s * 1000,
        (to_s - from_s) * 1000, 0, open_, 0, {}, None, GENESIS, f"{seq:064x}", "",
    )  # fmt: skip


class Pages:
    """An agent that has these records to give."""

    def __init__(self, *records: UsageRecord) -> None:
        self._records = records

    async def records(self, cursor: Cursor, *, limit: int = 1000) -> RecordPage:
        raw = tuple({"hash": r.hash, "seq": r.seq, "namespace": r.namespace} for r in self._records)
        end = Cursor(self._records[-1].seq, self._records[-1].hash, "k")
        return RecordPage("n1", "b1", raw, self._records, end, False, 0)


def look(*, at_s: int, xid: int | None = None, fault_s: int = 0, boot: str = "b1", **changes: Any) -> NodeFacts:
    events = () if xid is None else (XidEvent(T0 + fault_s * 1000, xid),)
    device = replace(DeviceFacts("GPU-0", 0, "NVIDIA A100-SXM4-80GB", xids=events), **changes)
    return NodeFacts("n1", boot, T0 + at_s * 1000, "570", (device, DeviceFacts("GPU-1", 1)))


async def test_the_meter_stops_at_the_fault_also_for_records_taken_before_it_was_learnt_of(journal: Journal) -> None:
    usage = UsageCollector(journal)
    health = DeviceHealth(journal, usage)
    await usage.collect("n1", Pages(record(1, 0, 10), record(2, 10, 20)))
    assert health.take(look(at_s=21, xid=79, fault_s=15)).namespaces == {"ns-a"}
    found = usage.usage("ns-a")
    assert found is not None
    assert (found.gpu_seconds, found.credited_seconds) == (15, 5)
    await usage.collect("n1", Pages(record(3, 20, 30)))
    found = usage.usage("ns-a")
    assert found is not None
    assert (found.gpu_seconds, found.credited_seconds, found.gpu_ms) == (15, 15, 30_000)
    assert [t.sign for t in health.troubles({"GPU-0"}, since_ms=T0)] == ["XID 79"]
    # A restart knows all of it, credits nothing twice, and the meter still stands.
    again_usage = UsageCollector(journal)
    again = DeviceHealth(journal, again_usage)
    assert again.sick == {"GPU-0"}
    again.take(look(at_s=31, xid=79, fault_s=15))
    await again_usage.collect("n1", Pages(record(4, 30, 40)))
    found = again_usage.usage("ns-a")
    assert found is not None
    assert (found.gpu_seconds, found.credited_seconds) == (15, 25)


async def test_a_tenants_own_xid_keeps_the_meter_running(journal: Journal) -> None:
    usage = UsageCollector(journal)
    health = DeviceHealth(journal, usage)
    await usage.collect("n1", Pages(record(1, 0, 10)))
    assert health.take(look(at_s=11, xid=31, fault_s=5)).namespaces == {"ns-a"}
    await usage.collect("n1", Pages(record(2, 10, 20)))
    found = usage.usage("ns-a")
    assert found is not None
    assert (found.gpu_seconds, found.credit_ms, health.sick) == (20, 0, frozenset())
    assert [(t.sign, t.tenant) for t in health.troubles({"GPU-0"}, since_ms=T0)] == [("XID 31", True)]
    assert health.troubles({"GPU-0"}, since_ms=T0 + 6000) == (), "the fault of an earlier holder is not this one's"


async def test_an_admins_release_counts_once_and_the_meter_goes_on_from_there(journal: Journal) -> None:
    usage = UsageCollector(journal)
    health = DeviceHealth(journal, usage)
    await usage.collect("n1", Pages(record(1, 0, 10)))
    health.take(look(at_s=11, xid=79, fault_s=10))
    health.release("ns/gp", ["GPU-0"])
    assert health.take(look(at_s=30, xid=79, fault_s=10)).changed
    assert health.sick == frozenset()
    await usage.collect("n1", Pages(record(2, 10, 40)))
    found = usage.usage("ns-a")
    assert found is not None
    assert (found.gpu_seconds, found.credited_seconds) == (20, 20)
    # The annotation still stands: a new fault is not waved through by it.
    health.take(replace(look(at_s=50, xid=79, fault_s=45)))
    assert health.sick == {"GPU-0"}
    restarted = DeviceHealth(journal, UsageCollector(journal))
    restarted.release("ns/gp", ["GPU-0"])
    restarted.take(look(at_s=55, xid=79, fault_s=45))
    assert restarted.sick == {"GPU-0"}
    # Taken away and put there again, it counts again.
    restarted.release("ns/gp", [])
    restarted.release("ns/gp", ["GPU-0"])
    restarted.take(look(at_s=60, xid=79, fault_s=45))
    assert restarted.sick == frozenset()


async def test_a_lease_that_gets_a_sick_device_pays_nothing_for_it(journal: Journal) -> None:
    usage = UsageCollector(journal)
    health = DeviceHealth(journal, usage)
    health.take(look(at_s=0, xid=79))
    await usage.collect("n1", Pages(record(1, 100, 110, namespace="ns-b")))
    health.take(look(at_s=111, xid=79))
    found = usage.usage("ns-b")
    assert found is not None
    assert (found.gpu_seconds, found.credited_seconds) == (0, 10)


async def test_a_silent_agent_changes_nothing_and_devices_are_remembered(journal: Journal) -> None:
    health = DeviceHealth(journal, UsageCollector(journal))
    assert health.take(look(at_s=0)).changed, "the first answer names the models"
    assert not health.take(look(at_s=5)).changed
    later = DeviceHealth(journal, UsageCollector(journal))
    assert [d.product for d in later.facts["n1"].devices] == ["NVIDIA A100-SXM4-80GB", ""]
    assert later.sick == frozenset()


def test_the_status_lists_what_is_in_quarantine_on_these_nodes(journal: Journal) -> None:
    health = DeviceHealth(journal, UsageCollector(journal))
    health.take(look(at_s=0, xid=79))
    listed = quarantine_list(health.quarantines.values(), frozenset({"n1"}))
    assert [(q["uuid"], q["sign"], q["heals"], q["since"]) for q in listed] == [
        ("GPU-0", "XID 79", "reboot", "2025-06-15T15:06:40Z")
    ]
    assert quarantine_list(health.quarantines.values(), frozenset({"n2"})) == []


def test_a_credit_is_the_devices_share_of_the_price_and_is_booked_once(journal: Journal) -> None:
    # 120 uact per block of 6 s, two devices, one of them sick for a minute: ten blocks of half the price.
    uact = credit_uact(120 * DEC_SCALE, credit_ms=60_000, devices=2, block_time_ns=6 * 10**9)
    assert uact == 600
    lease = Lease(LEASE, LeaseState.ACTIVE, DecCoin("uact", Dec.of(120)), 1)
    held = Held("k", "ns", {"n1": Amounts(gpus=2)}, {})
    # Devices that were exchanged meanwhile do not make the share smaller.
    used = Usage(credit_ms=60_000, devices=("GPU-0", "GPU-1", "GPU-2"))
    assert credit(used, lease, held, block_time_ns=6 * 10**9) == CreditView(60, 600)
    assert credit(Usage(), lease, held, block_time_ns=6 * 10**9) is None
    books = Books(journal, "chain", height=1)
    for _ in range(2):
        books.record_credit(f"credit/{LEASE}", owner=LEASE.owner, provider=LEASE.provider, uact=uact)
    assert Books(journal, "chain", height=1).ledger.balances(f"credit-owed/{LEASE.owner}") == {"uact": 600}
    assert books.ledger.balances(f"credit-given/{LEASE.provider}") == {"uact": -600}
    assert len(books.ledger) == 1


def test_a_reservation_keeps_what_was_promised(journal: Journal) -> None:
    placement = Placement(
        {1: {"n1": 2}},
        {"n1": Amounts(1000, 2, 3, 0, (("nvidia.com/mig-1g.10gb", 2),))},
        {},
        {1: Grant("gpu.nvidia.com/gpu-a100", "gpu.nvidia.com", "device.driver == 'x'")},
        Overcommit(50, 10),
    )
    held = Reservations(journal, "akash1provider")
    held.hold(str(LEASE), "ns", placement)
    found = Reservations(journal, "akash1provider").get(str(LEASE))
    assert found is not None
    assert (found.nodes, found.grants, found.overcommit) == (placement.nodes, placement.grants, Overcommit(50, 10))
    # One written before devices had names of their own.
    journal.put("reservation", "old", {"namespace": "x", "nodes": {"n1": [1, 2, 3, 4]}, "replicas": {"1": {"n1": 1}}})
    old = held.get("old")
    assert old is not None
    assert (old.nodes["n1"], old.grants, old.overcommit) == (Amounts(1, 2, 3, 4), {}, Overcommit())
