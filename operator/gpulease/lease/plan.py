"""The provider's side of a lease: from what is known to what to do next.

A lease that the chain calls active gets its HostedLease, its workload once the tenant's manifest matches the chain's
hash, and withdrawals as the settlement policy asks. A lease that the chain calls closed twice, at least one block
apart, loses its namespace. Anything unknown changes nothing.
"""

from __future__ import annotations

from dataclasses import replace
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
    ReleaseCapacity,
    RememberClosed,
    Withdraw,
)
from gpulease.market.model import Lease, LeaseState
from gpulease.planning import NS_PER_S, Condition

REASON_MANIFEST_TIMEOUT = 10003
"""akash.market.v1 LeaseClosedReason: manifest timeout."""

_RETRY_S = 5.0
_LIVE = (LeaseState.ACTIVE, LeaseState.RECLAIMING)


def decide(seen: ObservedLease, policy: Policy) -> Plan:
    """One step for one lease."""
    if seen.lease is None or not seen.hosted_known:
        return Plan(requeue_after_s=_RETRY_S)
    lease = seen.lease.value
    if lease is None:
        return _never_existed(seen)
    if lease.state in _LIVE:
        return replace(_live(seen, policy, lease), figures=_figures(seen))
    return _closed(seen, policy, lease, seen.lease.height)


def _figures(seen: ObservedLease) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    if seen.gpu_seconds is not None:
        figures["gpuSeconds"] = seen.gpu_seconds
    if seen.money is not None:
        figures["withdrawnUact"] = seen.money.withdrawn_uact
        figures["owedUact"] = seen.money.owed_uact
        if seen.money.run_out_height is not None:
            figures["runOutHeight"] = seen.money.run_out_height
    return figures


def _never_existed(seen: ObservedLease) -> Plan:
    if seen.hosted is None:
        return Plan(actions=(ReleaseCapacity(),))
    condition = Condition.unknown(
        "Ready",
        "LeaseNotOnChain",
        "The chain knows no such lease although one was recorded; nothing is deleted. "
        "Check that the chain endpoints belong to the chain this lease was won on.",
    )
    return Plan(conditions=(condition,), requeue_after_s=60.0)


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


def _awaiting_manifest(
    seen: ObservedLease, policy: Policy, lease: Lease, actions: list[Action], paid: tuple[Condition, ...]
) -> Plan:
    if seen.workload is not None and seen.workload.verdict is not None:
        words = (
            "The manifest kept for this lease is gone. What runs goes on; it is changed when the tenant sends it again."
        )
        missing = Condition.false("ManifestReceived", "ManifestMissing", words)
        return Plan(tuple(actions), conditions=(missing, *paid), requeue_after_s=30.0)
    waited_s = (seen.height - lease.created_at) * seen.block_time_ns / NS_PER_S
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
    return Plan((ReleaseCapacity(),), HostedState.CLOSED, conditions, facts, policy.retention_s)
