"""What a bystander reads over REST and RPC, against what a lease's parties did."""

from __future__ import annotations

import asyncio

import pytest

from gpulease.chain import codec
from gpulease.devnet.serve import DevnetServer
from gpulease.ids import DeploymentId
from gpulease.market import model as m
from gpulease.units import UACT, UAKT, Coin, Dec, DecCoin
from tests.contract.test_chain_client import GPU, PROVIDER, SPEC, TENANT, Party, new_chain
from tests.rig.chainview import ChainView
from tests.rig.errors import RigError

pytestmark = pytest.mark.contract


async def test_a_lease_is_seen_to_the_last_micro_unit() -> None:
    async with (
        DevnetServer(new_chain(), block_time_ms=50) as server,
        Party(server, PROVIDER, ":memory:") as seller,
        Party(server, TENANT, ":memory:") as buyer,
    ):
        view = ChainView(rpc=server.endpoints.rpc, rest=server.endpoints.rest)
        look = asyncio.to_thread
        sides = (PROVIDER.address, TENANT.address)
        assert await look(view.chain_id) == "contract"
        before = [await look(view.balances, address) for address in sides]
        since = await look(view.height) + 1
        attribute = m.Attribute("capabilities/gpu/" + GPU.key, "true")
        record = m.ProviderRecord(PROVIDER.address, "https://p.example.test:8443", (attribute,))
        await seller.done("record", codec.provider_record(record, exists=False))
        deployment = DeploymentId(TENANT.address, 78)
        deposit = Coin(UACT, 500_000)
        made = await buyer.done("d", codec.create_deployment(deployment, (SPEC,), hash_=b"\x07" * 32, deposit=deposit))
        (order,) = await seller.client.orders(state="open")
        bid = order.id.bid(PROVIDER.address)
        offered = await seller.done("b", codec.create_bid(bid, price=DecCoin(UACT, Dec.of("50")), deposit=deposit))
        leased = await buyer.done("l", codec.create_lease(bid))
        await asyncio.sleep(0.2)
        paid_at = await seller.done("w", codec.withdraw_lease(bid))
        closed = await buyer.done("c", codec.close_deployment(deployment))

        assert (await look(view.provider, PROVIDER.address) or {})["host_uri"] == record.host_uri
        assert [(o.key, o.state, o.height) for o in await look(view.orders, TENANT.address)] == [
            ("78/1/1", "closed", made)
        ]
        (seen,) = await look(view.bids, TENANT.address)
        assert (seen.height, seen.state) == (offered, "closed")
        assert seen.escrow is not None
        assert (seen.escrow.state, sum(seen.escrow.funds.values())) == ("closed", 0)
        (lease,) = await look(view.leases, TENANT.address)
        assert (lease.height, lease.state, int(lease.raw["lease"]["closed_on"])) == (leased, "closed", closed)
        (account,) = await look(view.deployments, TENANT.address)
        assert account.escrow is not None
        assert (account.escrow.state, account.escrow.transferred[UACT]) == ("closed", 50 * (closed - leased))

        def withdrawals() -> list[tuple[int, int, dict[str, int]]]:
            return [(w.height, w.dseq, dict(w.paid)) for w in view.withdrawals(since=since)]

        assert await look(withdrawals) == [(paid_at, 78, {UACT: 50 * (paid_at - leased)})]
        earned = 50 * (closed - leased)
        for address, was, sign in zip(sides, before, (1, -1), strict=True):
            flow = await look(lambda who=address: view.flow(who, since=since))
            now = await look(view.balances, address)
            assert {d: now[d] - was[d] for d in was} == {UACT: sign * earned, UAKT: -flow.fees[UAKT]}
            assert flow.moved == {UACT: sign * earned, UAKT: -flow.fees[UAKT]}


async def test_a_silent_chain_is_an_error_and_no_empty_answer() -> None:
    view = ChainView(rpc="http://127.0.0.1:1", rest="http://127.0.0.1:1", timeout_s=1)
    with pytest.raises(RigError, match="did not answer"):
        await asyncio.to_thread(view.bids, TENANT.address)
