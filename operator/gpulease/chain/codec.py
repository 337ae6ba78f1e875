"""Between the wire and the market room's values: query answers in, messages out."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

import gpulease.pb  # noqa: F401  (registers cosmos.*)
from gpulease.ids import DeploymentId, GroupId, LeaseId, OrderId
from gpulease.market import model as m
from gpulease.pb.akash.base.attributes.v1 import attribute_pb2
from gpulease.pb.akash.base.deposit.v1 import deposit_pb2
from gpulease.pb.akash.base.resources.v1beta4 import resources_pb2
from gpulease.pb.akash.cert.v1 import cert_pb2
from gpulease.pb.akash.cert.v1 import msg_pb2 as cert_msg
from gpulease.pb.akash.deployment.v1 import deployment_pb2
from gpulease.pb.akash.deployment.v1beta4 import deploymentmsg_pb2, group_pb2, groupspec_pb2
from gpulease.pb.akash.escrow.id.v1 import id_pb2
from gpulease.pb.akash.escrow.types.v1 import state_pb2
from gpulease.pb.akash.escrow.v1 import msg_pb2 as escrow_msg
from gpulease.pb.akash.market.v1 import bid_pb2 as bid_id_pb2
from gpulease.pb.akash.market.v1 import lease_pb2, types_pb2
from gpulease.pb.akash.market.v1 import order_pb2 as order_id_pb2
from gpulease.pb.akash.market.v1beta5 import bid_pb2, bidmsg_pb2, leasemsg_pb2, order_pb2
from gpulease.pb.akash.provider.v1beta4 import msg_pb2 as provider_msg
from gpulease.units import Coin, Dec, DecCoin

from cosmos.base.v1beta1 import coin_pb2

# --- in ------------------------------------------------------------------------------------------------------------


def dec(text: str) -> Dec:
    """A LegacyDec's wire text: an integer times 10^18."""
    return Dec(int(text or "0"))


def dec_coin(raw: Any) -> DecCoin:
    return DecCoin(str(raw.denom), dec(raw.amount))


def coin(raw: Any) -> Coin:
    return Coin(str(raw.denom), int(raw.amount or "0"))


def _attributes(raw: Any) -> tuple[m.Attribute, ...]:
    return tuple(m.Attribute(a.key, a.value) for a in raw)


def _value(raw: Any) -> int:
    return int(bytes(raw.val).decode() or "0")


def group_spec(raw: Any) -> m.GroupSpec:
    return m.GroupSpec(
        name=raw.name,
        requirements=m.PlacementRequirements(
            _attributes(raw.requirements.attributes),
            tuple(raw.requirements.signed_by.all_of),
            tuple(raw.requirements.signed_by.any_of),
        ),
        resources=tuple(
            m.ResourceUnit(_resources(unit.resource), int(unit.count), dec_coin(unit.price)) for unit in raw.resources
        ),
    )


def _resources(raw: Any) -> m.Resources:
    return m.Resources(
        id=int(raw.id),
        cpu_milli=_value(raw.cpu.units),
        memory_bytes=_value(raw.memory.quantity),
        storage=tuple(m.Storage(s.name, _value(s.quantity), _attributes(s.attributes)) for s in raw.storage),
        gpu_units=_value(raw.gpu.units),
        gpu_attributes=_attributes(raw.gpu.attributes),
        endpoints=tuple(m.Endpoint(m.EndpointKind(e.kind), int(e.sequence_number)) for e in raw.endpoints),
        cpu_attributes=_attributes(raw.cpu.attributes),
        memory_attributes=_attributes(raw.memory.attributes),
    )


def _enum_name(enum: Any, number: int) -> str:
    return str(enum.Name(number))


def escrow_account(raw: Any) -> m.EscrowAccount:
    state = raw.state
    return m.EscrowAccount(
        scope=_enum_name(id_pb2.Scope, raw.id.scope),
        xid=raw.id.xid,
        owner=state.owner,
        state=m.EscrowState(_enum_name(state_pb2.State, state.state)),
        settled_at=int(state.settled_at),
        funds=tuple(DecCoin(f.denom, dec(f.amount)) for f in state.funds),
        transferred=tuple(dec_coin(t) for t in state.transferred),
        deposits=tuple(
            m.EscrowDeposit(d.owner, int(d.height), _enum_name(deposit_pb2.Source, d.source), dec_coin(d.balance))
            for d in state.deposits
        ),
    )


def escrow_payment(raw: Any) -> m.EscrowPayment:
    state = raw.state
    return m.EscrowPayment(
        scope=_enum_name(id_pb2.Scope, raw.id.aid.scope),
        account_xid=raw.id.aid.xid,
        xid=raw.id.xid,
        owner=state.owner,
        state=m.EscrowState(_enum_name(state_pb2.State, state.state)),
        rate=dec_coin(state.rate),
        balance=dec_coin(state.balance),
        unsettled=dec_coin(state.unsettled),
        withdrawn=coin(state.withdrawn),
    )


