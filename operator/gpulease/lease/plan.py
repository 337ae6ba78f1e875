"""The provider's side of a lease: from what is known to what to do next.

A lease that the chain calls active gets its HostedLease, its workload once the tenant's manifest matches the chain's
hash, and withdrawals as the settlement policy asks. A lease that the chain calls closed twice, at least one block
apart, loses its namespace. Anything unknown changes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from gpulease.lease.states import (
    Action,
    ApplyWorkload,
    CloseBid,
    CreateHosted,
    DeleteNamespace,
    ForgetHosted,
    HostedState,
    ObservedLease,
    Plan,
    Policy,
    RecordCredit,
    ReleaseCapacity,
    RememberClosed,
    RememberDrain,
    RememberOrphan,
    StartReclaim,
    StopPods,
    Withdraw,
)
from gpulease.market.model import Lease, LeaseState
from gpulease.planning import NS_PER_S, Condition

REASON_DECOMMISSION = 10001
"""akash.market.v1 LeaseClosedReason: the provider takes the hardware out of service."""
REASON_MANIFEST_TIMEOUT = 10003
"""akash.market.v1 LeaseClosedReason: manifest timeout."""

_RETRY_S = 5.0
_ORPHAN_AGAIN_S = 300.0
_DEVICES, _RECLAIM = "DeviceHealthy", "Reclaiming"
_MOST_NAMED = 5
_LAST_UNIX_S = 253_402_300_799
"""The end of the year 9999, beyond which a date cannot be written."""
_LIVE = (LeaseState.ACTIVE, LeaseState.RECLAIMING)


def decide(seen: ObservedLease, policy: Policy) -> Plan:
    """One step for one lease."""
    if seen.lease is None or not seen.hosted_known:
        return Plan(requeue_after_s=_RETRY_S)
    lease = seen.lease.value
    if lease is None:
        return _never_existed(seen)
    if lease.state in _LIVE:
        plan = _with_drain(_with_troubles(_live(seen, policy, lease), seen), seen, lease)
        return replace(plan, figures=_figures(seen))
    return _closed(seen, policy, lease, seen.lease.height)


def _figures(seen: ObservedLease) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    if seen.gpu_seconds is not None:
        figures["gpuSeconds"] = seen.gpu_seconds
    if seen.credit is not None and seen.credit.seconds:
        figures["creditedSeconds"] = seen.credit.seconds
        figures["creditUact"] = seen.credit.uact
    if seen.money is not None:
        figures["withdrawnUact"] = seen.money.withdrawn_uact
        figures["owedUact"] = seen.money.owed_uact
        if seen.money.run_out_height is not None:
            figures["runOutHeight"] = seen.money.run_out_height
    return figures


def _never_existed(seen: ObservedLease) -> Plan:
    if seen.hosted is None:
        return _orphan(seen)
    condition = Condition.unknown(
        "Ready",
        "LeaseNotOnChain",
        "The chain knows no such lease although one was recorded; nothing is deleted. "
        "Check that the chain endpoints belong to the chain this lease was won on.",
    )
    return Plan(conditions=(condition,), requeue_after_s=60.0)


def _orphan(seen: ObservedLease) -> Plan:
    """A namespace of ours whose lease the chain does not know: reported, and stopped after a second such answer.

    It is not deleted: whoever restores a chain node from an old copy must not lose what tenants keep.
    """
    height = seen.lease.height if seen.lease is not None else seen.height
    if seen.workload is None or not seen.workload.namespace_exists or seen.workload.namespace_terminating:
        return Plan((ReleaseCapacity(),))
    block_s = seen.block_time_ns / NS_PER_S
    if seen.orphan_seen_height is None:
        return Plan((RememberOrphan(height),), requeue_after_s=block_s)
    if height <= seen.orphan_seen_height:
        return Plan(requeue_after_s=block_s)
    return Plan((StopPods(),), requeue_after_s=_ORPHAN_AGAIN_S)


def _told(seen: ObservedLease, type_: str) -> bool:
    """Whether the object already carries a condition of this type, which then has to be kept true."""
    conditions = (seen.hosted.status.get("conditions") or ()) if seen.hosted is not None else ()
    return any(isinstance(c, dict) and c.get("type") == type_ for c in conditions)


def _with_troubles(plan: Plan, seen: ObservedLease) -> Plan:
    """What the lease's devices have, told on the lease: whose doing it is decides who pays for the time."""
    if not seen.troubles:
        if not _told(seen, _DEVICES):
            return plan
        well = Condition.true(_DEVICES, "Healthy", "No trouble with the lease's devices is known.")
        return replace(plan, conditions=(*plan.conditions, well))
    worst = min(seen.troubles, key=lambda t: (not t.stops_meter, t.tenant, t.uuid))
    words = f"{worst.sign} on {worst.uuid}: {worst.words}."
    if worst.tenant:
        told = Condition.true(_DEVICES, "ApplicationFault", f"{words} The device is well and the lease goes on.")
        return replace(plan, conditions=(*plan.conditions, told))
    if not worst.stops_meter:
        told = Condition.false(_DEVICES, "DeviceWatched", f"{words} The lease goes on; the device is not sold again.")
        return replace(plan, conditions=(*plan.conditions, told))
    told = Condition.false(_DEVICES, "DeviceFaulty", f"{words} The time since the fault is not billed but credited.")
    others = tuple(c for c in plan.conditions if c.type != "Ready")
    ready = Condition.false("Ready", "DeviceFaulty", told.message)
    state = HostedState.DEGRADED if plan.state is HostedState.RUNNING else plan.state
    return replace(plan, state=state, conditions=(ready, *others, told))


