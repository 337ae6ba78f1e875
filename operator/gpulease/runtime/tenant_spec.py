"""A GPULease body as the tenant's planner wants it: compiled groups, manifest and limits, or why there are none."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpulease.errors import ConfigError
from gpulease.market.model import GroupSpec
from gpulease.market.pricing import ceiling_per_block
from gpulease.runtime.specs import (
    ChainSpec,
    ObjectName,
    WalletSpec,
    object_name,
    parse_chain,
    parse_wallet,
    usd_field,
)
from gpulease.tenancy.states import Wanted
from gpulease.units import Dec
from gpulease.workload.compile import compile_spec, gpu_words
from gpulease.workload.manifest import manifest_hash, to_json, validate

_DSEQ_DIGITS = 13
"""Enough that two objects of one wallet hardly ever meet, and small enough for clients that keep numbers as doubles.

All of one length: the chain takes the payments of account ``…/10`` for those of ``…/1`` too (akash reference §2.10).
"""


@dataclass(frozen=True, slots=True)
class TenantSpec:
    """``groups`` and ``manifest`` are empty when ``wanted.problem`` is set."""

    name: ObjectName
    uid: str
    chain: ChainSpec
    wallet: WalletSpec
    wanted: Wanted
    groups: tuple[GroupSpec, ...] = ()
    manifest: bytes = b""


def parse_where(body: Mapping[str, Any]) -> tuple[ChainSpec, WalletSpec]:
    """Which chain and which wallet; ``ConfigError`` otherwise."""
    try:
        return parse_chain(body["spec"]["chain"]), parse_wallet(body["spec"]["wallet"])
    except (KeyError, TypeError) as error:
        raise ConfigError(f"spec lacks {error}") from error


def parse(body: Mapping[str, Any], *, block_time_ns: int) -> TenantSpec:
    """``ConfigError`` only for chain and wallet; what is wrong with the rest is ``wanted.problem``."""
    chain, wallet = parse_where(body)
    name, uid, spec = object_name(body), str(body["metadata"]["uid"]), body["spec"]
    try:
        limit_uact = usd_field(spec, "maxUsdPerHour")
        budget, deposit = usd_field(spec, "budgetUsd"), usd_field(spec, "depositUsd", "0.5")
        ceiling = ceiling_per_block(limit_uact, block_time_ns)
        group, manifest = compile_spec(spec, ceiling=ceiling)
        validate(manifest)
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        words = f"spec lacks {error}" if isinstance(error, KeyError) else str(error)
        return TenantSpec(name, uid, chain, wallet, refused(words))
    wanted = Wanted(
        manifest_hash=manifest_hash(manifest),
        max_uact_per_block=ceiling,
        deposit_uact=min(deposit, budget),
        budget_uact=budget,
        bid_window_s=float(spec.get("bidWindowSeconds", 10)),
        gpu_words=gpu_words(group),
    )
    return TenantSpec(name, uid, chain, wallet, wanted, (group,), to_json(manifest))


def refused(words: str) -> Wanted:
    """What is wanted by a spec that cannot be read: nothing, for this reason."""
    return Wanted(b"", Dec(), 0, 0, 0.0, "", f"{words[:1].upper()}{words[1:]}")


def dseq_of(uid: str) -> int:
    """From the object's uid alone: however often the first step is repeated, it is the same deployment."""
    first: int = 10 ** (_DSEQ_DIGITS - 1)
    return first + int.from_bytes(hashlib.sha256(uid.encode()).digest(), "big") % (9 * first)
