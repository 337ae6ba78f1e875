"""Whatever is observed, a plan comes out; and nothing is destroyed on what is unknown, contradictory or seen once.

Observations are the recorded ones (``tests/data/plans``) with a few parts, or all, replaced by others: what is drawn
part by part alone hardly ever comes as far as a lease.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from gpulease.ids import DeploymentId, LeaseId
from gpulease.inventory.health import DeviceTrouble
from gpulease.lease import plan as lease_plan
from gpulease.lease import states as lease
from gpulease.market import model as m
from gpulease.planning import NS_PER_S, Condition, Seen
from gpulease.runtime.plan_cli import as_yaml, document_of, load, plan_of
from gpulease.runtime.plan_codec import decode, encode
from gpulease.tenancy import plan as tenant_plan
from gpulease.tenancy import states as tenant
from gpulease.units import UACT, UAKT, Dec, DecCoin

pytestmark = pytest.mark.property
T = TypeVar("T")
MANY = settings(max_examples=1000, deadline=None)
LIVE = (m.LeaseState.ACTIVE, m.LeaseState.RECLAIMING)

PLANS = Path(__file__).parent.parent / "data" / "plans"
OWNER, NOW_NS = "akash1tenant", 1_750_000_000 * NS_PER_S
DID = DeploymentId(OWNER, 77)
BIDS = [LeaseId(OWNER, 77, 1, oseq, provider) for oseq in (1, 2) for provider in ("akash1cheap", "akash1dear")]
HASHES = [bytes(range(32)), bytes(32)]
SPEC = m.GroupSpec("g", m.PlacementRequirements(), ())
heights = st.one_of(st.integers(990, 1005), st.sampled_from([0, 2**62]))
texts = st.sampled_from(["", "words"])
amounts = st.sampled_from([0, 1, 5_000_000, 10**12])
prices = st.builds(
    DecCoin, st.sampled_from([UACT, UACT, UAKT]), st.sampled_from([Dec(), Dec(1), Dec.of(40), Dec.of(60)])
)
now_ns = st.sampled_from([0, NOW_NS - 3600 * NS_PER_S, NOW_NS, NOW_NS + NS_PER_S])
block_times_ns = st.sampled_from([0, 1, NS_PER_S, 6 * NS_PER_S])
refusals = st.sampled_from([None, None, "refused"])


def maybe(strategy: st.SearchStrategy[T]) -> st.SearchStrategy[T | None]:
    return st.one_of(st.none(), strategy)


def seen(strategy: st.SearchStrategy[T]) -> st.SearchStrategy[Seen[T]]:
    return st.builds(Seen, strategy, heights)


def some(strategy: st.SearchStrategy[T]) -> st.SearchStrategy[tuple[T, ...]]:
    return st.lists(strategy, max_size=2).map(tuple)


escrows = st.builds(
    m.EscrowAccount,
    st.just("deployment"),
    st.just(str(DID)),
    st.just(OWNER),
    st.sampled_from(m.EscrowState),
    heights,
    some(prices),
    some(prices),
    st.just(()),
)
deployments = st.builds(
    m.Deployment,
    st.just(DID),
    st.sampled_from(m.DeploymentState),
    st.sampled_from(HASHES),
    heights,
    st.just(()),
    escrows,
)
orders = st.builds(
    m.Order, st.sampled_from([b.order for b in BIDS]), st.sampled_from(m.OrderState), st.just(SPEC), heights
)
bids = st.builds(m.Bid, st.sampled_from(BIDS), st.sampled_from(m.BidState), prices, heights)
leases = st.builds(
    m.Lease,
    st.sampled_from(BIDS),
    st.sampled_from(m.LeaseState),
    prices,
    heights,
    heights,
    st.sampled_from(["", "x_y"]),
    st.none(),
    st.sampled_from([None, 3600]),
    st.sampled_from([None, NOW_NS // NS_PER_S, NOW_NS // NS_PER_S + 3600]),
)
txs = maybe(st.builds(tenant.TxView, st.booleans(), maybe(heights), refusals))
problems = st.sampled_from([None, None, ("Reason", "Words.")])
providers = st.dictionaries(
    st.sampled_from(["akash1cheap", "akash1dear"]),
    st.builds(m.ProviderRecord, st.just("p"), st.sampled_from(["https://p.test", "http://p.test", ""]), st.just(())),
    max_size=2,
)
services = maybe(some(st.builds(tenant.ServiceView, st.just("web"), st.integers(0, 2), st.integers(0, 2))))
gateways = st.builds(tenant.GatewayView, maybe(st.sampled_from(HASHES)), refusals, services, st.just(()), now_ns)
funds = maybe(
    st.builds(
        tenant.FundsView, amounts, amounts, amounts, maybe(heights), amounts, st.just("top-up/key"), maybe(heights)
    )
)
wanted = st.builds(
    tenant.Wanted,
    st.sampled_from(HASHES),
    st.sampled_from([Dec(), Dec.of(50)]),
    amounts,
    amounts,
    st.sampled_from([0.0, 30.0, 1e9]),
    st.just("1 × t4"),
    refusals,
)
TENANT_PARTS: dict[str, st.SearchStrategy[Any]] = {
    "now_ns": now_ns,
    "height": heights,
    "block_time_ns": block_times_ns,
    "uid": st.just("uid"),
    "generation": st.just(1),
    "deleting": st.booleans(),
    "finalizer_held": st.sampled_from([True, True, False]),
    "abandoned": st.sampled_from([False, False, False, True]),
    "deployment_id": st.sampled_from([DID, DID, DID, None]),
    "wanted": wanted,
    "wallet": st.builds(tenant.WalletView, st.sampled_from([OWNER, OWNER, None]), problems),
    "chain_problem": problems,
    "balances": maybe(seen(st.fixed_dictionaries({}, optional={UACT: amounts, UAKT: amounts}))),
    "deploy_tx": txs,
    "lease_tx": txs,
    "close_tx": txs,
    "update_tx": txs,
    "top_up_tx": txs,
    "deployment": maybe(seen(maybe(deployments))),
    "deployment_absent_height": maybe(heights),
    "orders": maybe(seen(some(orders))),
    "bids": maybe(seen(some(bids))),
    "leases": maybe(seen(some(leases))),
    "providers": providers,
    "market_offers": maybe(texts),
    "gateway": gateways,
    "funds": funds,
}

workloads = maybe(
    st.builds(
        lease.WorkloadView,
        st.booleans(),
        maybe(st.just("uid")),
        st.booleans(),
        st.sampled_from([None, None, "Running", "Deploying", "Degraded"]),
        texts,
        texts,
        st.sampled_from([(), ("GPU-0",)]),
    )
)
money = maybe(
    st.builds(lease.MoneyView, amounts, amounts, maybe(heights), st.booleans(), st.just("withdraw/k"), maybe(heights))
)
statuses = st.sampled_from(
    [{}, {"conditions": [{"type": "DeviceHealthy"}, {"type": "Reclaiming"}]}, {"conditions": [{"type": "Reclaiming"}]}]
)
views = maybe(
    st.builds(lease.HostedView, st.just("n"), st.just("u"), st.just(1), statuses, maybe(heights), maybe(now_ns))
)
troubles = some(
    st.builds(
        DeviceTrouble,
        st.sampled_from(["GPU-0", "GPU-1"]),
        st.just("XID 79"),
        texts,
        amounts,
        st.booleans(),
        st.booleans(),
    )
)
drains = maybe(st.builds(lease.DrainView, st.sampled_from([(), ("n1",), ("n1", "n2")]), maybe(heights)))
HOSTED_PARTS: dict[str, st.SearchStrategy[Any]] = {
    "id": st.just(BIDS[0]),
    "now_ns": now_ns,
    "up_since_ns": now_ns,
    "height": heights,
    "block_time_ns": block_times_ns,
    "lease": maybe(seen(maybe(leases))),
    "deployment": maybe(seen(maybe(deployments))),
    "hosted_known": st.sampled_from([True, True, False]),
    "hosted": views,
    "manifest_known": st.booleans(),
    "manifest": maybe(st.builds(lease.ManifestView, st.sampled_from(HASHES), refusals)),
    "workload": workloads,
    "objects_differ": st.booleans(),
    "money": money,
    "gpu_seconds": maybe(amounts),
    "troubles": troubles,
    "credit": maybe(st.builds(lease.CreditView, amounts, amounts)),
    "drain": drains,
    "orphan_seen_height": maybe(heights),
}
policies = st.builds(lease.Policy, st.sampled_from([0.0, 60.0, 300.0]), st.sampled_from([0.0, 3600.0]))


@lru_cache
def recorded(kind: type[T]) -> tuple[list[T], list[T]]:
    """All of a kind, and those that something follows from."""
    name = "tenant" if kind is tenant.ObservedTenant else "hosted"
    paths = [path for path in sorted(PLANS.glob(f"{name}-*.yaml")) if not path.name.endswith(".plan.yaml")]
    observed = {path: decode(kind, load(path.read_text())["observed"], path.name) for path in paths}
    acting = [one for path, one in observed.items() if "- action:" in path.with_suffix(".plan.yaml").read_text()]
    return list(observed.values()), acting


@st.composite
def observations(
    draw: st.DrawFn, kind: type[Any], parts: dict[str, st.SearchStrategy[Any]], *, whole: bool = False
) -> Any:
    bases = [st.sampled_from(those) for those in recorded(kind)]
    base = draw(st.one_of(bases[0], bases[1], bases[1]))
    few = st.lists(st.sampled_from(sorted(parts)), max_size=2, unique=True)
    names = sorted(parts) if whole else draw(few)
    return replace(base, **{name: draw(parts[name]) for name in names})


tenants = observations(tenant.ObservedTenant, TENANT_PARTS)
hosteds = observations(lease.ObservedLease, HOSTED_PARTS)


def test_every_part_is_replaced_by_others() -> None:
    for kind, parts in ((tenant.ObservedTenant, TENANT_PARTS), (lease.ObservedLease, HOSTED_PARTS)):
        assert {field.name for field in fields(kind)} == set(parts)


wild = st.tuples(
    observations(tenant.ObservedTenant, TENANT_PARTS, whole=True),
    observations(lease.ObservedLease, HOSTED_PARTS, whole=True),
)


def sound(plan: Any) -> None:
    """What holds of every plan: it can be shown and stored, names each condition once, and never spins."""
    assert encode(plan)
    kinds = [condition.type for condition in plan.conditions]
    assert len(set(kinds)) == len(kinds)
    assert all(isinstance(c, Condition) and c.status in ("True", "False", "Unknown") for c in plan.conditions)
    after_s = plan.requeue_after_s
    assert after_s is None or (math.isfinite(after_s) and after_s >= 0)
    assert len(set(map(repr, plan.actions))) == len(plan.actions)


def only(plan: Any, kind: type[T]) -> T | None:
    found = [action for action in plan.actions if isinstance(action, kind)]
    assert len(found) <= 1
    event(f"{kind.__name__}: {len(found)}")
    return found[0] if found else None


def spends_once_and_within_limits(observed: tenant.ObservedTenant, plan: tenant.Plan) -> None:
    if plan.actions and not isinstance(plan.actions[0], (tenant.Release, tenant.CloseDeployment)):
        assert not observed.deleting
    if only(plan, tenant.CreateDeployment) is not None:
        assert observed.deployment is not None
        assert observed.deployment.value is None
        assert observed.deploy_tx is None
        assert observed.balances is not None
        assert observed.balances.value.get(UACT, 0) >= observed.wanted.deposit_uact
    taken = only(plan, tenant.CreateLease)
    if taken is not None:
        assert observed.bids is not None
        assert observed.leases is not None
        assert not [one for one in observed.leases.value if one.state in LIVE]
        chosen = [one for one in observed.bids.value if one.id == taken.bid and one.state is m.BidState.OPEN]
        assert any(one.price.denom == UACT and one.price.amount <= observed.wanted.max_uact_per_block for one in chosen)
        assert observed.lease_tx is None or observed.lease_tx.refusal is not None
    if only(plan, tenant.TopUp) is not None:
        assert observed.top_up_tx is None or observed.top_up_tx.refusal is not None
        assert observed.leases is not None
        assert [one for one in observed.leases.value if one.state in LIVE]


def check_tenant(observed: tenant.ObservedTenant) -> None:
    plan = tenant_plan.decide(observed)
    sound(plan)
    spends_once_and_within_limits(observed, plan)
    deployment = observed.deployment.value if observed.deployment is not None else None
    if only(plan, tenant.Release) is not None:
        assert observed.deleting
        assert observed.finalizer_held
        if not observed.abandoned and observed.deployment_id is not None:
            assert observed.deployment is not None
            if deployment is None:
                sent = observed.deploy_tx
                assert sent is None or sent.refusal is not None
                assert observed.deployment_absent_height is not None
                assert observed.deployment.height > observed.deployment_absent_height
            else:
                assert deployment.state is m.DeploymentState.CLOSED
    if only(plan, tenant.CloseDeployment) is not None:
        assert observed.deleting
        assert observed.finalizer_held
        assert not observed.abandoned
        assert deployment is not None
        assert deployment.state is m.DeploymentState.ACTIVE
        assert observed.close_tx is None or observed.close_tx.refusal is not None


def gives_up_what_was_reclaimed(observed: lease.ObservedLease, known: m.Lease) -> bool:
    return (
        known.state is m.LeaseState.RECLAIMING
        and observed.drain is not None
        and bool(observed.drain.nodes)
        and known.reclamation_deadline_s is not None
        and observed.now_ns // NS_PER_S >= known.reclamation_deadline_s
    )


def gives_up_what_never_came(observed: lease.ObservedLease, known: m.Lease, policy: lease.Policy) -> bool:
    assert observed.hosted is not None
    assert observed.manifest_known
    assert observed.manifest is None
    assert observed.workload is not None
    assert observed.workload.verdict is None
    waited_s = (observed.height - known.created_at) * observed.block_time_ns / NS_PER_S
    assert waited_s >= policy.manifest_timeout_s
    return True


def check_hosted(observed: lease.ObservedLease, policy: lease.Policy) -> None:
    plan = lease_plan.decide(observed, policy)
    sound(plan)
    known = observed.lease.value if observed.lease is not None else None
    gone = only(plan, lease.DeleteNamespace)
    forgotten = only(plan, lease.ForgetHosted)
    if gone is not None or forgotten is not None:
        assert observed.hosted_known
        assert observed.hosted is not None
        assert observed.lease is not None
        assert known is not None
        assert known.state not in LIVE
        assert observed.hosted.closed_seen_height is not None
        assert observed.lease.height > observed.hosted.closed_seen_height
        assert observed.workload is not None
        assert observed.workload.namespace_exists == (gone is not None)
        assert gone is None or gone.uid == observed.workload.namespace_uid
    if only(plan, lease.CloseBid) is not None:
        assert known is not None
        assert known.state in LIVE
        assert observed.hosted_known
        gives_up_what_was_reclaimed(observed, known) or gives_up_what_never_came(observed, known, policy)
    told = only(plan, lease.StartReclaim)
    if told is not None:
        assert known is not None
        assert known.state is m.LeaseState.ACTIVE
        assert known.reclamation_window_s is not None
        assert observed.drain is not None
        assert observed.drain.nodes
        assert observed.drain.seen_height is not None
        assert observed.height > observed.drain.seen_height
    if only(plan, lease.StopPods) is not None:
        assert observed.lease is not None
        assert observed.lease.value is None
        assert observed.orphan_seen_height is not None
        assert observed.lease.height > observed.orphan_seen_height
        assert observed.workload is not None
        assert observed.workload.namespace_exists
    if only(plan, lease.RecordCredit) is not None:
        assert known is not None
        assert known.state not in LIVE
        assert observed.credit is not None
    if only(plan, lease.ReleaseCapacity) is not None:
        assert observed.lease is not None
        assert known is None or known.state not in LIVE
        assert observed.workload is None or known is None or not observed.workload.namespace_exists
    if only(plan, lease.ApplyWorkload) is not None:
        assert known is not None
        assert known.state in LIVE
        assert observed.manifest is not None
        assert observed.deployment is not None
        assert observed.deployment.value is not None
        assert observed.manifest.hash == observed.deployment.value.hash
    if only(plan, lease.Withdraw) is not None:
        assert known is not None
        assert known.state in LIVE


@MANY
@given(tenants)
def test_a_tenant_lets_go_and_spends_only_on_what_is_known(observed: tenant.ObservedTenant) -> None:
    check_tenant(observed)


@MANY
@given(hosteds, policies)
def test_a_provider_destroys_only_what_the_chain_calls_closed_twice(
    observed: lease.ObservedLease, policy: lease.Policy
) -> None:
    check_hosted(observed, policy)


@settings(max_examples=60, deadline=None)
@given(wild, policies)
def test_the_same_holds_when_nothing_fits_together(
    pair: tuple[tenant.ObservedTenant, lease.ObservedLease], policy: lease.Policy
) -> None:
    check_tenant(pair[0])
    check_hosted(pair[1], policy)


@settings(max_examples=30, deadline=None)
@given(st.one_of(tenants.map(lambda o: (o, None)), st.tuples(hosteds, policies)))
def test_a_written_observation_gives_the_same_plan(pair: tuple[Any, lease.Policy | None]) -> None:
    observed, policy = pair
    document = load(document_of(observed, policy))
    direct = tenant_plan.decide(observed) if policy is None else lease_plan.decide(observed, policy)
    assert as_yaml(plan_of(document)) == as_yaml(direct)