def _with_drain(plan: Plan, seen: ObservedLease, lease: Lease) -> Plan:
    """A cordoned node: notice on chain, the promised window, then the close. Seen twice before anything is said."""
    drain = seen.drain
    if lease.state is LeaseState.RECLAIMING:
        return _reclaiming(plan, seen, lease)
    if drain is None or not drain.nodes:
        if not _told(seen, _RECLAIM):
            return plan
        over = Condition.false(_RECLAIM, "NotDrained", "No node of the lease is being drained.")
        return replace(plan, conditions=(*plan.conditions, over), facts={**plan.facts, "drainSeenHeight": 0})
    named = ", ".join(drain.nodes[:_MOST_NAMED])
    block_s = seen.block_time_ns / NS_PER_S
    if lease.reclamation_window_s is None:
        words = (
            f"Node {named} is cordoned. This lease was made without a reclamation window, so it goes on until its "
            "tenant closes it."
        )
        condition = Condition.false(_RECLAIM, "NoWindow", words)
        return replace(plan, conditions=(*plan.conditions, condition))
    if not drain.seen_height:
        return replace(plan, actions=(*plan.actions, RememberDrain(seen.height)), requeue_after_s=block_s)
    if seen.height <= drain.seen_height:
        return replace(plan, requeue_after_s=block_s)
    words = f"Node {named} is being drained: the lease ends {lease.reclamation_window_s} s after notice on chain."
    notice = Condition.true(_RECLAIM, "NoticeGiven", words)
    start = StartReclaim(REASON_DECOMMISSION, f"reclaim/{seen.id}")
    actions, conditions = (*plan.actions, start), (*plan.conditions, notice)
    return replace(plan, actions=actions, conditions=conditions, requeue_after_s=max(block_s, 1.0))


def _reclaiming(plan: Plan, seen: ObservedLease, lease: Lease) -> Plan:
    words = "The provider takes the lease's hardware out of service"
    if seen.drain is not None and not seen.drain.nodes:
        kept = Condition.true(_RECLAIM, "Kept", f"{words} no more: the lease goes on although notice was given.")
        return replace(plan, conditions=(*plan.conditions, kept))
    until = "" if lease.reclamation_deadline_s is None else f" before {_utc(lease.reclamation_deadline_s)}"
    running = Condition.true(_RECLAIM, "WindowRunning", f"{words}: move on{until}.")
    plan = replace(plan, conditions=(*plan.conditions, running))
    if seen.drain is None or lease.reclamation_deadline_s is None:
        return plan
    left_s = lease.reclamation_deadline_s - seen.now_ns / NS_PER_S
    if left_s <= 0 and not any(isinstance(action, CloseBid) for action in plan.actions):
        close = CloseBid(REASON_DECOMMISSION, f"close-bid/reclaimed/{seen.id}")
        plan = replace(plan, actions=(*plan.actions, close))
    again_s = max(left_s, 1.0)
    return replace(plan, requeue_after_s=min(again_s, plan.requeue_after_s or again_s))


