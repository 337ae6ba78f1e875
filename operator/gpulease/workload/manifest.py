"""The manifest on the wire: read, write, hash, check (gateway reference §5).

The hash is taken over our own encoding of what was read, so key order, spacing and unknown keys of a body do not
matter. Texts that begin ``invalid manifest:`` or ``manifest cross-validation error:`` are part of the contract with
existing tenants' clients, as is ``validation failed``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gpulease.errors import ManifestError
from gpulease.market.model import Attribute, Endpoint, EndpointKind, GroupSpec, Resources, Storage
from gpulease.workload.model import (
    Credentials,
    Expose,
    HttpOptions,
    Manifest,
    ManifestGroup,
    Mount,
    Params,
    Service,
)

SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?\Z")
ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*\Z")
HOST_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_MAX_U32 = 2**32 - 1
_COMPARED = (
    "cpu_milli",
    "cpu_attributes",
    "gpu_units",
    "gpu_attributes",
    "memory_bytes",
    "memory_attributes",
    "storage",
)
"""Fields of Resources that a service and its unit on chain have to share."""


# --- reading -----------------------------------------------------------------------------------------------------


def parse(raw: bytes) -> Manifest:
    """From a request body; ``ManifestError`` says what is not as the wire wants it. Does not validate."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.pos >= len(error.doc.rstrip()):
            raise ManifestError("unexpected EOF") from error
        raise ManifestError(f"the manifest is not JSON: {error}") from error
    if not isinstance(body, list):
        raise ManifestError("the manifest must be a JSON array of groups")
    return tuple(_group(_dict(entry, "group")) for entry in body)


