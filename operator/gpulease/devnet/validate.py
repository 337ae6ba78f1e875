"""Stateless checks of messages (ValidateBasic), made in CheckTx and again in a block before anything is read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from gpulease.devnet import addresses, bank, certs, errors, gotext
from gpulease.devnet.render import dec_text
from gpulease.pb.akash.base.deposit.v1 import deposit_pb2
from gpulease.pb.akash.escrow.id.v1 import id_pb2
from gpulease.units import UAKT, Dec

MIN_CPU_MILLI, MAX_CPU_MILLI = 10, 384_000
MIN_MEMORY, MAX_MEMORY = 1 << 20, 2 << 40
MIN_STORAGE, MAX_STORAGE = 5 << 20, 32 << 40
MAX_GPU = 24
MAX_PRICE = 10_000_000
GROUP_FACTOR = 50
HASH_BYTES = 32
_WILDCARD_KEY = re.compile(r"^([a-zA-Z][\w\/\.\-]{1,126}[\w\*]?)\Z", re.ASCII)
_PLAIN_KEY = re.compile(r"^([a-zA-Z][\w\/\.\-]{1,126})\Z", re.ASCII)
_UINT64 = re.compile(r"^[0-9]{1,20}\Z")


def check(msg: Any) -> None:
    """Raise the error the real chain gives for a message that is wrong in itself."""
    rule = _RULES.get(msg.DESCRIPTOR.full_name)
    if rule is not None:
        rule(msg)


def _amount(value: Any) -> int:
    return int(bytes(value.val).decode() or "0")


# --- ids -----------------------------------------------------------------------------------------------------------


def _invalid_address(words: str) -> errors.ModuleError:
    return errors.sdk(7, f"{words}: invalid address")


def _deployment_id(id_: Any) -> None:
    if addresses.decode(id_.owner) is None:
        raise _invalid_address("DeploymentID: Invalid Owner Address")
    if not id_.dseq:
        raise errors.sdk(3, "DeploymentID: Invalid Deployment Sequence: invalid sequence")


def _group_id(id_: Any) -> None:
    try:
        _deployment_id(id_)
    except errors.ModuleError as error:
        raise error.wrap("GroupID: Invalid DeploymentID") from error
    if not id_.gseq:
        raise errors.sdk(3, "GroupID: Invalid Group Sequence: invalid sequence")


def _order_id(id_: Any) -> None:
    try:
        _group_id(id_)
    except errors.ModuleError as error:
        raise error.wrap("OrderID: Invalid GroupID") from error
    if not id_.oseq:
        raise errors.sdk(3, "OrderID: Invalid Order Sequence: invalid sequence")


def _bid_id(id_: Any) -> None:
    try:
        _order_id(id_)
    except errors.ModuleError as error:
        raise error.wrap("BidID: Invalid OrderID") from error
    if addresses.decode(id_.provider) is None:
        raise _invalid_address("BidID: Invalid Provider Address")
    if id_.owner == id_.provider:
        raise errors.sdk(36, "BidID: self-bid: conflict")
    if id_.bseq != 0:
        raise errors.sdk(36, "BidID: invalid bseq: conflict")


def _lease_id(id_: Any) -> None:
    try:
        _bid_id(id_)
    except errors.ModuleError as error:
        raise error.wrap("LeaseID: Invalid BidID") from error


def _escrow_id(id_: Any) -> None:
    parts = id_.xid.split("/")
    wanted = {id_pb2.deployment: 2, id_pb2.bid: 5}.get(id_.scope)
    if wanted is None:
        raise errors.escrow(12, "invalid scope: invalid ID")
    if len(parts) != wanted:
        raise errors.escrow(12, "invalid xid format: invalid ID")
    names = ("owner", "dseq", "gseq", "oseq", "provider")
    for name, part in zip(names, parts, strict=False):
        if name in ("owner", "provider"):
            problem = "" if addresses.decode(part) is not None else addresses.problem(part)
        else:
            problem = "" if _UINT64.match(part) else f"strconv.ParseUint: parsing {gotext.quoted(part)}: invalid syntax"
        if problem:
            raise errors.escrow(12, f"invalid xid/{name}: {problem}: invalid ID")


# --- deposits ------------------------------------------------------------------------------------------------------


def _coin(coin: Any) -> None:
    if not bank.is_denom(coin.denom):
        raise errors.undefined(f"invalid denom: {coin.denom}")
    if int(coin.amount or "0") < 0:
        raise errors.undefined(f"negative coin amount: {coin.amount}")


def _sources(sources: Iterable[int]) -> None:
    seen: set[int] = set()
    for source in sources:
        if source not in (deposit_pb2.balance, deposit_pb2.grant):
            raise _bad_source(f"empty deposit source type {source}")
        if source in seen:
            raise _bad_source(f"duplicate deposit source type {source}")
        seen.add(source)
    if not seen:
        raise _bad_source("empty deposit sources")


def _bad_source(words: str) -> errors.ModuleError:
    return errors.ModuleError("akash", 4, f"{words}: invalid deposit source")


def _deposit(deposit: Any) -> None:
    _coin(deposit.amount)
    _sources(deposit.sources)


def account_deposit(msg: Any) -> None:
    if addresses.decode(msg.signer) is None:
        raise errors.undefined(addresses.problem(msg.signer))
    _escrow_id(msg.id)
    if not int(msg.deposit.amount.amount or "0"):
        raise errors.escrow(16, "invalid deposit")
    _sources(msg.deposit.sources)


# --- deployments ---------------------------------------------------------------------------------------------------


def create_deployment(msg: Any) -> None:
    _deployment_id(msg.id)
    _deposit(msg.deposit)
    if not msg.groups:
        raise errors.deployment(7, "Invalid groups")
    _hash(msg.hash)
    if msg.HasField("reclamation") and msg.reclamation.min_window.ToNanoseconds() < 0:
        raise errors.deployment(26, "min_window must be >= 0: invalid reclamation configuration")
    amount = msg.deposit.amount
    for group in msg.groups:
        _group(group)
        denom = group.resources[0].price.denom
        if int(amount.amount or "0") and amount.denom != denom:
            raise errors.deployment(20, f"Mismatched denominations ({amount.denom} != {denom}): Deposit invalid")


def _hash(given: bytes) -> None:
    if not given:
        raise errors.deployment(9, "Invalid: empty hash")
    if len(given) != HASH_BYTES:
        raise errors.deployment(10, "Invalid: deployment hash")


def update_deployment(msg: Any) -> None:
    _deployment_id(msg.id)
    _hash(msg.hash)


def _group(group: Any) -> None:
    if not group.name:
        raise errors.undefined("empty group spec name denomination")
    ids: set[int] = set()
    for unit in group.resources:
        _resources(unit.resource)
        if unit.resource.id in ids:
            raise errors.undefined(f"duplicate resources ID ({unit.resource.id}) within group")
        ids.add(unit.resource.id)
    _totals(group.resources)
    for index, unit in enumerate(group.resources):
        _price(group.name, unit.price)
        first = group.resources[0].price.denom
        if index and unit.price.denom != first:
            raise errors.undefined(f"multi-denonimation group: ({unit.price.denom} == {first} fails)")


def _price(group: str, price: Any) -> None:
    amount = Dec(int(price.amount or "0"))
    if not bank.is_denom(price.denom) or amount < Dec():
        raise errors.undefined(f"group {group}: error: invalid price object")
    if Dec.of(MAX_PRICE) < amount:
        shown = f"{dec_text(price.amount)}{price.denom}"
        raise errors.undefined(f"group {group}: error: invalid unit price ({MAX_PRICE} > {shown} fails)")


def _resources(resource: Any) -> None:
    if not resource.id:
        raise errors.undefined("error: invalid resources ID (> 0 fails)")
    for field, name in (("cpu", "CPU"), ("gpu", "GPU"), ("memory", "memory")):
        if not resource.HasField(field):
            # The order of the checks below decides which of several is named.
            _before(resource, field)
            raise errors.undefined(f"error: invalid unit {name}, cannot be nil")
    _before(resource, None)
    if not resource.storage:
        raise errors.undefined("error: invalid unit storage, cannot be nil")
    for volume in resource.storage:
        size = _amount(volume.quantity)
        if not MIN_STORAGE <= size <= MAX_STORAGE:
            raise errors.undefined(f"error: invalid unit storage ({MAX_STORAGE} > {size} > {MIN_STORAGE} fails)")
        _unit_attributes("Storage", volume.attributes)


def _before(resource: Any, stop: str | None) -> None:
    """The checks of CPU, GPU and memory up to ``stop``."""
    for field, rule in (("cpu", _cpu), ("gpu", _gpu), ("memory", _memory)):
        if field == stop:
            return
        rule(getattr(resource, field))


def _cpu(cpu: Any) -> None:
    units = _amount(cpu.units)
    if not MIN_CPU_MILLI <= units <= MAX_CPU_MILLI:
        raise errors.undefined(f"error: invalid unit CPU ({MAX_CPU_MILLI} > {units} > {MAX_CPU_MILLI} fails)")
    _unit_attributes("CPU", cpu.attributes)


def _gpu(gpu: Any) -> None:
    units = _amount(gpu.units)
    if units > MAX_GPU:
        raise errors.undefined(f"error: invalid unit GPU ({MAX_GPU} > {units} > {MAX_GPU} fails)")
    if units == 0 and gpu.attributes:
        raise errors.undefined("error: invalid GPU state. attributes cannot be present if units == 0")
    _unit_attributes("GPU", gpu.attributes)


def _memory(memory: Any) -> None:
    size = _amount(memory.quantity)
    if not MIN_MEMORY <= size <= MAX_MEMORY:
        raise errors.undefined(f"error: invalid unit memory ({MAX_MEMORY} > {size} > {MAX_MEMORY} fails)")
    _unit_attributes("Memory", memory.attributes)


def _unit_attributes(name: str, attributes: Iterable[Any]) -> None:
    problem = _attribute_problem(attributes, _WILDCARD_KEY)
    if problem is not None:
        raise errors.undefined(f"error: invalid {name} attributes: {problem.text}")


def _attribute_problem(attributes: Iterable[Any], pattern: re.Pattern[str]) -> errors.ModuleError | None:
    seen: set[str] = set()
    for attribute in attributes:
        if pattern.match(attribute.key) is None:
            return errors.ModuleError("akash", 2, "attribute key does not match regexp")
        if attribute.key in seen:
            return errors.ModuleError("akash", 1, "attributes cannot have duplicate keys")
        seen.add(attribute.key)
    return None


def _totals(units: Any) -> None:
    cpu = sum(_amount(u.resource.cpu.units) * u.count for u in units)
    gpu = sum(_amount(u.resource.gpu.units) * u.count for u in units)
    memory = sum(_amount(u.resource.memory.quantity) * u.count for u in units)
    storage = [_amount(v.quantity) * u.count for u in units for v in u.resource.storage]
    for name, total, most in (
        ("CPU", cpu, MAX_CPU_MILLI * GROUP_FACTOR),
        ("GPU", gpu, MAX_GPU * GROUP_FACTOR),
        ("memory", memory, MAX_MEMORY * GROUP_FACTOR),
    ):
        if not 0 < total <= most and (total or name != "GPU"):
            raise errors.undefined(f"invalid total {name} ({most} > {total} > 0 fails)")
    most = MAX_STORAGE * GROUP_FACTOR
    if any(not 0 < size <= most for size in storage):
        shown = " ".join(map(str, storage))
        raise errors.undefined(f"invalid total storage ({most} > [{shown}] > 0 fails)")


# --- market --------------------------------------------------------------------------------------------------------


def create_bid(msg: Any) -> None:
    _bid_id(msg.id)
    _deposit(msg.deposit)
    if not int(msg.price.amount or "0"):
        raise errors.market(19, "invalid bid: zero price")


def close_bid(msg: Any) -> None:
    _bid_id(msg.id)
    _reason(msg.reason)


def _reason(reason: int) -> None:
    if not 10000 <= reason <= 19999:
        raise errors.market(33, f'value "{reason}" range 10000..19999: invalid lease closed reason')


def start_reclaim(msg: Any) -> None:
    _lease_id(msg.id)
    _reason(msg.reason)


# --- providers, auditors, certificates -----------------------------------------------------------------------------


def _provider(msg: Any, verb: str) -> None:
    _host_uri(msg.host_uri)
    if addresses.decode(msg.owner) is None:
        raise _invalid_address(f"{verb}: Invalid Provider Address")
    problem = _attribute_problem(msg.attributes, _PLAIN_KEY)
    if problem is not None:
        raise problem


def _host_uri(uri: str) -> None:
    shown = gotext.quoted(uri)
    try:
        parts = urlsplit(uri)
        host = parts.netloc
    except ValueError:
        raise errors.provider(1, "invalid provider: invalid host uri") from None
    if not parts.scheme:
        raise errors.provider(2, f"validating {shown} for absolute URI: invalid provider: not absolute host uri")
    if parts.scheme != "https":
        raise errors.provider(1, f"scheme in {shown} should be https: invalid provider: invalid host uri")
    if not host:
        raise errors.provider(1, f"validating {shown} for valid host: invalid provider: invalid host uri")
    if parts.path:
        raise errors.provider(1, f"path in {shown} should be empty: invalid provider: invalid host uri")


def _audit(msg: Any, verb: str) -> None:
    for field in ("owner", "auditor"):
        if addresses.decode(getattr(msg, field)) is None:
            raise _invalid_address(f"{verb}: Invalid {field.capitalize()} Address")


def create_certificate(msg: Any) -> None:
    if addresses.decode(msg.owner) is None:
        raise _invalid_address("MsgCreateCertificate: Invalid Owner Address")
    certs.check(msg.owner, bytes(msg.cert), bytes(msg.pubkey))


def revoke_certificate(msg: Any) -> None:
    if addresses.decode(msg.id.owner) is None:
        raise _invalid_address("MsgRevoke: Invalid Owner Address")
    if certs.serial_number(msg.id.serial) is None:
        raise errors.cert(5, "invalid serial number")


# --- prices, burn and mint -----------------------------------------------------------------------------------------


def _swap(msg: Any) -> None:
    for field in ("owner", "to"):
        address = getattr(msg, field)
        if addresses.decode(address) is None:
            raise _invalid_address(f"invalid {field} address: {addresses.problem(address)}")
    if msg.owner != msg.to:
        raise errors.ModuleError("bme", 3, "owner and to addresses must match: unauthorized")
    try:
        _coin(msg.coins_to_burn)
    except errors.ModuleError as error:
        raise errors.sdk(10, f"invalid coins: {error.text}: invalid coins") from error
    if not int(msg.coins_to_burn.amount or "0"):
        raise errors.ModuleError("bme", 8, "amount must not be 0: invalid amount")
    if "denom_to_mint" in msg.DESCRIPTOR.fields_by_name and not bank.is_denom(msg.denom_to_mint):
        words = f"invalid denom to mint: invalid denom: {msg.denom_to_mint}"
        raise errors.ModuleError("bme", 9, f"{words}: invalid denomination")


def fund_vault(msg: Any) -> None:
    if addresses.decode(msg.authority) is None:
        words = f"invalid authority address: {addresses.problem(msg.authority)}"
        raise errors.ModuleError("bme", 3, f"{words}: unauthorized")
    if int(msg.amount.amount or "0") <= 0:
        raise errors.ModuleError("bme", 8, "amount must be positive: invalid amount")
    if msg.amount.denom != UAKT:
        raise errors.ModuleError("bme", 9, f"expected uakt, got {msg.amount.denom}: invalid denomination")


_RULES = {
    "akash.deployment.v1beta4.MsgCreateDeployment": create_deployment,
    "akash.deployment.v1beta4.MsgUpdateDeployment": update_deployment,
    "akash.deployment.v1beta4.MsgCloseDeployment": lambda msg: _deployment_id(msg.id),
    "akash.deployment.v1beta4.MsgCloseGroup": lambda msg: _group_id(msg.id),
    "akash.deployment.v1beta4.MsgPauseGroup": lambda msg: _group_id(msg.id),
    "akash.deployment.v1beta4.MsgStartGroup": lambda msg: _group_id(msg.id),
    "akash.escrow.v1.MsgAccountDeposit": account_deposit,
    "akash.market.v1beta5.MsgCreateBid": create_bid,
    "akash.market.v1beta5.MsgCloseBid": close_bid,
    "akash.market.v1beta5.MsgCreateLease": lambda msg: _bid_id(msg.bid_id),
    "akash.market.v1beta5.MsgCloseLease": lambda msg: _lease_id(msg.id),
    "akash.market.v1beta5.MsgWithdrawLease": lambda msg: _lease_id(msg.id),
    "akash.market.v1beta5.MsgLeaseStartReclaim": start_reclaim,
    "akash.provider.v1beta4.MsgCreateProvider": lambda msg: _provider(msg, "MsgCreate"),
    "akash.provider.v1beta4.MsgUpdateProvider": lambda msg: _provider(msg, "MsgUpdate"),
    "akash.audit.v1.MsgSignProviderAttributes": lambda msg: _audit(msg, "MsgCreate"),
    "akash.audit.v1.MsgDeleteProviderAttributes": lambda msg: _audit(msg, "MsgDelete"),
    "akash.cert.v1.MsgCreateCertificate": create_certificate,
    "akash.cert.v1.MsgRevokeCertificate": revoke_certificate,
    "akash.bme.v1.MsgMintACT": _swap,
    "akash.bme.v1.MsgBurnACT": _swap,
    "akash.bme.v1.MsgBurnMint": _swap,
    "akash.bme.v1.MsgFundVault": fund_vault,
}