def _utc(unix_s: int) -> str:
    return datetime.fromtimestamp(min(max(unix_s, 0), _LAST_UNIX_S), tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _live(seen: ObservedLease, policy: Policy, lease: Lease) -> Plan:
    actions: list[Action] = []
    if seen.hosted is None:
        actions.append(CreateHosted())
    if seen.money is not None and seen.money.withdraw_now:
        actions.append(Withdraw(seen.money.withdraw_key))
    paid = _paid(seen)
    if not seen.manifest_known or seen.deployment is None or seen.deployment.value is None:
        return Plan(tuple(actions), requeue_after_s=_RETRY_S)
    if seen.manifest is None:
        return _awaiting_manifest(seen, policy, lease, actions, paid)
    problem = seen.manifest.problem
    if problem is None and seen.manifest.hash != seen.deployment.value.hash:
        problem = (
            f"the manifest's hash {seen.manifest.hash.hex()} is not the deployment's "
            f"{seen.deployment.value.hash.hex()}; send the manifest that belongs to the deployment on chain"
        )
    if problem is not None:
        refused = Condition.false("ManifestReceived", "ManifestRefused", problem)
        ready = Condition.false("Ready", "ManifestRefused", problem)
        return Plan(tuple(actions), HostedState.AWAITING_MANIFEST, (ready, refused, *paid), requeue_after_s=30.0)
    return _deployed(seen, actions, paid)


def _waited_s(seen: ObservedLease, lease: Lease) -> float:
    """How long the tenant had a provider to send the manifest to: our own outages do not count."""
    on_chain_s = (seen.height - lease.created_at) * seen.block_time_ns / NS_PER_S
    noticed_ns = seen.hosted.noticed_at_ns if seen.hosted is not None else seen.now_ns
    return min(on_chain_s, (seen.now_ns - max(noticed_ns, seen.up_since_ns)) / NS_PER_S)


def _awaiting_manifest(
    seen: ObservedLease, policy: Policy, lease: Lease, actions: list[Action], paid: tuple[Condition, ...]
) -> Plan:
    if seen.workload is not None and seen.workload.verdict is not None:
        words = (
            "The manifest kept for this lease is gone. What runs goes on; it is changed when the tenant sends it again."
        )
        missing = Condition.false("ManifestReceived", "ManifestMissing", words)
        return Plan(tuple(actions), conditions=(missing, *paid), requeue_after_s=30.0)
    waited_s = _waited_s(seen, lease)
    # Unknown is not empty: while the cluster does not answer, something may run. Nor is a lease given up in the very
    # step that takes notice of it, as after a long outage.
    if waited_s >= policy.manifest_timeout_s and seen.workload is not None and seen.hosted is not None:
        actions.append(CloseBid(REASON_MANIFEST_TIMEOUT, f"close-bid/{seen.id}"))
    left_s = policy.manifest_timeout_s - waited_s
    # No countdown: it would rewrite the object at every look.
    limit_s = f"{policy.manifest_timeout_s:.0f}"
    message = f"Waiting for the tenant's manifest; without one the lease is given up after {limit_s} s."
    conditions = (
        Condition.false("Ready", "AwaitingManifest", message),
        Condition.false("ManifestReceived", "AwaitingManifest", message),
        *paid,
    )
    return Plan(
        tuple(actions), HostedState.AWAITING_MANIFEST, conditions, requeue_after_s=left_s if left_s > 0 else _RETRY_S
    )


def _deployed(seen: ObservedLease, actions: list[Action], paid: tuple[Condition, ...]) -> Plan:
    assert seen.manifest is not None
    received = Condition.true("ManifestReceived", "HashMatches", "The manifest matches the deployment on chain.")
    if seen.workload is None:
        return Plan(tuple(actions), conditions=(received, *paid), requeue_after_s=_RETRY_S)
    if seen.workload.namespace_terminating:
        blocked = Condition.false(
            "Ready", "NamespaceTerminating", "The old namespace of this lease is still being deleted."
        )
        return Plan(tuple(actions), conditions=(blocked, received, *paid), requeue_after_s=_RETRY_S)
    if seen.objects_differ:
        actions.append(ApplyWorkload(seen.manifest.hash))
    facts: dict[str, Any] = {}
    if seen.workload.device_uuids:
        facts["deviceUUIDs"] = list(seen.workload.device_uuids)
    if seen.workload.verdict == "Running":
        ready = Condition.true("Ready", "Running", "Every service has its replicas ready.")
        running = Condition.true("Running", "Running", "Every service has its replicas ready.")
        return Plan(tuple(actions), HostedState.RUNNING, (ready, received, running, *paid), facts, _next_money_s(seen))
    state = HostedState.DEGRADED if seen.workload.verdict == "Degraded" else HostedState.DEPLOYING
    reason = seen.workload.reason or "Deploying"
    message = seen.workload.message or "The workload is being created."
    conditions = (
        Condition.false("Ready", reason, message),
        received,
        Condition.false("Running", reason, message),
        *paid,
    )
    return Plan(tuple(actions), state, conditions, facts, 30.0)


def _paid(seen: ObservedLease) -> tuple[Condition, ...]:
    if seen.money is None:
        return ()
    if seen.money.run_out_height is not None and seen.money.run_out_height <= seen.height:
        return (Condition.false("Paid", "EscrowEmpty", "The tenant's escrow account has run out."),)
    return (Condition.true("Paid", "EscrowFunded", "The tenant's escrow account covers the coming blocks."),)


def _next_money_s(seen: ObservedLease) -> float | None:
    if seen.money is None:
        return 60.0
    if seen.money.next_check_height is None:
        return None
    blocks = max(seen.money.next_check_height - seen.height, 1)
    return max(blocks * seen.block_time_ns / NS_PER_S, 0.2)


def _closed(seen: ObservedLease, policy: Policy, lease: Lease, height: int) -> Plan:
    if seen.hosted is None:
        # Nothing was ever started here, or the record's retention is over.
        leftover = seen.workload is not None and seen.workload.namespace_exists
        actions: tuple[Action, ...] = (CreateHosted(),) if leftover else (ReleaseCapacity(),)
        return Plan(actions, requeue_after_s=_RETRY_S if leftover else None)
    facts = {"closeReason": lease.reason or lease.state.value, "closedHeight": lease.closed_on}
    words = f"The lease was closed on chain at height {lease.closed_on} ({facts['closeReason']})."
    if seen.hosted.closed_seen_height is None:
        return Plan(
            (RememberClosed(height),),
            HostedState.CLOSING,
            (Condition.false("Ready", "Closing", words),),
            facts,
            seen.block_time_ns / NS_PER_S,
        )
    if height < seen.hosted.closed_seen_height + 1 or seen.workload is None:
        return Plan(requeue_after_s=seen.block_time_ns / NS_PER_S)
    if seen.workload.namespace_exists:
        uid = seen.workload.namespace_uid
        if seen.workload.namespace_terminating or uid is None:
            return Plan(requeue_after_s=1.0)
        return Plan((DeleteNamespace(uid),), requeue_after_s=1.0)
    if seen.hosted.closed_at_ns is not None:
        left_s = policy.retention_s - (seen.now_ns - seen.hosted.closed_at_ns) / NS_PER_S
        if left_s <= 0:
            return Plan((ForgetHosted(),))
        return Plan((ReleaseCapacity(),), requeue_after_s=left_s)
    conditions = (
        Condition.false("Ready", "Closed", words),
        Condition.false("Running", "Closed", words),
        Condition.true("Closed", "Closed", words),
    )
    # The books of a closed lease stand still: its last figures are facts.
    facts |= _figures(seen) | {"owedUact": 0}
    last: tuple[Action, ...] = (ReleaseCapacity(),)
    if seen.credit is not None and seen.credit.uact:
        last = (RecordCredit(seen.credit.uact, f"credit/{seen.id}"), *last)
    return Plan(last, HostedState.CLOSED, conditions, facts, policy.retention_s)
