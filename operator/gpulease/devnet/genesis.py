"""Genesis: accounts, balances and module parameters, read from or made in the recordings' form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from gpulease.devnet import addresses, auth, bank, bme, oracle
from gpulease.devnet.context import Context
from gpulease.units import NS_PER_S, Coin


def time_ns(text: str) -> int:
    """RFC 3339 with up to 9 fraction digits."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
    return seconds * NS_PER_S + int(fraction.ljust(9, "0") or "0")


def params(raw: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Module parameters by module; ``auth`` keeps its one nested level."""
    app = raw["app_state"]
    found = {name: dict(app[name].get("params", {})) for name in ("market", "deployment", "bme", "oracle", "bank")}
    found["auth"] = {"params": dict(app["auth"]["params"])}
    return found


def load(ctx: Context, raw: Mapping[str, Any]) -> None:
    """Accounts in their genesis order, so that account numbers are the real chain's."""
    app = raw["app_state"]
    for entry in app["auth"]["accounts"]:
        if auth.get(ctx, entry["address"]) is None:
            auth.create(ctx, entry["address"])
    for entry in app["bank"]["balances"]:
        for coin in entry["coins"]:
            bank.issue(ctx, entry["address"], Coin(coin["denom"], int(coin["amount"])))
    for name in auth.GENESIS_MODULES:
        auth.ensure(ctx, addresses.module(name))
    oracle.load(ctx)
    bme.load(ctx, app["bme"].get("state") or {})


def default(
    *,
    chain_id: str,
    accounts: Mapping[str, Sequence[Coin]],
    now_ns: int,
    order_max_bids: int = 20,
    price_sources: Sequence[str] = (),
) -> dict[str, Any]:
    """A genesis with mainnet's default parameters (reference: akash market, deployment, bme, oracle).

    ``price_sources`` may feed the price of AKT; mainnet's stricter staleness and spread would need several of them.
    """
    stamp = datetime.fromtimestamp(now_ns // NS_PER_S, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S")
    deposits = [{"denom": "uact", "amount": "500000"}, {"denom": "uakt", "amount": "500000"}]
    return {
        "chain_id": chain_id,
        "genesis_time": f"{stamp}.{now_ns % NS_PER_S:09d}Z",
        "initial_height": 1,
        "app_state": {
            "auth": {
                "params": {
                    "max_memo_characters": "256",
                    "tx_sig_limit": "7",
                    "tx_size_cost_per_byte": "10",
                    "sig_verify_cost_ed25519": "590",
                    "sig_verify_cost_secp256k1": "1000",
                },
                "accounts": [{"address": address} for address in accounts],
            },
            "bank": {
                "params": {"send_enabled": [], "default_send_enabled": True},
                "balances": [
                    {"address": a, "coins": [{"denom": c.denom, "amount": str(c.amount)} for c in coins]}
                    for a, coins in accounts.items()
                ],
            },
            "market": {
                "params": {
                    "bid_min_deposit": {"denom": "uakt", "amount": "500000"},
                    "order_max_bids": order_max_bids,
                    "bid_min_deposits": deposits,
                    "min_reclamation_window": "3600s",
                    "max_reclamation_window": "2592000s",
                }
            },
            "deployment": {"params": {"min_deposits": list(reversed(deposits))}},
            "bme": {
                "params": {
                    "circuit_breaker_warn_threshold": 9500,
                    "circuit_breaker_halt_threshold": 9000,
                    "min_epoch_blocks": "10",
                    "epoch_blocks_backoff_percent": 10,
                    "mint_spread_bps": 25,
                    "settle_spread_bps": 0,
                    "max_endblocker_records": 50,
                    "min_mint": [{"denom": "uact", "amount": "10000000"}],
                    "max_pending_attempts": 3,
                },
                "state": {
                    "total_burned": [{"denom": denom, "amount": "0"} for denom in ("uact", "uakt")],
                    "total_minted": [{"denom": denom, "amount": "0"} for denom in ("uact", "uakt")],
                    "remint_credits": [{"denom": "uakt", "amount": "0"}],
                },
            },
            "oracle": {
                "params": {
                    "sources": list(price_sources),
                    "min_price_sources": 1,
                    "max_price_staleness_period": "600s",
                    "twap_window": "5s",
                    "max_price_deviation_bps": "1000",
                    "feed_contracts_params": [],
                    "price_retention": "86400s",
                    "prune_epoch": "hour",
                    "max_prune_per_epoch": "1000",
                    "max_future_time_drift": "10s",
                }
            },
        },
    }
