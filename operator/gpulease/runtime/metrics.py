"""The operator's HTTP face for machines: metrics, probes, and the ledger held against the chain.

Metrics are read off the running parts when they are asked for; nothing is counted twice, and a lease's series end with
its HostedLease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gpulease.errors import GpuleaseError
from gpulease.kube.queue import RUN_BOUNDS_S
from gpulease.units import NS_PER_S, UACT, UAKT

if TYPE_CHECKING:
    from gpulease.runtime.app import Operator

_STUCK_S = 300.0
_LEDGER_TRIES = 10
_JOULES = 1000
_STOCK_AGE_S = 120.0
"""An older view of the nodes is no view: a provider looks at its nodes every 15 seconds."""


class OperatorCollector(Collector):
    def __init__(self, operator: Operator) -> None:
        self._op = operator

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._chains()
        yield from self._accounts()
        yield from self._market()
        yield from self._providers()
        yield from self._leases()
        yield from self._money()
        yield from self._tenants()
        yield from self._machine()

    def _chains(self) -> Iterator[Metric]:
        height = GaugeMetricFamily("gpulease_chain_height", "Last block read.", labels=["chain"])
        lag = GaugeMetricFamily("gpulease_chain_lag_seconds", "Age of the last block read.", labels=["chain"])
        up = GaugeMetricFamily("gpulease_chain_up", "1 while the chain can be used.", labels=["chain"])
        txs = CounterMetricFamily(
            "gpulease_transactions", "Transactions settled, by kind and outcome.", labels=["chain", "kind", "outcome"]
        )
        wrong = GaugeMetricFamily(
            "gpulease_ledger_difference", "Chain minus ledger in micro-units.", labels=["chain", "account", "denom"]
        )
        now_ns = self._op.clock.now_ns()
        for session in self._op.hub.sessions:
            chain = session.spec.chain_id
            height.add_metric([chain], session.tip.height)
            if session.tip.time_ns:
                lag.add_metric([chain], max(now_ns - session.tip.time_ns, 0) / NS_PER_S)
            up.add_metric([chain], 0 if session.problem else 1)
            # The series of bids that a block took starts at 0: an alert looks at whether it grows.
            for (kind, outcome), count in sorted({("bid", "included"): 0, **session.settled_total}.items()):
                txs.add_metric([chain, kind, outcome], count)
            for account, difference in sorted((session.ledger_difference or {}).items()):
                for denom in (UACT, UAKT):
                    wrong.add_metric([chain, account, denom], difference.get(denom, 0))
        yield from (height, lag, up, txs, wrong)

    def _accounts(self) -> Iterator[Metric]:
        label = ["chain", "account"]
        pending = GaugeMetricFamily("gpulease_pending_transactions", "Transactions in no block yet.", labels=label)
        oldest = GaugeMetricFamily(
            "gpulease_oldest_transaction_seconds", "Age of the oldest pending transaction.", labels=label
        )
        paid = CounterMetricFamily("gpulease_fees_paid_uakt", "Fees that blocks have taken.", labels=label)
        fees = GaugeMetricFamily(
            "gpulease_fees_last_day_uakt", "Fees of 24 hours, those under way included.", labels=label
        )
        budget = GaugeMetricFamily("gpulease_fee_budget_uakt", "The most fees of 24 hours.", labels=label)
        wallet = GaugeMetricFamily(
            "gpulease_wallet_balance", "Held by an account, in micro-units, by our ledger.", labels=[*label, "denom"]
        )
        now_ns = self._op.clock.now_ns()
        for session in self._op.hub.sessions:
            chain, ledger = session.spec.chain_id, session.books.ledger
            for account, sender in sorted(session.senders.items()):
                began_ns = [entry.created_ns for entry in sender.pending()]
                pending.add_metric([chain, account], len(began_ns))
                oldest.add_metric([chain, account], (now_ns - min(began_ns, default=now_ns)) / NS_PER_S)
                paid.add_metric([chain, account], sender.fees_paid_uakt)
                fees.add_metric([chain, account], sender.fees_last_day_uakt)
                budget.add_metric([chain, account], sender.fee_budget_uakt)
                if ledger.has_book(account):
                    held = ledger.balances(account)
                    for denom in (UACT, UAKT):
                        wallet.add_metric([chain, account, denom], held.get(denom, 0))
        yield from (pending, oldest, paid, fees, budget, wallet)

    def _market(self) -> Iterator[Metric]:
        declined = CounterMetricFamily(
            "gpulease_orders_declined", "Orders without a bid of ours, by reason.", labels=["reason"]
        )
        for reason, count in sorted(self._op.market.declined_total.items()):
            declined.add_metric([reason], count)
        bids = CounterMetricFamily("gpulease_bids", "Bids handed over.")
        bids.add_metric([], self._op.market.bids_total)
        open_bids = GaugeMetricFamily("gpulease_open_bids", "Bids that may still win.", labels=["provider"])
        earned = GaugeMetricFamily("gpulease_earned_uact", "Withdrawn from leases so far.", labels=["provider"])
        for site in self._op.providers.by_name.values():
            open_bids.add_metric([site.address], site.stock.reservations.open_count())
            if site.earned_uact is not None:
                earned.add_metric([site.address], site.earned_uact)
        outcomes = CounterMetricFamily(
            "gpulease_bid_outcomes", "Bids by what became of them.", labels=["provider", "outcome"]
        )
        for site in self._op.providers.by_name.values():
            address, not_won = site.address, self._op.market.not_won_total
            outcomes.add_metric([address, "won"], self._op.hosted.won_total[address])
            for outcome in ("outbid", "ended", "failed"):
                outcomes.add_metric([address, outcome], not_won[address, outcome])
        yield from (declined, bids, open_bids, earned, outcomes)

    def _providers(self) -> Iterator[Metric]:
        gpus = GaugeMetricFamily("gpulease_gpus", "GPUs by state.", labels=["provider", "node", "product", "state"])
        expires = GaugeMetricFamily(
            "gpulease_certificate_expires_seconds", "Until the gateway's certificate ends.", labels=["provider"]
        )
        owed = GaugeMetricFamily("gpulease_owed_uact", "What withdrawals would pay now.", labels=["provider"])
        now_s = self._op.clock.now_ns() / NS_PER_S
        owed_uact = {site.address: 0 for site in self._op.providers.by_name.values()}
        for lease, figures in self._op.hosted.figures.items():
            if lease.provider in owed_uact and figures.money is not None:
                owed_uact[lease.provider] += figures.money.owed_uact
        for site in self._op.providers.by_name.values():
            snapshot = site.stock.last(most_age_s=_STOCK_AGE_S)
            for node, count in site.stock.count_by_node(snapshot) if snapshot is not None else ():
                for state in ("leased", "reserved", "free", "quarantined"):
                    gpus.add_metric([site.address, node.name, node.product, state], getattr(count, state))
            if site.certificate_expires_s is not None:
                expires.add_metric([site.address], site.certificate_expires_s - now_s)
            owed.add_metric([site.address], owed_uact[site.address])
        yield from (gpus, expires, owed)

    def _leases(self) -> Iterator[Metric]:
        hosted = GaugeMetricFamily("gpulease_hosted_leases", "Leases hosted, by state.", labels=["state"])
        for state, count in sorted(_tally(self._op.hosted.states.values()).items()):
            hosted.add_metric([state], count)
        bought = GaugeMetricFamily("gpulease_tenant_leases", "GPULeases, by state.", labels=["state"])
        for state, count in sorted(_tally(self._op.tenants.states.values()).items()):
            bought.add_metric([state], count)
        gpu_s = CounterMetricFamily("gpulease_lease_gpu_seconds", "GPU time held.", labels=["lease"])
        records = CounterMetricFamily("gpulease_lease_usage_records", "Usage records taken in.", labels=["lease"])
        energy = CounterMetricFamily("gpulease_lease_energy_joules", "Energy measured.", labels=["lease"])
        gaps = CounterMetricFamily("gpulease_lease_gap_seconds", "GPU time that is not known.", labels=["lease"])
        for namespace, lease in sorted(self._op.hosted.by_namespace.items()):
            usage = self._op.usage.usage(namespace)
            if usage is None:
                continue
            gpu_s.add_metric([str(lease)], usage.gpu_ms / 1000)
            records.add_metric([str(lease)], usage.records)
            energy.add_metric([str(lease)], usage.energy_mj / _JOULES)
            gaps.add_metric([str(lease)], usage.gap_ms / 1000)
        unknown = GaugeMetricFamily("gpulease_agent_up", "0 while a node's usage is unknown.", labels=["node"])
        for node in sorted(self._op.intake.nodes):
            unknown.add_metric([node], 0 if node in self._op.intake.problems else 1)
        yield from (hosted, bought, gpu_s, records, energy, gaps, unknown)

    def _money(self) -> Iterator[Metric]:
        label = ["lease"]
        info = GaugeMetricFamily(
            "gpulease_lease_info", "1 for a live lease.", labels=["lease", "lease_namespace", "provider"]
        )
        gpus = GaugeMetricFamily("gpulease_lease_gpus", "GPUs of the lease.", labels=label)
        price = GaugeMetricFamily(
            "gpulease_lease_price_uact_per_hour", "Price at the measured block time.", labels=label
        )
        height = GaugeMetricFamily("gpulease_lease_escrow_run_out_height", "The last block paid in full.", labels=label)
        left = GaugeMetricFamily("gpulease_lease_escrow_seconds", "Until the funds end.", labels=label)
        owed = GaugeMetricFamily("gpulease_lease_owed_uact", "What a withdrawal would pay now.", labels=label)
        drawn = GaugeMetricFamily("gpulease_lease_withdrawn_uact", "Withdrawn so far.", labels=label)
        age = GaugeMetricFamily("gpulease_lease_settlement_age_seconds", "Since the last settlement.", labels=label)
        overdue = GaugeMetricFamily(
            "gpulease_lease_settlement_overdue_seconds", "Past the settlement period with money owed.", labels=label
        )
        unpaid = GaugeMetricFamily(
            "gpulease_lease_unpaid_gpu_seconds", "GPU time held since the funds ended.", labels=label
        )
        namespaces = {lease: namespace for namespace, lease in self._op.hosted.by_namespace.items()}
        for lease, figures in sorted(self._op.hosted.figures.items()):
            name = [str(lease)]
            info.add_metric([*name, namespaces.get(lease, ""), lease.provider], 1)
            gpus.add_metric(name, figures.gpus)
            price.add_metric(name, figures.price_uact_per_hour)
            age.add_metric(name, figures.settlement_age_s)
            overdue.add_metric(name, figures.settlement_overdue_s)
            unpaid.add_metric(name, figures.unpaid_gpu_s)
            if figures.money is not None:
                owed.add_metric(name, figures.money.owed_uact)
                drawn.add_metric(name, figures.money.withdrawn_uact)
            if figures.run_out_height is not None and figures.escrow_s is not None:
                height.add_metric(name, figures.run_out_height)
                left.add_metric(name, figures.escrow_s)
        yield from (info, gpus, price, height, left, owed, drawn, age, overdue, unpaid)

    def _tenants(self) -> Iterator[Metric]:
        label = ["object"]
        spent = GaugeMetricFamily("gpulease_tenant_spent_uact", "Spent by a GPULease so far.", labels=label)
        funds = GaugeMetricFamily("gpulease_tenant_funds_uact", "Left in its escrow at its last look.", labels=label)
        budget = GaugeMetricFamily("gpulease_tenant_budget_left_uact", "What may still be put in.", labels=label)
        left = GaugeMetricFamily("gpulease_tenant_escrow_seconds", "Until its funds end.", labels=label)
        for name, figures in sorted(self._op.tenants.figures.items(), key=lambda item: str(item[0])):
            spent.add_metric([str(name)], figures.funds.spent_uact)
            funds.add_metric([str(name)], figures.funds.funds_uact)
            budget.add_metric([str(name)], figures.budget_left_uact)
            if figures.escrow_s is not None:
                left.add_metric([str(name)], figures.escrow_s)
        yield from (spent, funds, budget, left)

    def _machine(self) -> Iterator[Metric]:
        depth = GaugeMetricFamily("gpulease_queue_depth", "Keys waiting.", labels=["queue"])
        oldest = GaugeMetricFamily("gpulease_queue_oldest_seconds", "Longest wait of a key.", labels=["queue"])
        done = CounterMetricFamily("gpulease_queue_done", "Looks that succeeded.", labels=["queue"])
        failed = CounterMetricFamily("gpulease_queue_failed", "Looks that failed.", labels=["queue"])
        runs = HistogramMetricFamily("gpulease_queue_run_seconds", "How long looks took.", labels=["queue"])
        for name, queue in self._op.queues.items():
            stats = queue.stats()
            depth.add_metric([name], stats.depth)
            oldest.add_metric([name], stats.oldest_age_s)
            done.add_metric([name], stats.done_total)
            failed.add_metric([name], stats.failed_total)
            bounds = [*map(str, RUN_BOUNDS_S), "+Inf"]
            counts = zip(bounds, map(float, queue.run_times.cumulative), strict=True)
            runs.add_metric([name], list(counts), sum_value=queue.run_times.sum_s)
        election = self._op.election
        leads = GaugeMetricFamily("gpulease_leader", "1 while this process may act.")
        leads.add_metric([], 1 if election is None or election.is_leader() else 0)
        changes = CounterMetricFamily("gpulease_leader_transitions", "Changes of leader before this one.")
        if election is not None and election.fence is not None:
            changes.add_metric([], election.fence)
        writes = CounterMetricFamily("gpulease_api_writes", "Writes to the API server.", labels=["kind"])
        for kind, count in sorted(self._op.cluster.writes_total.items()):
            writes.add_metric([kind], count)
        yield from (depth, oldest, done, failed, runs, leads, changes, writes)


def _tally(states: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for state in states:
        found[state] = found.get(state, 0) + 1
    return found


class MetricsServer:
    """``/metrics``, ``/healthz`` (the loop turns), ``/readyz`` (watches and chains stand), ``/ledger``."""

    def __init__(self, operator: Operator, *, host: str, port: int) -> None:
        self._op, self._host, self._port = operator, host, port
        self._registry = CollectorRegistry()
        self._registry.register(OperatorCollector(operator))
        ProcessCollector(registry=self._registry)
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/ledger", self._ledger)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _healthz(self, _: web.Request) -> web.Response:
        for name, queue in self._op.queues.items():
            stats = queue.stats()
            if max(stats.oldest_age_s, stats.longest_run_s) > _STUCK_S:
                return web.Response(status=503, text=f"the {name} queue is stuck\n")
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        if not self._op.watching:
            return web.Response(status=503, text="the watches do not stand yet\n")
        return web.Response(text="ok\n")

    async def _ledger(self, _: web.Request) -> web.Response:
        """Our books beside the bank, at one height; 503 when no such moment came."""
        try:
            chains = [await self._compare(session) for session in self._op.hub.sessions if session.books.accounts]
        except GpuleaseError as error:
            return web.json_response({"error": str(error)}, status=503)
        return web.json_response({"chains": chains})

    async def _compare(self, session: Any) -> dict[str, Any]:
        for _ in range(_LEDGER_TRIES):
            height = session.books.height
            found = await session.books.difference(session.client)
            if found is not None:
                accounts = {
                    account: {
                        "ledger": session.books.ledger.balances(account),
                        "chain": {
                            denom: session.books.ledger.balances(account).get(denom, 0) + difference.get(denom, 0)
                            for denom in {*session.books.ledger.balances(account), *difference}
                        },
                        "difference": difference,
                    }
                    for account, difference in sorted(found.items())
                }
                balanced = not any(entry["difference"] for entry in accounts.values())
                return {
                    "chainId": session.spec.chain_id,
                    "height": height,
                    "accounts": accounts,
                    "balanced": balanced,
                }
            await asyncio.sleep(0.05)
        raise GpuleaseError("the chain moved on at every try; ask again")