def deployment(raw: Any) -> m.Deployment:
    """From a QueryDeploymentResponse."""
    d = raw.deployment
    return m.Deployment(
        id=DeploymentId(d.id.owner, int(d.id.dseq)),
        state=m.DeploymentState(_enum_name(deployment_pb2.Deployment.State, d.state)),
        hash=bytes(d.hash),
        created_at=int(d.created_at),
        groups=tuple(group(g) for g in raw.groups),
        escrow=escrow_account(raw.escrow_account),
    )


def group(raw: Any) -> m.Group:
    return m.Group(
        id=GroupId(raw.id.owner, int(raw.id.dseq), int(raw.id.gseq)),
        state=m.GroupState(_enum_name(group_pb2.Group.State, raw.state)),
        spec=group_spec(raw.group_spec),
        created_at=int(raw.created_at),
    )


def order(raw: Any) -> m.Order:
    window = None
    if raw.HasField("reclamation"):
        window = int(raw.reclamation.min_window.seconds)
    return m.Order(
        id=OrderId(raw.id.owner, int(raw.id.dseq), int(raw.id.gseq), int(raw.id.oseq)),
        state=m.OrderState(_enum_name(order_pb2.Order.State, raw.state)),
        spec=group_spec(raw.spec),
        created_at=int(raw.created_at),
        reclamation_min_window_s=window,
    )


def lease_id(raw: Any) -> LeaseId:
    """From a BidID or LeaseID."""
    return LeaseId(raw.owner, int(raw.dseq), int(raw.gseq), int(raw.oseq), raw.provider)


def bid(raw: Any) -> m.Bid:
    """From a QueryBidResponse."""
    return m.Bid(
        id=lease_id(raw.bid.id),
        state=m.BidState(_enum_name(bid_pb2.Bid.State, raw.bid.state)),
        price=dec_coin(raw.bid.price),
        created_at=int(raw.bid.created_at),
        deposit=escrow_account(raw.escrow_account) if raw.HasField("escrow_account") else None,
    )


def lease(raw: Any) -> m.Lease:
    """From a QueryLeaseResponse."""
    entry = raw.lease
    return m.Lease(
        id=lease_id(entry.id),
        state=m.LeaseState(_enum_name(lease_pb2.Lease.State, entry.state)),
        price=dec_coin(entry.price),
        created_at=int(entry.created_at),
        closed_on=int(entry.closed_on),
        reason="" if entry.reason == 0 else _enum_name(types_pb2.LeaseClosedReason, entry.reason),
        payment=escrow_payment(raw.escrow_payment) if raw.HasField("escrow_payment") else None,
        reclamation_window_s=int(entry.reclamation.window.seconds) if entry.HasField("reclamation") else None,
        reclamation_deadline_s=int(entry.reclamation.deadline) or None if entry.HasField("reclamation") else None,
    )


def provider(raw: Any) -> m.ProviderRecord:
    return m.ProviderRecord(raw.owner, raw.host_uri, _attributes(raw.attributes), raw.info.email, raw.info.website)


def certificate(owner: str, raw: Any) -> m.Certificate:
    """From a CertificateResponse."""
    entry = raw.certificate
    return m.Certificate(
        owner=owner,
        serial=raw.serial,
        valid=entry.state == cert_pb2.valid,
        cert_pem=bytes(entry.cert),
        pubkey_pem=bytes(entry.pubkey),
    )


# --- out -----------------------------------------------------------------------------------------------------------


def pb_deployment_id(id_: DeploymentId) -> Any:
    return deployment_pb2.DeploymentID(owner=id_.owner, dseq=id_.dseq)


def pb_order_id(id_: OrderId) -> Any:
    return order_id_pb2.OrderID(owner=id_.owner, dseq=id_.dseq, gseq=id_.gseq, oseq=id_.oseq)


def pb_bid_id(id_: LeaseId) -> Any:
    return bid_id_pb2.BidID(
        owner=id_.owner, dseq=id_.dseq, gseq=id_.gseq, oseq=id_.oseq, provider=id_.provider, bseq=id_.bseq
    )


def pb_lease_id(id_: LeaseId) -> Any:
    return lease_pb2.LeaseID(
        owner=id_.owner, dseq=id_.dseq, gseq=id_.gseq, oseq=id_.oseq, provider=id_.provider, bseq=id_.bseq
    )


def _pb_attributes(attributes: tuple[m.Attribute, ...]) -> list[Any]:
    return [attribute_pb2.Attribute(key=a.key, value=a.value) for a in attributes]


def _set_value(field: Any, amount: int) -> None:
    field.val = str(amount).encode()


