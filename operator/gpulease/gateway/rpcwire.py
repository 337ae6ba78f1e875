"""Between the gateway's JSON bodies and the messages of its gRPC services (gateway reference §7). Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from gpulease.ids import LeaseId
from gpulease.pb.akash.inventory.v1 import node_pb2, resourcepair_pb2
from gpulease.pb.akash.provider.lease.v1 import service_pb2 as lease_pb2
from gpulease.pb.akash.provider.v1 import status_pb2
from gpulease.pb.k8s import quantity_pb2

Json = Mapping[str, Any]
_AMOUNTS = ("cpu", "memory", "gpu", "storage_ephemeral")


def lease_id(raw: Any) -> LeaseId:
    return LeaseId(raw.owner, raw.dseq, raw.gseq, raw.oseq, raw.provider)


def _quantity(name: str, value: int) -> Any:
    text = f"{value}m" if name == "cpu" and value % 1000 else str(value // 1000 if name == "cpu" else value)
    return quantity_pb2.Quantity(string=text)


def _pair(name: str, node: Json) -> Any:
    whole, free = int(node["allocatable"][name]), int(node["available"][name])
    return resourcepair_pb2.ResourcePair(
        allocatable=_quantity(name, whole),
        capacity=_quantity(name, whole),
        allocated=_quantity(name, max(0, whole - free)),
    )


def _node(node: Json) -> Any:
    made = node_pb2.Node(name=node["name"])
    made.resources.cpu.quantity.CopyFrom(_pair("cpu", node))
    made.resources.memory.quantity.CopyFrom(_pair("memory", node))
    made.resources.gpu.quantity.CopyFrom(_pair("gpu", node))
    made.resources.ephemeral_storage.CopyFrom(_pair("storage_ephemeral", node))
    return made


def _reserved(groups: Iterable[Json]) -> Any:
    found = list(groups)
    total = {name: sum(int(group[name]) for group in found) for name in _AMOUNTS}
    return status_pb2.ReservationsMetric(
        count=len(found),
        resources=status_pb2.ResourcesMetric(
            cpu=_quantity("cpu", total["cpu"]),
            memory=_quantity("memory", total["memory"]),
            gpu=_quantity("gpu", total["gpu"]),
            ephemeral_storage=_quantity("storage_ephemeral", total["storage_ephemeral"]),
        ),
    )


def status(body: Json, *, now_s: float) -> Any:
    """``akash.provider.v1.Status`` of a provider status body."""
    cluster = body["cluster"]
    inventory = cluster["inventory"]
    made = status_pb2.Status()
    made.cluster.leases.active = cluster["leases"]
    made.cluster.inventory.cluster.nodes.extend(_node(n) for n in inventory["available"].get("nodes", ()))
    made.cluster.inventory.reservations.active.CopyFrom(_reserved(inventory.get("active", ())))
    made.cluster.inventory.reservations.pending.CopyFrom(_reserved(inventory.get("pending", ())))
    made.bid_engine.orders = body["bidengine"]["orders"]
    made.manifest.deployments = body["manifest"]["deployments"]
    made.public_hostnames.extend([body["cluster_public_hostname"]] if "cluster_public_hostname" in body else [])
    made.timestamp.FromNanoseconds(int(now_s * 1e9))
    return made


def services(body: Json, wanted: frozenset[str]) -> Any:
    """``ServiceStatusResponse`` of a lease status body; ``wanted`` empty: all."""
    made = lease_pb2.ServiceStatusResponse()
    for name, state in sorted(body["services"].items()):
        if wanted and name not in wanted:
            continue
        entry = made.services.add(name=name)
        for field in ("available", "total", "observed_generation", "replicas"):
            setattr(entry.status, field, state[field])
        for field in ("updated_replicas", "ready_replicas", "available_replicas"):
            setattr(entry.status, field, state[field])
        entry.status.uris.extend(state["uris"] or ())
        for port in (body["forwarded_ports"] or {}).get(name, ()):
            entry.ports.add(
                host=port.get("host", ""),
                port=port["port"],
                external_port=port["externalPort"],
                proto=port["proto"],
                name=port["name"],
            )
    return made


def manifest_json(groups: Iterable[Any]) -> bytes:
    """The body of a manifest PUT. Protobuf does not tell an empty list from none: lists become what SDLs give."""
    return json.dumps([{"name": g.name, "services": [_service(s) for s in g.services]} for g in groups]).encode()


def _listed(values: Iterable[str]) -> list[str] | None:
    return list(values) or None


def _service(raw: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "name": raw.name,
        "image": raw.image,
        "command": _listed(raw.command),
        "args": _listed(raw.args),
        "env": _listed(raw.env),
        "resources": _resources(raw.resources),
        "count": raw.count,
        "expose": [_expose(entry) for entry in raw.expose],
        "credentials": _credentials(raw.credentials) if raw.HasField("credentials") else None,
    }
    if raw.HasField("params"):
        params: dict[str, Any] = {
            "storage": [{"name": s.name, "mount": s.mount, "readOnly": s.read_only} for s in raw.params.storage] or None
        }
        if raw.params.HasField("permissions"):
            params["permissions"] = {"read": list(raw.params.permissions.read)}
        body["params"] = params
    return body


def _credentials(raw: Any) -> dict[str, str]:
    return {"host": raw.host, "email": raw.email, "username": raw.username, "password": raw.password}


def _attributes(raw: Any) -> dict[str, Any]:
    found = [{"key": a.key, "value": a.value} for a in raw.attributes]
    return {"attributes": found} if found else {}


def _value(raw: Any) -> dict[str, str]:
    return {"val": raw.val.decode("ascii", "replace")}


def _resources(raw: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"id": raw.id}
    for name, field, inner in (("cpu", "units", "units"), ("memory", "size", "quantity"), ("gpu", "units", "units")):
        if raw.HasField(name):
            part = getattr(raw, name)
            body[name] = {field: _value(getattr(part, inner)), **_attributes(part)}
    if raw.storage:
        body["storage"] = [{"name": s.name, "size": _value(s.quantity), **_attributes(s)} for s in raw.storage]
    body["endpoints"] = [
        {**({"kind": e.kind} if e.kind else {}), "sequence_number": e.sequence_number} for e in raw.endpoints
    ]
    return body


def _expose(raw: Any) -> dict[str, Any]:
    http = raw.http_options
    options: dict[str, Any] = {
        "maxBodySize": http.max_body_size,
        "readTimeout": http.read_timeout,
        "sendTimeout": http.send_timeout,
        "nextTries": http.next_tries,
        "nextTimeout": http.next_timeout,
    }
    if http.next_cases:
        options["nextCases"] = list(http.next_cases)
    return {
        "port": raw.port,
        "externalPort": raw.external_port,
        "proto": raw.proto,
        "service": raw.service,
        "global": getattr(raw, "global"),
        "hosts": _listed(raw.hosts),
        "httpOptions": options,
        "ip": raw.ip,
        "endpointSequenceNumber": raw.endpoint_sequence_number,
    }
