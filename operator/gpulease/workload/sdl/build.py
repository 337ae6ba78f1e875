"""A checked Document as what goes to the chain and to the provider: groups with resource units, and the manifest.

Groups are the placements by name, services by name within. Version 2.0 gives every service a resource unit of its
own; from 2.1 services of one compute profile in one group share a unit: counts are summed, endpoints appended and
sorted by sequence number, and the price is the first service's (gateway reference §6).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from gpulease.market.model import (
    Endpoint,
    EndpointKind,
    GroupSpec,
    PlacementRequirements,
    Resources,
    ResourceUnit,
    Storage,
)
from gpulease.units import DecCoin
from gpulease.workload.manifest import expose_order
from gpulease.workload.model import HTTP_PORT, Credentials, Expose, Manifest, ManifestGroup, Mount, Params, Service
from gpulease.workload.sdl.check import uses
from gpulease.workload.sdl.model import Compute, Document, Placement, ServiceParams, ServiceRule, Use


@dataclass(slots=True)
class _Group:
    placement: Placement
    units: list[ResourceUnit]
    places: dict[str, int]
    services: list[Service]


def build(document: Document) -> tuple[tuple[GroupSpec, ...], Manifest]:
    """Of a document that ``check`` has passed; does not raise."""
    numbers = sequence_numbers(document)
    groups: dict[str, _Group] = {}
    for name, placement, use in uses(document):
        group = groups.setdefault(placement, _Group(document.placements[placement], [], {}, []))
        rule, compute = document.services[name], document.compute[use.profile]
        exposes = _exposes(rule, numbers)
        own = _resources(compute, _endpoints(exposes))
        resource_id = _add_unit(group, use, own, shares=document.shares_units)
        group.services.append(_service(document, rule, replace(own, id=resource_id), use, exposes))
    specs, manifest = [], []
    for name in sorted(groups):
        group = groups[name]
        specs.append(GroupSpec(name, _requirements(group.placement), tuple(group.units)))
        manifest.append(ManifestGroup(name, tuple(group.services)))
    return tuple(specs), tuple(manifest)


def sequence_numbers(document: Document) -> Mapping[str, int]:
    """Numbers of leased addresses: the last position of a name among all names, those of non-global ``to`` included.

    That counts the empty name of every ``to`` without an address that is not global, and repeats: the peer does.
    """
    names = [
        to.ip
        for service in sorted(document.deployment)
        for rule in document.services[service].expose
        for to in rule.to
        if to.ip or not to.is_global
    ]
    return {name: position for position, name in enumerate(sorted(names), start=1)}


def _add_unit(group: _Group, use: Use, own: Resources, *, shares: bool) -> int:
    """The id of the unit that the service runs in."""
    if shares and use.profile in group.places:
        place = group.places[use.profile]
        unit = group.units[place]
        endpoints = sorted((*unit.resources.endpoints, *own.endpoints), key=lambda e: e.sequence_number)
        resources = replace(unit.resources, endpoints=tuple(endpoints))
        group.units[place] = replace(unit, resources=resources, count=unit.count + use.count)
        return unit.resources.id
    price = group.placement.pricing[use.profile]
    group.places[use.profile] = len(group.units)
    unit_id = len(group.units) + 1
    group.units.append(ResourceUnit(replace(own, id=unit_id), use.count, DecCoin(price.denom, price.amount)))
    return unit_id


def _requirements(placement: Placement) -> PlacementRequirements:
    return PlacementRequirements(placement.attributes, placement.all_of or (), placement.any_of or ())


def _resources(compute: Compute, endpoints: Iterable[Endpoint]) -> Resources:
    return Resources(
        id=0,
        cpu_milli=compute.cpu_milli,
        cpu_attributes=compute.cpu_attributes,
        memory_bytes=compute.memory_bytes,
        storage=tuple(Storage(v.name, v.size_bytes, v.attributes) for v in compute.volumes),
        gpu_units=compute.gpu_units,
        gpu_attributes=compute.gpu_attributes,
        endpoints=tuple(endpoints),
    )


def _exposes(rule: ServiceRule, numbers: Mapping[str, int]) -> tuple[Expose, ...]:
    """One for each ``to``; an expose without any is for the lease's own services, all of them."""
    found = []
    for entry in rule.expose:
        plain = Expose(
            port=entry.port,
            external_port=entry.external_port,
            protocol=entry.protocol.upper() or "TCP",
            hosts=entry.accept,
            http=entry.http,
        )
        if not entry.to:
            found.append(plain)
        for to in entry.to:
            number = numbers[to.ip] if to.is_global and to.ip else 0
            found.append(
                replace(plain, service=to.service, is_global=to.is_global, ip=to.ip, endpoint_sequence_number=number)
            )
    return tuple(sorted(found, key=expose_order))


def _endpoints(exposes: Iterable[Expose]) -> Iterable[Endpoint]:
    for expose in exposes:
        if not expose.is_global:
            continue
        http = expose.protocol == "TCP" and expose.outside_port == HTTP_PORT
        yield Endpoint(EndpointKind.SHARED_HTTP if http else EndpointKind.RANDOM_PORT)
        if expose.ip:
            yield Endpoint(EndpointKind.LEASED_IP, expose.endpoint_sequence_number)


def _service(
    document: Document, rule: ServiceRule, resources: Resources, use: Use, exposes: tuple[Expose, ...]
) -> Service:
    login = rule.credentials
    return Service(
        name=rule.name,
        image=rule.image,
        resources=resources,
        count=use.count,
        command=rule.command,
        args=rule.args,
        env=rule.env,
        expose=exposes,
        params=None if rule.params is None else _params(rule.params),
        credentials=None if login is None else _login(login, whole=document.shares_units),
    )


def _params(params: ServiceParams) -> Params:
    mounts = tuple(Mount(mount.name, mount.path, mount.read_only) for mount in params.mounts)
    return Params(mounts or None, params.permissions_read)


def _login(login: Credentials, *, whole: bool) -> Credentials:
    """2.0 leaves the e-mail address out, 2.1 keeps it and cuts spaces off."""
    if not whole:
        return replace(login, email="")
    return Credentials(login.host.strip(), login.username.strip(), login.password.strip(), login.email.strip())
