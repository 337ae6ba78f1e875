"""Stateless checks of messages (ValidateBasic), which CheckTx makes before anything is read."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from gpulease.devnet import certs, errors
from gpulease.devnet.render import dec_text
from gpulease.units import UACT, UAKT, Dec

MIN_CPU_MILLI, MAX_CPU_MILLI = 10, 384_000
MIN_MEMORY, MAX_MEMORY = 1 << 20, 2 << 40
MIN_STORAGE, MAX_STORAGE = 5 << 20, 32 << 40
MAX_GPU = 24
MAX_PRICE = 10_000_000
_ATTRIBUTE_KEY = re.compile(r"^([a-zA-Z][\w\/\.\-]{1,126}[\w\*]?)$")


def check(msg: Any) -> None:
    """Raise the error the real chain gives for a message that is wrong in itself."""
    rule = _RULES.get(msg.DESCRIPTOR.full_name)
    if rule is not None:
        rule(msg)


def _amount(value: Any) -> int:
    return int(bytes(value.val).decode() or "0")


def _deposit(msg: Any) -> None:
    if msg.deposit.amount.denom == UAKT:
        raise errors.deployment(20, f"Mismatched denominations ({UAKT} != {UACT}): Deposit invalid")


def create_deployment(msg: Any) -> None:
    if not msg.groups:
        raise errors.deployment(7, "Invalid groups")
    if len(msg.hash) != 32:
        raise errors.deployment(10, "Invalid: deployment hash")
    for group in msg.groups:
        _group(group)
    denom = msg.groups[0].resources[0].price.denom
    if msg.deposit.amount.denom != denom:
        raise errors.deployment(
            20, f"Mismatched denominations ({msg.deposit.amount.denom} != {denom}): Deposit invalid"
        )


def update_deployment(msg: Any) -> None:
    if len(msg.hash) != 32:
        raise errors.deployment(10, "Invalid: deployment hash")


def _group(group: Any) -> None:
    if not group.name:
        raise errors.deployment(7, "empty group spec name denomination")
    if not group.resources:
        raise errors.undefined(f"group {group.name}: empty resource unit")
    for unit in group.resources:
        _resources(unit.resource)
    for unit in group.resources:
        price = Dec(int(unit.price.amount or "0"))
        if Dec.of(MAX_PRICE) < price:
            shown = f"{dec_text(unit.price.amount)}{unit.price.denom}"
            raise errors.undefined(f"group {group.name}: error: invalid unit price ({MAX_PRICE} > {shown} fails)")
    for attribute in group.requirements.attributes:
        if _ATTRIBUTE_KEY.match(attribute.key) is None:
            raise errors.undefined("invalid attribute key")


def _resources(resource: Any) -> None:
    cpu = _amount(resource.cpu.units)
    if not MIN_CPU_MILLI <= cpu <= MAX_CPU_MILLI:
        raise errors.undefined(f"error: invalid unit CPU ({MAX_CPU_MILLI} > {cpu} > {MAX_CPU_MILLI} fails)")
    gpu = _amount(resource.gpu.units)
    if gpu > MAX_GPU:
        raise errors.undefined(f"error: invalid unit GPU ({MAX_GPU} > {gpu} > {MAX_GPU} fails)")
    if gpu == 0 and resource.gpu.attributes:
        raise errors.undefined("error: invalid GPU state. attributes cannot be present if units == 0")
    memory = _amount(resource.memory.quantity)
    if not MIN_MEMORY <= memory <= MAX_MEMORY:
        raise errors.undefined(f"error: invalid unit memory ({MAX_MEMORY} > {memory} > {MAX_MEMORY} fails)")
    for volume in resource.storage:
        size = _amount(volume.quantity)
        if not MIN_STORAGE <= size <= MAX_STORAGE:
            raise errors.undefined(f"error: invalid unit storage ({MAX_STORAGE} > {size} > {MAX_STORAGE} fails)")


def create_bid(msg: Any) -> None:
    _bid_id(msg.id)
    if not int(msg.price.amount or "0"):
        raise errors.market(19, "invalid bid: zero price")


def _bid_id(bid_id: Any) -> None:
    if bid_id.owner == bid_id.provider:
        raise errors.sdk(36, "BidID: self-bid: conflict")
    if bid_id.bseq != 0:
        raise errors.sdk(36, "BidID: invalid bseq: conflict")


def close_bid(msg: Any) -> None:
    _bid_id(msg.id)
    _reason(msg.reason)


def _reason(reason: int) -> None:
    if not 10000 <= reason <= 19999:
        raise errors.market(33, f'value "{reason}" range 10000..19999: invalid lease closed reason')


def start_reclaim(msg: Any) -> None:
    _reason(msg.reason)


def provider_record(msg: Any) -> None:
    parts = urlsplit(msg.host_uri)
    if not parts.scheme or not (parts.netloc or parts.path.startswith("/")):
        raise errors.provider(
            2, f'validating "{msg.host_uri}" for absolute URI: invalid provider: not absolute host uri'
        )
    if parts.path not in ("", "/") or parts.query:
        raise errors.provider(2, f'path in "{msg.host_uri}" for absolute URI: invalid provider: path in host uri')


def create_certificate(msg: Any) -> None:
    certs.check(msg.owner, bytes(msg.cert), bytes(msg.pubkey))


_RULES = {
    "akash.deployment.v1beta4.MsgCreateDeployment": create_deployment,
    "akash.deployment.v1beta4.MsgUpdateDeployment": update_deployment,
    "akash.market.v1beta5.MsgCreateBid": create_bid,
    "akash.market.v1beta5.MsgCloseBid": close_bid,
    "akash.market.v1beta5.MsgLeaseStartReclaim": start_reclaim,
    "akash.provider.v1beta4.MsgCreateProvider": provider_record,
    "akash.provider.v1beta4.MsgUpdateProvider": provider_record,
    "akash.cert.v1.MsgCreateCertificate": create_certificate,
}