def pb_group_spec(spec: m.GroupSpec) -> Any:
    raw = groupspec_pb2.GroupSpec(name=spec.name)
    raw.requirements.attributes.extend(_pb_attributes(spec.requirements.attributes))
    raw.requirements.signed_by.all_of.extend(spec.requirements.signed_by_all_of)
    raw.requirements.signed_by.any_of.extend(spec.requirements.signed_by_any_of)
    for unit in spec.resources:
        entry = raw.resources.add(count=unit.count)
        entry.price.denom, entry.price.amount = unit.price.denom, str(unit.price.amount.raw)
        _fill_resources(entry.resource, unit.resources)
    return raw


def _fill_resources(raw: resources_pb2.Resources, value: m.Resources) -> None:
    raw.id = value.id
    _set_value(raw.cpu.units, value.cpu_milli)
    raw.cpu.attributes.extend(_pb_attributes(value.cpu_attributes))
    _set_value(raw.memory.quantity, value.memory_bytes)
    raw.memory.attributes.extend(_pb_attributes(value.memory_attributes))
    for volume in value.storage:
        entry = raw.storage.add(name=volume.name)
        _set_value(entry.quantity, volume.quantity_bytes)
        entry.attributes.extend(_pb_attributes(volume.attributes))
    _set_value(raw.gpu.units, value.gpu_units)
    raw.gpu.attributes.extend(_pb_attributes(value.gpu_attributes))
    for endpoint in value.endpoints:
        raw.endpoints.add(kind=endpoint.kind.value, sequence_number=endpoint.sequence_number)


def _deposit(amount: Coin) -> Any:
    pb_coin = coin_pb2.Coin(denom=amount.denom, amount=str(amount.amount))
    return deposit_pb2.Deposit(amount=pb_coin, sources=[deposit_pb2.balance])


def create_deployment(id_: DeploymentId, groups: tuple[m.GroupSpec, ...], *, hash_: bytes, deposit: Coin) -> Message:
    return deploymentmsg_pb2.MsgCreateDeployment(
        id=pb_deployment_id(id_), groups=[pb_group_spec(g) for g in groups], hash=hash_, deposit=_deposit(deposit)
    )


def update_deployment(id_: DeploymentId, *, hash_: bytes) -> Message:
    return deploymentmsg_pb2.MsgUpdateDeployment(id=pb_deployment_id(id_), hash=hash_)


def close_deployment(id_: DeploymentId) -> Message:
    return deploymentmsg_pb2.MsgCloseDeployment(id=pb_deployment_id(id_))


def create_bid(id_: LeaseId, *, price: DecCoin, deposit: Coin, reclamation_window_s: int | None = None) -> Message:
    """``reclamation_window_s``: the notice that is promised before the lease is taken back; None promises nothing."""
    message = bidmsg_pb2.MsgCreateBid(
        id=pb_bid_id(id_),
        price=coin_pb2.DecCoin(denom=price.denom, amount=str(price.amount.raw)),
        deposit=_deposit(deposit),
    )
    if reclamation_window_s is not None:
        message.reclamation_window.seconds = reclamation_window_s
    return message


def start_reclaim(id_: LeaseId, *, reason: int) -> Message:
    return leasemsg_pb2.MsgLeaseStartReclaim(id=pb_lease_id(id_), reason=reason)  # type: ignore[arg-type]


def close_bid(id_: LeaseId, *, reason: int) -> Message:
    return bidmsg_pb2.MsgCloseBid(id=pb_bid_id(id_), reason=reason)  # type: ignore[arg-type]


def create_lease(id_: LeaseId) -> Message:
    return leasemsg_pb2.MsgCreateLease(bid_id=pb_bid_id(id_))


def close_lease(id_: LeaseId) -> Message:
    return leasemsg_pb2.MsgCloseLease(id=pb_lease_id(id_))


def withdraw_lease(id_: LeaseId) -> Message:
    return leasemsg_pb2.MsgWithdrawLease(id=pb_lease_id(id_))


def deposit_deployment(signer: str, id_: DeploymentId, *, amount: Coin) -> Message:
    aid = id_pb2.Account(scope=id_pb2.deployment, xid=str(id_))
    return escrow_msg.MsgAccountDeposit(signer=signer, id=aid, deposit=_deposit(amount))


def provider_record(record: m.ProviderRecord, *, exists: bool) -> Message:
    """MsgCreateProvider, or MsgUpdateProvider where a record exists."""
    cls = provider_msg.MsgUpdateProvider if exists else provider_msg.MsgCreateProvider
    message = cls(owner=record.owner, host_uri=record.host_uri, attributes=_pb_attributes(record.attributes))
    message.info.email, message.info.website = record.email, record.website
    return message


def create_certificate(owner: str, *, cert_pem: bytes, pubkey_pem: bytes) -> Message:
    return cert_msg.MsgCreateCertificate(owner=owner, cert=cert_pem, pubkey=pubkey_pem)


def revoke_certificate(owner: str, *, serial: str) -> Message:
    return cert_msg.MsgRevokeCertificate(id=cert_pb2.ID(owner=owner, serial=serial))
