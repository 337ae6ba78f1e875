"""Provider records and what auditors sign of them (akash x/provider, x/audit)."""

from __future__ import annotations

from typing import Any

from gpulease.devnet import addresses, errors
from gpulease.devnet.context import Context
from gpulease.pb.akash.audit.v1 import audit_pb2
from gpulease.pb.akash.audit.v1 import event_pb2 as audit_event
from gpulease.pb.akash.provider.v1beta4 import event_pb2, provider_pb2

_PROVIDERS = "provider/records"
_AUDITED = "audit/attributes"


def get(ctx: Context, owner: str) -> provider_pb2.Provider | None:
    found: provider_pb2.Provider | None = ctx.state.get(_PROVIDERS, addresses.decode(owner) or b"")
    return found


def all_records(ctx: Context) -> list[provider_pb2.Provider]:
    return list(ctx.state.values(_PROVIDERS))


def _record(msg: Any) -> provider_pb2.Provider:
    return provider_pb2.Provider(owner=msg.owner, host_uri=msg.host_uri, attributes=msg.attributes, info=msg.info)


def msg_create(ctx: Context, msg: Any) -> None:
    if get(ctx, msg.owner) is not None:
        raise errors.provider(4, f"id: {msg.owner}: invalid provider: already exists")
    ctx.state.put(_PROVIDERS, addresses.decode(msg.owner) or b"", _record(msg))
    ctx.emit_typed(event_pb2.EventProviderCreated(owner=msg.owner))


def msg_update(ctx: Context, msg: Any) -> None:
    if get(ctx, msg.owner) is None:
        raise errors.provider(3, f"id: {msg.owner}: invalid provider: address not found")
    ctx.state.put(_PROVIDERS, addresses.decode(msg.owner) or b"", _record(msg))
    ctx.emit_typed(event_pb2.EventProviderUpdated(owner=msg.owner))


def msg_delete(ctx: Context, msg: Any) -> None:
    if get(ctx, msg.owner) is None:
        raise errors.provider(3, f"id: {msg.owner}: invalid provider: address not found")
    raise errors.provider(10, "NOTIMPLEMENTED: internal error")


def audited(ctx: Context, owner: str) -> dict[str, dict[str, str]]:
    """What each auditor has signed of this provider: auditor to key to value."""
    raw = addresses.decode(owner) or b""
    found: dict[str, dict[str, str]] = {}
    for entry in ctx.state.ranged(_AUDITED, (raw, b""), (raw, b"\xff" * 64)):
        found[entry.auditor] = {a.key: a.value for a in entry.attributes}
    return found


def audit_entries(ctx: Context) -> list[audit_pb2.AuditedProvider]:
    return list(ctx.state.values(_AUDITED))


def msg_sign(ctx: Context, msg: Any) -> None:
    """Signed attributes merge into what the auditor signed before, sorted by key."""
    key = (addresses.decode(msg.owner) or b"", addresses.decode(msg.auditor) or b"")
    old: audit_pb2.AuditedProvider | None = ctx.state.get(_AUDITED, key)
    merged = {a.key: a.value for a in old.attributes} if old is not None else {}
    merged.update({a.key: a.value for a in msg.attributes})
    entry = audit_pb2.AuditedProvider(owner=msg.owner, auditor=msg.auditor)
    for name in sorted(merged):
        entry.attributes.add(key=name, value=merged[name])
    ctx.state.put(_AUDITED, key, entry)
    ctx.emit_typed(audit_event.EventTrustedAuditorCreated(owner=msg.owner, auditor=msg.auditor))


def msg_unsign(ctx: Context, msg: Any) -> None:
    """No keys named: all of the auditor's attributes go."""
    key = (addresses.decode(msg.owner) or b"", addresses.decode(msg.auditor) or b"")
    old: audit_pb2.AuditedProvider | None = ctx.state.get(_AUDITED, key)
    if old is None:
        raise errors.ModuleError("audit", 1, "invalid provider: address not found")
    known = {a.key for a in old.attributes} if msg.keys else set()
    for name in msg.keys:
        if name not in known:
            where = f'for auditor/provider "{msg.auditor}/{msg.owner}"'
            words = f'trying to delete non-existing attribute "{name}" {where}: attribute not found'
            raise errors.ModuleError("audit", 3, words)
        known.remove(name)
    left = [a for a in old.attributes if a.key in known]
    if left:
        entry = audit_pb2.AuditedProvider(owner=msg.owner, auditor=msg.auditor)
        for attribute in left:
            entry.attributes.add(key=attribute.key, value=attribute.value)
        ctx.state.put(_AUDITED, key, entry)
    else:
        ctx.state.delete(_AUDITED, key)
    ctx.emit_typed(audit_event.EventTrustedAuditorDeleted(owner=msg.owner, auditor=msg.auditor))
