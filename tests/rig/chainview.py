"""The chain as a bystander sees it: REST and RPC over plain HTTP, none of the operator's own client in between.

Amounts are integers of micro-units by denomination; escrow amounts carry fractions on chain and stay ``Decimal``.
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import gpulease.pb  # noqa: F401  (registers cosmos.*)
from gpulease.chain.tx import tx_hash
from gpulease.pb.akash.market.v1beta5 import leasemsg_pb2
from tests.rig.errors import RigError

from cosmos.authz.v1beta1 import tx_pb2 as authz_pb2
from cosmos.tx.v1beta1 import tx_pb2

Json = dict[str, Any]
_WITHDRAW = "/akash.market.v1beta5.MsgWithdrawLease"
_EXEC = "/cosmos.authz.v1beta1.MsgExec"


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A withdraw message that succeeded in a block. ``paid`` is what the whole transaction moved to ``provider``."""

    height: int
    tx: str
    provider: str
    dseq: int
    paid: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Escrow:
    """A deployment's or a bid's account: what is left in it and what it paid out, by denomination."""

    state: str
    funds: Mapping[str, Decimal]
    transferred: Mapping[str, Decimal]


@dataclass(frozen=True, slots=True)
class OnChain:
    """An order, bid, lease or deployment: its id's fields, its state, the height it was made at, and all the rest."""

    id: Mapping[str, Any]
    state: str
    height: int
    raw: Json
    escrow: Escrow | None = None

    @property
    def key(self) -> str:
        """``dseq/gseq/oseq``, as far as the id has them."""
        return "/".join(str(self.id[name]) for name in ("dseq", "gseq", "oseq") if name in self.id)


@dataclass(frozen=True, slots=True)
class Flow:
    """``moved`` is received minus spent, fees included in what was spent."""

    moved: Mapping[str, int]
    fees: Mapping[str, int]


class ChainView:
    """``rpc`` and ``rest`` are base URLs. Silence and refusals are :class:`RigError`: nothing follows from them."""

    def __init__(self, *, rpc: str, rest: str, timeout_s: float = 5.0) -> None:
        self.rpc, self.rest, self._timeout_s = rpc.rstrip("/"), rest.rstrip("/"), timeout_s
        self._times: dict[int, float] = {}

    # -- blocks ------------------------------------------------------------------------------------------------

    def height(self) -> int:
        return int(self._rpc("status")["sync_info"]["latest_block_height"])

    def chain_id(self) -> str:
        return str(self._rpc("status")["node_info"]["network"])

    def block_time_s(self, height: int) -> float:
        """Unix time of a block."""
        if height not in self._times:
            self._times[height] = _seconds(self._rpc("block", height=height)["block"]["header"]["time"])
        return self._times[height]

    def withdrawals(self, *, since: int, until: int | None = None) -> Iterator[Withdrawal]:
        """Successful withdraw messages in the blocks ``since``…``until`` (the newest one if not given)."""
        for height in range(since, (until if until is not None else self.height()) + 1):
            txs = self._rpc("block", height=height)["block"]["data"]["txs"] or []
            if not txs:
                continue
            results = self._rpc("block_results", height=height)["txs_results"] or []
            for text, result in zip(txs, results, strict=True):
                if int(result["code"]) == 0:
                    yield from _withdrawals(height, base64.b64decode(text), result)

    def flow(self, address: str, *, since: int, until: int | None = None) -> Flow:
        """What the blocks' bank events say that came and went for an account; failed transactions pay fees too."""
        moved: dict[str, int] = {}
        fees: dict[str, int] = {}
        for height in range(since, (until if until is not None else self.height()) + 1):
            results = self._rpc("block_results", height=height)
            parts = [result.get("events") or [] for result in results["txs_results"] or []]
            for events in (*parts, results.get("finalize_block_events") or []):
                for fields in _fields(events, "coin_received"):
                    if fields.get("receiver") == address:
                        _add(moved, fields["amount"])
                for fields in _fields(events, "coin_spent"):
                    if fields.get("spender") == address:
                        _add(moved, fields["amount"], -1)
                for fields in _fields(events, "tx"):
                    if fields.get("fee_payer") == address:
                        _add(fees, fields.get("fee", ""))
        return Flow(moved, fees)

    # -- market ------------------------------------------------------------------------------------------------

    def deployments(self, owner: str) -> list[OnChain]:
        found = self._pages("/akash/deployment/v1beta4/deployments/list", "deployments", {"filters.owner": owner})
        return [_entry(one["deployment"], one, one.get("escrow_account")) for one in found]

    def orders(self, owner: str) -> list[OnChain]:
        found = self._pages("/akash/market/v1beta5/orders/list", "orders", {"filters.owner": owner})
        return [_entry(one, one, None) for one in found]

    def bids(self, owner: str) -> list[OnChain]:
        """All bids on the owner's orders."""
        found = self._pages("/akash/market/v1beta5/bids/list", "bids", {"filters.owner": owner})
        return [_entry(one["bid"], one, one.get("escrow_account")) for one in found]

    def leases(self, owner: str) -> list[OnChain]:
        found = self._pages("/akash/market/v1beta5/leases/list", "leases", {"filters.owner": owner})
        return [_entry(one["lease"], one, None) for one in found]

    def provider(self, owner: str) -> Json | None:
        """The provider's record; None is the chain's own "not there"."""
        found = self._pages("/akash/provider/v1beta4/providers", "providers", {})
        return next((one for one in found if one["owner"] == owner), None)

    def certificates(self, owner: str) -> list[Json]:
        query = {"filter.owner": owner, "filter.state": "valid"}
        return self._pages("/akash/cert/v1/certificates/list", "certificates", query)

    # -- money -------------------------------------------------------------------------------------------------

    def balances(self, address: str) -> dict[str, int]:
        found = self._pages(f"/cosmos/bank/v1beta1/balances/{address}", "balances", {})
        return {str(coin["denom"]): int(coin["amount"]) for coin in found}

    # -- HTTP --------------------------------------------------------------------------------------------------

    def _pages(self, path: str, name: str, query: Mapping[str, str]) -> list[Any]:
        items: list[Any] = []
        key = ""
        while True:
            more = {"pagination.key": key} if key else {}
            answer = self._get(f"{self.rest}{path}?{urllib.parse.urlencode({**query, **more})}")
            items.extend(answer[name])
            key = (answer.get("pagination") or {}).get("next_key") or ""
            if not key:
                return items

    def _rpc(self, method: str, **params: int) -> Any:
        answer = self._get(f"{self.rpc}/{method}?{urllib.parse.urlencode(params)}")
        if "error" in answer:
            raise RigError(f"the chain refused {method}: {answer['error']}")
        return answer["result"]

    def _get(self, url: str) -> Any:
        try:
            with urllib.request.urlopen(url, timeout=self._timeout_s) as answer:
                return json.loads(answer.read())
        except (urllib.error.URLError, OSError, ValueError) as error:
            raise RigError(f"the chain did not answer {url}: {error}") from error


