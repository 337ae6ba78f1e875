"""The tenant's side of a lease: from what is known to what to do next.

The order of questions is the order of the story: is the object ours, can it pay, is it on chain, who bid, who won, has
the winner its manifest, does it run, does the money last. The first question without a good answer ends the step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gpulease.market.model import (
    Deployment,
    DeploymentState,
    Lease,
    LeaseState,
    Order,
    OrderState,
)
from gpulease.planning import NS_PER_S, Condition
from gpulease.tenancy.bids import Choice, choose
from gpulease.tenancy.money import describe_funds, figures, spent_facts, usd_per_hour, usd_words
from gpulease.tenancy.states import (
    Action,
    AskStatus,
    Claim,
    CloseDeployment,
    CreateDeployment,
    CreateLease,
    ObservedTenant,
    Plan,
    Release,
    SendManifest,
    TenantState,
    TopUp,
    UpdateDeployment,
)
from gpulease.units import UACT, UAKT, uact_to_usd

_SOON_S = 1.0
_RETRY_S = 5.0
_SLOW_S = 30.0
_STARTING = ("ChainUnknown", "BlockTimeUnknown")
"""A chain that was not read yet is no news: nothing is said, claimed or sent until it was, or could not be."""
_SILENCE = ("ChainUnreachable", "ChainWentBack")
_ORDER_ANEW = "Delete this object and apply it again to order anew."
FEE_RESERVE_UAKT = 50_000
"""What a wallet needs beyond the deposit to pay for the transactions of one lease."""


def decide(seen: ObservedTenant) -> Plan:
    """One step for one GPULease."""
    if seen.deleting:
        return _deleting(seen)
    if seen.wanted.problem is not None:
        return _stuck(seen, "SpecRefused", seen.wanted.problem, TenantState.FAILED, _SLOW_S)
    if seen.wallet.problem is not None or seen.wallet.address is None:
        reason, words = seen.wallet.problem or ("WalletMissing", "The wallet could not be read.")
        return _stuck(seen, reason, words, TenantState.PENDING, _SLOW_S, Condition.false("WalletReady", reason, words))
    if seen.chain_problem is not None:
        reason, words = seen.chain_problem
        if reason in _STARTING:
            return Plan(requeue_after_s=_SOON_S)
        return _stuck(seen, reason, words, None, _RETRY_S)
    if not seen.finalizer_held or seen.deployment_id is None:
        return Plan((Claim(),), requeue_after_s=_SOON_S)
    if seen.deployment is None:
        return Plan(requeue_after_s=_RETRY_S)
    if seen.deployment.value is None:
        return _not_ordered(seen)
    plan = _ordered(seen, seen.deployment.value)
    return replace(plan, figures={**plan.figures, **figures(seen, seen.deployment.value)})


def _stuck(
    seen: ObservedTenant,
    reason: str,
    words: str,
    state: TenantState | None,
    after_s: float,
    *more: Condition,
) -> Plan:
    # While the chain is silent nobody knows whether the lease is well: that is not the same as knowing it is not.
    ready = Condition.unknown if reason in _SILENCE else Condition.false
    return Plan((), state, (ready("Ready", reason, words), *more), {}, after_s)


def _deleting(seen: ObservedTenant) -> Plan:
    if not seen.finalizer_held:
        return Plan()
    if seen.abandoned:
        return Plan((Release(),))
    if seen.deployment_id is None:
        return Plan((Release(),))
    way_out = (
        f"To delete the object without closing deployment {seen.deployment_id.dseq} (its deposit stays on chain), "
        "annotate it with gpulease.dev/abandon=true."
    )
    known = seen.deployment.value if seen.deployment is not None else None
    if known is not None and known.state is DeploymentState.CLOSED:
        # Closed is final, and to let go of it needs no wallet.
        return Plan((Release(),), TenantState.CLOSED, (), spent_facts(seen, known))
    if seen.wallet.problem is not None or seen.wallet.address is None:
        reason, words = seen.wallet.problem or ("WalletMissing", "The wallet could not be read.")
        return _stuck(seen, reason, f"{words} {way_out}", TenantState.CLOSING, _SLOW_S)
    if seen.chain_problem is not None:
        reason, words = seen.chain_problem
        if reason in _STARTING:
            return Plan(requeue_after_s=_SOON_S)
        return _stuck(seen, reason, f"{words} {way_out}", TenantState.CLOSING, _RETRY_S)
    if seen.deployment is None:
        return Plan(requeue_after_s=_RETRY_S)
    if known is None:
        return _deleting_unseen(seen, seen.deployment.height, way_out)
    close_key = f"close/{seen.deployment_id}"
    closing = Condition.false("Ready", "Closing", "The deployment is being closed on chain.")
    if seen.close_tx is not None and seen.close_tx.refusal is not None:
        words = f"The close transaction was refused: {seen.close_tx.refusal}. It is tried again. {way_out}"
        return Plan((CloseDeployment(close_key),), TenantState.CLOSING, (closing_failed(words),), {}, _SLOW_S)
    actions: tuple[Action, ...] = () if seen.close_tx is not None else (CloseDeployment(close_key),)
    return Plan(actions, TenantState.CLOSING, (closing,), {}, _SOON_S)


def _surely_absent(seen: ObservedTenant, height: int) -> bool:
    """No deposit can be on chain: said twice, a block apart, and no create transaction says otherwise."""
    if seen.deploy_tx is not None and seen.deploy_tx.refusal is None:
        # Under way, or in a block that the node asked has not reached.
        return False
    return seen.deployment_absent_height is not None and height > seen.deployment_absent_height


def _deleting_unseen(seen: ObservedTenant, height: int, way_out: str) -> Plan:
    if _surely_absent(seen, height):
        return Plan((Release(),))
    sent = seen.deploy_tx
    if sent is None or sent.refusal is not None or sent.height is None or height <= sent.height:
        return Plan(requeue_after_s=_SOON_S)
    words = (
        f"The deployment was created at height {sent.height}, but the chain's answer as of height {height} does not "
        f"know it. Check that the endpoints belong to the same chain as before. {way_out}"
    )
    return _stuck(seen, "DeploymentNotOnChain", words, TenantState.CLOSING, _SLOW_S)


def closing_failed(words: str) -> Condition:
    return Condition.false("Ready", "CloseRefused", words)


def _not_ordered(seen: ObservedTenant) -> Plan:
    assert seen.deployment_id is not None
    if seen.deploy_tx is not None and seen.deploy_tx.refusal is not None:
        words = (
            f"The chain refused the deployment: {seen.deploy_tx.refusal}. "
            "Correct the spec or the wallet, then delete this object and apply it again."
        )
        return _stuck(
            seen,
            "DeploymentRefused",
            words,
            TenantState.FAILED,
            _SLOW_S,
            Condition.false("Ordered", "DeploymentRefused", words),
        )
    if seen.deploy_tx is not None:
        return Plan(requeue_after_s=_SOON_S)
    shortage = _shortage(seen)
    if shortage is not None:
        wallet = Condition.false("WalletReady", "InsufficientFunds", shortage)
        return _stuck(seen, "InsufficientFunds", shortage, TenantState.PENDING, _RETRY_S, wallet)
    if seen.balances is None:
        return Plan(requeue_after_s=_RETRY_S)
    return Plan((CreateDeployment(f"deploy/{seen.deployment_id}"),), requeue_after_s=_SOON_S)


def _shortage(seen: ObservedTenant) -> str | None:
    if seen.balances is None:
        return None
    uact, uakt = seen.balances.value.get(UACT, 0), seen.balances.value.get(UAKT, 0)
    missing = []
    if uact < seen.wanted.deposit_uact:
        missing.append(f"{seen.wanted.deposit_uact - uact}{UACT} for the deposit")
    if uakt < FEE_RESERVE_UAKT:
        missing.append(f"{FEE_RESERVE_UAKT - uakt}{UAKT} for fees")
    if not missing:
        return None
    return f"The wallet {seen.wallet.address} lacks {' and '.join(missing)}; send them to it."


def _ordered(seen: ObservedTenant, deployment: Deployment) -> Plan:
    wallet = Condition.true("WalletReady", "Funded", "The wallet can pay.")
    ordered = Condition.true("Ordered", "OnChain", f"Deployment {deployment.id.dseq} is on chain.")
    base = (wallet, ordered)
    if deployment.state is DeploymentState.CLOSED:
        reason = _close_reason(seen)
        words = f"Deployment {deployment.id.dseq} was closed on chain ({reason}). {_ORDER_ANEW}"
        return Plan(
            (),
            TenantState.CLOSED,
            (
                Condition.false("Ready", "DeploymentClosed", words),
                Condition.false("Running", "DeploymentClosed", words),
                *base,
            ),
            spent_facts(seen, deployment),
            None,
        )
    if seen.leases is None or seen.orders is None or seen.bids is None:
        return Plan((), None, base, {}, _RETRY_S)
    live = next((x for x in seen.leases.value if x.state in (LeaseState.ACTIVE, LeaseState.RECLAIMING)), None)
    if live is not None:
        return _leased(seen, deployment, live, base)
    order = next((x for x in seen.orders.value if x.state is OrderState.OPEN), None)
    if order is None:
        if not _lease_ended(seen.orders.value, seen.leases.value):
            return Plan((), None, base, {}, _RETRY_S)
        words = f"The lease was closed on chain ({_close_reason(seen)}). {_ORDER_ANEW}"
        return Plan(
            (),
            TenantState.FAILED,
            (Condition.false("Ready", "LeaseClosed", words), Condition.false("Running", "LeaseClosed", words), *base),
            spent_facts(seen, deployment),
            _SLOW_S,
        )
    return _bidding(seen, order, base)


def _lease_ended(orders: tuple[Order, ...], leases: tuple[Lease, ...]) -> bool:
    """Orders and leases are two answers: an order in use without a live lease only says that one of them is older."""
    if any(order.state is OrderState.ACTIVE for order in orders):
        return False
    return bool(orders or leases)


def _close_reason(seen: ObservedTenant) -> str:
    if seen.leases is not None:
        for lease in seen.leases.value:
            if lease.state is LeaseState.INSUFFICIENT_FUNDS:
                return "the funds ran out"
            if lease.reason:
                return lease.reason.removeprefix("lease_closed_").removeprefix("reason_").replace("_", " ")
    return "no reason given"


def _bidding(seen: ObservedTenant, order: Order, base: tuple[Condition, ...]) -> Plan:
    assert seen.bids is not None
    bids = [bid for bid in seen.bids.value if bid.id.order == order.id]
    choice = choose(bids, ceiling=seen.wanted.max_uact_per_block, providers=seen.providers)
    waited_s = (seen.height - order.created_at) * seen.block_time_ns / NS_PER_S
    if waited_s < seen.wanted.bid_window_s:
        words = f"Collecting bids for {seen.wanted.bid_window_s:.0f} s."
        conditions = (Condition.false("Ready", "CollectingBids", words), *base)
        # The list of bids is written once, with the choice: not at every bid.
        return Plan((), TenantState.BIDDING, conditions, {}, max(seen.wanted.bid_window_s - waited_s, 0.2))
    if choice.winner is None:
        reason = _no_bid_reason(seen, choice)
        words = _why_no_bid(seen, choice)
        conditions = (
            Condition.false("Ready", reason, words),
            Condition.false("BidAccepted", reason, words),
            *base,
        )
        bids_seen = {"bids": _bid_facts(seen, choice)}
        # A new bid is an event: until then there is nothing to ask for.
        return Plan((), TenantState.BIDDING, conditions, {}, _SLOW_S, bids_seen)
    if seen.lease_tx is not None and seen.lease_tx.refusal is not None:
        words = f"The lease with {choice.winner.provider} was refused: {seen.lease_tx.refusal}; it is tried again."
        return Plan(
            (CreateLease(choice.winner, f"lease/{choice.winner}"),),
            None,
            (Condition.false("Ready", "LeaseRefused", words), *base),
            {},
            _RETRY_S,
        )
    if seen.lease_tx is not None:
        return Plan((), None, (), {}, _SOON_S)
    return Plan((CreateLease(choice.winner, f"lease/{choice.winner}"),), None, (), {}, _SOON_S)


def _no_bid_reason(seen: ObservedTenant, choice: Choice) -> str:
    if not choice.judged:
        return "NoBids"
    too_dear = all(entry.bid.price.amount > seen.wanted.max_uact_per_block for entry in choice.judged)
    return "BidsTooDear" if too_dear else "NoAcceptableBid"


def _why_no_bid(seen: ObservedTenant, choice: Choice) -> str:
    limit = usd_words(seen.wanted.max_uact_per_block, seen.block_time_ns)
    if choice.judged:
        cheapest = choice.judged[0]
        offered = usd_words(cheapest.bid.price.amount, seen.block_time_ns)
        return (
            f"No acceptable bid among {len(choice.judged)}: the best is {offered} USD/h and {cheapest.reason}; "
            f"the limit is {limit} USD/h."
        )
    offers = seen.market_offers or "what providers offer is not known yet"
    return (
        f"No provider has bid for {seen.wanted.gpu_words} at up to {limit} USD/h. On offer: {offers}. "
        "Ask for one of these, raise maxUsdPerHour, or wait: the order stays open."
    )


def _bid_facts(seen: ObservedTenant, choice: Choice) -> list[dict[str, Any]]:
    return [
        {
            "provider": entry.bid.id.provider,
            "priceUactPerBlock": str(entry.bid.price.amount),
            "usdPerHour": usd_per_hour(entry.bid.price.amount, seen.block_time_ns),
            "accepted": entry.bid.id == choice.winner,
            "reason": choice.reason if entry.bid.id == choice.winner else entry.reason,
        }
        for entry in choice.judged[:20]
    ]


def _leased(seen: ObservedTenant, deployment: Deployment, lease: Lease, base: tuple[Condition, ...]) -> Plan:
    provider = seen.providers.get(lease.id.provider)
    if provider is None:
        return Plan((), None, base, {}, _RETRY_S)
    facts: dict[str, Any] = {
        "provider": lease.id.provider,
        "gatewayURI": provider.host_uri,
        "priceUactPerBlock": str(lease.price.amount),
    }
    accepted = Condition.true("BidAccepted", "Leased", f"Leased from {lease.id.provider}.")
    funded, money_actions = _money(seen)
    base = (*base, accepted, *funded)
    if deployment.hash != seen.wanted.manifest_hash:
        plan = _changed(seen, base, facts, money_actions)
    elif seen.gateway.sent_hash != seen.wanted.manifest_hash:
        plan = _unsent(seen, lease, provider.host_uri, base, facts, money_actions)
    else:
        plan = _running(seen, lease, provider.host_uri, base, facts, money_actions)
    return replace(plan, figures=_rates(seen, lease))


def _rates(seen: ObservedTenant, lease: Lease) -> dict[str, Any]:
    """Prices per hour follow the measured pace of the blocks: they are figures, however fixed the price per block."""
    rates: dict[str, Any] = {"usdPerHour": usd_per_hour(lease.price.amount, seen.block_time_ns)}
    if seen.bids is not None:
        bids = [bid for bid in seen.bids.value if bid.id.order == lease.id.order]
        rates["bids"] = [
            {
                "provider": bid.id.provider,
                "priceUactPerBlock": str(bid.price.amount),
                "usdPerHour": usd_per_hour(bid.price.amount, seen.block_time_ns),
                "accepted": bid.id == lease.id,
                "reason": "cheapest acceptable bid" if bid.id == lease.id else f"the bid is {bid.state.value}",
            }
            for bid in sorted(bids, key=lambda b: (b.price.amount.raw, b.id.provider))[:20]
        ]
    return rates


def _changed(
    seen: ObservedTenant, base: tuple[Condition, ...], facts: dict[str, Any], money: tuple[Action, ...]
) -> Plan:
    assert seen.deployment_id is not None
    key = f"update/{seen.deployment_id}/{seen.wanted.manifest_hash.hex()[:16]}"
    if seen.update_tx is not None and seen.update_tx.refusal is not None:
        words = f"The chain refused the new manifest hash: {seen.update_tx.refusal}."
        return Plan(money, None, (Condition.false("ManifestSent", "UpdateRefused", words), *base), facts, _SLOW_S)
    actions: tuple[Action, ...] = money if seen.update_tx is not None else (*money, UpdateDeployment(key))
    return Plan(actions, None, base, {}, _SOON_S)


def _unsent(
    seen: ObservedTenant,
    lease: Lease,
    uri: str,
    base: tuple[Condition, ...],
    facts: dict[str, Any],
    money: tuple[Action, ...],
) -> Plan:
    if seen.gateway.problem is None:
        return Plan((*money, SendManifest(lease.id, uri)), None, (), {}, _SOON_S)
    words = f"The provider has not accepted the manifest: {seen.gateway.problem}. It is sent again."
    conditions = (
        Condition.false("Ready", "ManifestNotAccepted", words),
        Condition.false("ManifestSent", "ManifestNotAccepted", words),
        *base,
    )
    wait_s = (seen.gateway.retry_at_ns - seen.now_ns) / NS_PER_S
    actions = money if wait_s > 0 else (*money, SendManifest(lease.id, uri))
    return Plan(actions, TenantState.LEASED, conditions, facts, max(wait_s, _SOON_S))


def _running(
    seen: ObservedTenant,
    lease: Lease,
    uri: str,
    base: tuple[Condition, ...],
    facts: dict[str, Any],
    money: tuple[Action, ...],
) -> Plan:
    sent = Condition.true("ManifestSent", "Accepted", "The provider's gateway accepted the manifest.")
    actions: list[Action] = [*money]
    wait_s = (seen.gateway.retry_at_ns - seen.now_ns) / NS_PER_S
    if wait_s <= 0:
        actions.append(AskStatus(lease.id, uri))
    services = seen.gateway.services
    ready = services is not None and len(services) > 0 and all(s.ready >= s.total > 0 for s in services)
    if services:
        facts["services"] = [
            {"name": s.name, "ready": s.ready, "total": s.total, "uris": list(s.uris)} for s in services
        ]
        facts["forwardedPorts"] = list(seen.gateway.forwarded_ports)
    if ready:
        words = "Every service has its replicas ready."
        conditions = (
            Condition.true("Ready", "Running", words),
            sent,
            Condition.true("Running", "Running", words),
            *base,
        )
        return Plan(tuple(actions), TenantState.RUNNING, conditions, facts, max(wait_s, _SOON_S))
    words = "The provider is starting the services."
    if seen.gateway.problem is not None:
        words = f"The provider's gateway does not answer: {seen.gateway.problem}."
        # What runs is unknown: the last known state stands.
        return Plan(tuple(actions), None, (sent, *base), {}, max(wait_s, _SOON_S))
    reason, words = seen.gateway.trouble or ("Deploying", words)
    conditions = (
        Condition.false("Ready", reason, words),
        sent,
        Condition.false("Running", reason, words),
        *base,
    )
    return Plan(tuple(actions), TenantState.DEPLOYING, conditions, facts, max(wait_s, _SOON_S))


def _money(seen: ObservedTenant) -> tuple[tuple[Condition, ...], tuple[Action, ...]]:
    if seen.funds is None:
        return (), ()
    condition = describe_funds(
        seen.funds, height=seen.height, block_time_ns=seen.block_time_ns, budget_uact=seen.wanted.budget_uact
    )
    if seen.funds.top_up_uact <= 0 or (seen.top_up_tx is not None and seen.top_up_tx.refusal is None):
        return (condition,), ()
    if seen.balances is not None and seen.balances.value.get(UACT, 0) < seen.funds.top_up_uact:
        words = (
            f"The lease's funds end soon and the wallet {seen.wallet.address} lacks "
            f"{uact_to_usd(seen.funds.top_up_uact - seen.balances.value.get(UACT, 0))} ACT for the next top-up."
        )
        return (Condition.false("Funded", "WalletEmpty", words),), ()
    return (condition,), (TopUp(seen.funds.top_up_uact, seen.funds.top_up_key),)