def _dict(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ManifestError(f"{what} must be a JSON object")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ManifestError(f"{what} must be a JSON array or null")
    return value


def _text(raw: Mapping[str, Any], key: str) -> str:
    value = raw.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ManifestError(f"{key} must be a string")
    return _encodable(value, key)


def _encodable(value: str, key: str) -> str:
    """JSON can spell half a surrogate pair, which has no UTF-8 and so no hash."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ManifestError(f"{key} holds a character that cannot be written in UTF-8") from None
    return value


def _number(raw: Mapping[str, Any], key: str) -> int:
    value = raw.get(key)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_U32:
        raise ManifestError(f"{key} must be a whole number from 0 to {_MAX_U32}")
    return value


def _flag(raw: Mapping[str, Any], key: str) -> bool:
    value = raw.get(key)
    if value is not None and not isinstance(value, bool):
        raise ManifestError(f"{key} must be true or false")
    return bool(value)


def _texts(raw: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    """None for ``null``: it hashes differently from ``[]``."""
    if raw.get(key) is None:
        return None
    entries = _list(raw[key], key)
    if not all(isinstance(entry, str) for entry in entries):
        raise ManifestError(f"{key} must hold strings only")
    return tuple(_encodable(entry, key) for entry in entries)


def _group(raw: Mapping[str, Any]) -> ManifestGroup:
    services = tuple(_service(_dict(entry, "service")) for entry in _list(raw.get("services"), "services"))
    return ManifestGroup(_text(raw, "name"), services)


def _service(raw: Mapping[str, Any]) -> Service:
    login = raw.get("credentials")
    params = raw.get("params")
    return Service(
        name=_text(raw, "name"),
        image=_text(raw, "image"),
        resources=_resources(_dict(raw.get("resources") or {}, "resources")),
        count=_number(raw, "count"),
        command=_texts(raw, "command"),
        args=_texts(raw, "args"),
        env=_texts(raw, "env"),
        expose=tuple(_expose(_dict(entry, "expose")) for entry in _list(raw.get("expose"), "expose")),
        params=None if params is None else _params(_dict(params, "params")),
        credentials=None if login is None else _credentials(_dict(login, "credentials")),
    )


def _credentials(raw: Mapping[str, Any]) -> Credentials:
    return Credentials(_text(raw, "host"), _text(raw, "username"), _text(raw, "password"), _text(raw, "email"))


def _params(raw: Mapping[str, Any]) -> Params:
    mounts = raw.get("storage")
    read = raw.get("permissions")
    return Params(
        None
        if mounts is None
        else tuple(
            Mount(_text(m, "name"), _text(m, "mount"), _flag(m, "readOnly"))
            for m in (_dict(entry, "params.storage") for entry in _list(mounts, "params.storage"))
        ),
        None if read is None else _texts(_dict(read, "permissions"), "read") or (),
    )


def _expose(raw: Mapping[str, Any]) -> Expose:
    http = _dict(raw.get("httpOptions") or {}, "httpOptions")
    return Expose(
        port=_number(raw, "port"),
        external_port=_number(raw, "externalPort"),
        protocol=_text(raw, "proto"),
        service=_text(raw, "service"),
        is_global=_flag(raw, "global"),
        hosts=_texts(raw, "hosts"),
        http=HttpOptions(
            _number(http, "maxBodySize"),
            _number(http, "readTimeout"),
            _number(http, "sendTimeout"),
            _number(http, "nextTries"),
            _number(http, "nextTimeout"),
            _texts(http, "nextCases") or (),
        ),
        ip=_text(raw, "ip"),
        endpoint_sequence_number=_number(raw, "endpointSequenceNumber"),
    )


def _resources(raw: Mapping[str, Any]) -> Resources:
    for key in ("cpu", "memory", "storage", "gpu"):
        if raw.get(key) is None:
            raise ManifestError(f"resources.{key} is missing")
    cpu, memory, gpu = (_dict(raw[key], f"resources.{key}") for key in ("cpu", "memory", "gpu"))
    return Resources(
        id=_number(raw, "id"),
        cpu_milli=_amount(cpu, "units"),
        memory_bytes=_amount(memory, "size"),
        storage=tuple(
            Storage(_text(v, "name"), _amount(v, "size"), _attributes(v))
            for v in (_dict(entry, "storage") for entry in _list(raw["storage"], "storage"))
        ),
        gpu_units=_amount(gpu, "units"),
        gpu_attributes=_attributes(gpu),
        endpoints=tuple(
            _endpoint(_dict(entry, "endpoint")) for entry in _list(raw.get("endpoints"), "resources.endpoints")
        ),
        cpu_attributes=_attributes(cpu),
        memory_attributes=_attributes(memory),
    )


def _endpoint(raw: Mapping[str, Any]) -> Endpoint:
    try:
        kind = EndpointKind(_number(raw, "kind"))
    except ValueError:
        raise ManifestError(f"endpoint kind {raw.get('kind')} is not one of 0, 1, 2") from None
    return Endpoint(kind, _number(raw, "sequence_number"))


def _amount(raw: Mapping[str, Any], key: str) -> int:
    text = _text(_dict(raw.get(key) or {}, key), "val")
    if not (text.isascii() and text.isdecimal()) or len(text) > 20:
        raise ManifestError(f"{key}.val must be a whole number written as a string")
    return int(text)


def _attributes(raw: Mapping[str, Any]) -> tuple[Attribute, ...]:
    entries = (_dict(entry, "attribute") for entry in _list(raw.get("attributes"), "attributes"))
    return tuple(Attribute(_text(entry, "key"), _text(entry, "value")) for entry in entries)


# --- writing and hashing -----------------------------------------------------------------------------------------


def to_json(manifest: Manifest) -> bytes:
    """The canonical encoding: sorted keys, no spaces, Go's escapes."""
    body = [{"name": g.name, "services": [_service_json(s) for s in g.services]} for g in manifest]
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for char, escape in (("<", "003c"), (">", "003e"), ("&", "0026"), ("\u2028", "2028"), ("\u2029", "2029")):
        text = text.replace(char, f"\\u{escape}")
    return text.encode()


def manifest_hash(manifest: Manifest) -> bytes:
    """32 bytes, as in ``MsgCreateDeployment.hash``."""
    return hashlib.sha256(to_json(manifest)).digest()


def read_back(group: ManifestGroup) -> dict[str, Any]:
    """As the peer shows a stored group: its hash is not the deployment's, for endpoints come back as null."""
    services = [_service_json(service) for service in group.services]
    for service in services:
        service["resources"]["endpoints"] = None
    return {"name": group.name, "services": services}


def _optional(values: tuple[str, ...] | None) -> list[str] | None:
    return None if values is None else list(values)


def _service_json(service: Service) -> dict[str, Any]:
    body: dict[str, Any] = {
        "name": service.name,
        "image": service.image,
        "command": _optional(service.command),
        "args": _optional(service.args),
        "env": _optional(service.env),
        "resources": resources_json(service.resources),
        "count": service.count,
        "expose": [_expose_json(entry) for entry in service.expose],
        "credentials": None,
    }
    if service.credentials is not None:
        login = service.credentials
        body["credentials"] = {
            "host": login.host,
            "email": login.email,
            "username": login.username,
            "password": login.password,
        }
    if service.params is not None:
        body["params"] = _params_json(service.params)
    return body


def _params_json(params: Params) -> dict[str, Any]:
    mounts = params.mounts
    body: dict[str, Any] = {
        "storage": None
        if mounts is None
        else [{"name": m.name, "mount": m.path, "readOnly": m.read_only} for m in mounts]
    }
    if params.permissions_read is not None:
        body["permissions"] = {"read": list(params.permissions_read)} if params.permissions_read else {}
    return body


def resources_json(r: Resources) -> dict[str, Any]:
    return {
        "id": r.id,
        "cpu": _sized("units", r.cpu_milli, r.cpu_attributes),
        "memory": _sized("size", r.memory_bytes, r.memory_attributes),
        "storage": [{"name": v.name, **_sized("size", v.quantity_bytes, v.attributes)} for v in r.storage],
        "gpu": _sized("units", r.gpu_units, r.gpu_attributes),
        "endpoints": [
            {**({"kind": e.kind.value} if e.kind.value else {}), "sequence_number": e.sequence_number}
            for e in r.endpoints
        ],
    }


def _sized(key: str, amount: int, attributes: tuple[Attribute, ...]) -> dict[str, Any]:
    body: dict[str, Any] = {key: {"val": str(amount)}}
    if attributes:
        body["attributes"] = [{"key": a.key, "value": a.value} for a in attributes]
    return body


def _expose_json(e: Expose) -> dict[str, Any]:
    http: dict[str, Any] = {
        "maxBodySize": e.http.max_body_size_bytes,
        "readTimeout": e.http.read_timeout_ms,
        "sendTimeout": e.http.send_timeout_ms,
        "nextTries": e.http.next_tries,
        "nextTimeout": e.http.next_timeout_ms,
    }
    if e.http.next_cases:
        http["nextCases"] = list(e.http.next_cases)
    return {
        "port": e.port,
        "externalPort": e.external_port,
        "proto": e.protocol,
        "service": e.service,
        "global": e.is_global,
        "hosts": _optional(e.hosts),
        "httpOptions": http,
        "ip": e.ip,
        "endpointSequenceNumber": e.endpoint_sequence_number,
    }


# --- checks ------------------------------------------------------------------------------------------------------


def validate(manifest: Manifest) -> None:
    """Rules that need nothing but the manifest; ``ManifestError`` begins ``invalid manifest:``."""
    if not manifest:
        raise _invalid("manifest is empty")
    names = [group.name for group in manifest]
    if len(set(names)) != len(names):
        raise _invalid("two groups have the same name")
    hosts: set[str] = set()
    reachable = False
    for group in manifest:
        if not group.services:
            raise _invalid(f"group {group.name!r} has no services")
        service_names = [service.name for service in group.services]
        if service_names != sorted(service_names):
            raise _invalid(f"the services of group {group.name!r} are not sorted by name")
        for service in group.services:
            _validate_service(service)
            for expose in service.expose:
                _validate_expose(service, expose, hosts)
                reachable = reachable or expose.is_global
    if not reachable:
        raise _invalid("no service is reachable from outside; expose one port with global true")


def _invalid(words: str) -> ManifestError:
    return ManifestError(f"invalid manifest: {words}")


def expose_order(expose: Expose) -> tuple[str, int, str, bool]:
    """Providers refuse a manifest whose exposes are in another order."""
    return (expose.service, expose.port, expose.protocol, not expose.is_global)


def _validate_service(service: Service) -> None:
    if not SERVICE_NAME.match(service.name):
        raise _invalid(f"service name {service.name!r} must be lower-case letters, digits and dashes")
    if not service.image:
        raise _invalid(f'service "{service.name}" has empty image name')
    if service.resources.id == 0:
        raise _invalid(f"service {service.name!r} has resource id 0")
    for entry in service.env or ():
        name = entry.split("=", 1)[0]
        if not ENV_NAME.match(name) or name == "." or name.startswith(".."):
            raise _invalid(f"service {service.name!r} has an environment variable with the invalid name {name!r}")
    order = [expose_order(entry) for entry in service.expose]
    if order != sorted(order):
        raise _invalid(f"the exposes of service {service.name!r} are not sorted by service, port, proto, global first")


def _validate_expose(service: Service, expose: Expose, hosts: set[str]) -> None:
    if not 1 <= expose.port <= 65535:
        raise _invalid(f"service {service.name!r} exposes port {expose.port}, which is not from 1 to 65535")
    if expose.external_port > 65535:
        raise _invalid(f"service {service.name!r} exposes as {expose.external_port}, which is above 65535")
    if expose.protocol not in ("TCP", "UDP"):
        raise _invalid(f"service {service.name!r} exposes protocol {expose.protocol!r}, which is not TCP or UDP")
    for host in expose.hosts or ():
        if len(host) > 253 or not HOST_NAME.match(host):
            raise _invalid(f"host name {host!r} is not a lower-case DNS name")
        if host in hosts:
            raise _invalid(f"host name {host!r} is used twice")
        hosts.add(host)


def cross_check(manifest: Manifest, groups: Sequence[GroupSpec]) -> None:
    """The manifest against the deployment's groups on chain, all of them."""
    by_name = {group.name: group for group in groups}
    if len(manifest) != len(groups) or {group.name for group in manifest} != set(by_name):
        raise _invalid(f"its groups {sorted(g.name for g in manifest)} are not the deployment's {sorted(by_name)}")
    for group in manifest:
        _cross_check_group(group, by_name[group.name])


def _differs(words: str) -> ManifestError:
    return ManifestError(f"manifest cross-validation error: {words}")


def _cross_check_group(group: ManifestGroup, spec: GroupSpec) -> None:
    units = {unit.resources.id: unit.resources for unit in spec.resources}
    counts = {unit.resources.id: unit.count for unit in spec.resources}
    endpoints = {key: [e.kind for e in unit.endpoints] for key, unit in units.items()}
    for service in group.services:
        own = service.resources
        unit = units.get(own.id)
        if unit is None:
            raise _differs(f"service {service.name!r} uses resource id {own.id}, which group {spec.name!r} lacks")
        if service.count > counts[own.id]:
            raise _differs(f"service {service.name!r} asks for {service.count} replicas, {counts[own.id]} are left")
        counts[own.id] -= service.count
        for what in _COMPARED:
            if getattr(own, what) != getattr(unit, what):
                raise _differs(f"service {service.name!r}: {what.split('_')[0]} differs from the deployment's")
        for expose in service.expose:
            if expose.is_global:
                _take_endpoints(service, expose, endpoints[own.id])
    if any(counts.values()):
        raise _differs(f"group {spec.name!r} has replicas that no service uses")
    if any(endpoints.values()):
        raise _differs(f"group {spec.name!r} has endpoints that no service uses")


def _take_endpoints(service: Service, expose: Expose, left: list[EndpointKind]) -> None:
    http = expose.protocol == "TCP" and expose.outside_port == 80
    wanted = [EndpointKind.SHARED_HTTP if http else EndpointKind.RANDOM_PORT]
    if expose.ip:
        wanted.append(EndpointKind.LEASED_IP)
    for kind in wanted:
        if kind not in left:
            raise _differs(f"service {service.name!r} exposes more endpoints than the deployment has")
        left.remove(kind)