def _seconds(text: str) -> float:
    """RFC 3339 with up to nine digits of fraction."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")


def _entry(body: Mapping[str, Any], raw: Json, account: Mapping[str, Any] | None) -> OnChain:
    return OnChain(body["id"], str(body["state"]), int(body["created_at"]), raw, _escrow(account))


def _escrow(account: Mapping[str, Any] | None) -> Escrow | None:
    if account is None:
        return None
    state = account["state"]
    return Escrow(str(state["state"]), _decimals(state["funds"]), _decimals(state["transferred"]))


def _decimals(coins: list[Mapping[str, Any]]) -> dict[str, Decimal]:
    found: dict[str, Decimal] = {}
    for coin in coins:
        denom = str(coin["denom"])
        found[denom] = found.get(denom, Decimal(0)) + Decimal(coin["amount"])
    return found


def _withdrawals(height: int, raw: bytes, result: Mapping[str, Any]) -> Iterator[Withdrawal]:
    body = tx_pb2.TxBody.FromString(tx_pb2.TxRaw.FromString(raw).body_bytes)
    for message in _unwrapped(body.messages):
        if message.type_url == _WITHDRAW:
            lease = leasemsg_pb2.MsgWithdrawLease.FromString(message.value).id
            paid = _received(result.get("events") or [], lease.provider)
            yield Withdrawal(height, tx_hash(raw), lease.provider, int(lease.dseq), paid)


def _unwrapped(messages: Any) -> Iterator[Any]:
    for message in messages:
        if message.type_url == _EXEC:
            yield from authz_pb2.MsgExec.FromString(message.value).msgs
        else:
            yield message


def _received(events: list[Mapping[str, Any]], address: str) -> dict[str, int]:
    """What ``coin_received`` events of a transaction say that the address got."""
    found: dict[str, int] = {}
    for fields in _fields(events, "coin_received"):
        if fields.get("receiver") == address:
            _add(found, fields.get("amount", ""))
    return found


def _fields(events: list[Mapping[str, Any]], kind: str) -> Iterator[dict[str, str]]:
    for event in events:
        if event["type"] == kind:
            yield {str(a["key"]): str(a.get("value") or "") for a in event.get("attributes") or ()}


def _add(total: dict[str, int], coins: str, sign: int = 1) -> None:
    """Coins as the bank writes them, ``12uact,3uakt``."""
    for coin in filter(None, coins.split(",")):
        denom = coin.lstrip("0123456789")
        total[denom] = total.get(denom, 0) + sign * int(coin.removesuffix(denom))
