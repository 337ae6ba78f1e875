"""What an SDL's parts must be to each other: references, endpoints, mounts, the market's limits, the manifest's rules.

In the order of the peer, so that of several faults the same one is told first; each with the line to mend.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpulease.errors import SdlError
from gpulease.units import Dec
from gpulease.workload.manifest import ENV_NAME, HOST_NAME, SERVICE_NAME
from gpulease.workload.model import Credentials
from gpulease.workload.sdl import schema
from gpulease.workload.sdl.model import Compute, Document, Placement, ServiceRule, Use
from gpulease.workload.sdl.tree import shown

_DENOM = re.compile(r"[a-zA-Z][a-zA-Z0-9/:._-]{2,127}")
_MI, _TI = 2**20, 2**40
_CPU_MILLI, _MEMORY, _STORAGE = (10, 384_000), (_MI, 2 * _TI), (5 * _MI, 32 * _TI)
_MAX_GPUS = 24
_MAX_PRICE = Dec.of(10_000_000)
_GROUP_CPU_MILLI, _GROUP_GPUS, _GROUP_MEMORY = 19_200_000, 1200, 100 * _TI
_MAX_USES, _MAX_EXPOSES, _MAX_TEXT = 256, 4096, 2**22
"""Bounds of ours, far above any real deployment: what one document may grow into."""


def uses(document: Document) -> Iterator[tuple[str, str, Use]]:
    """(service, placement, use) in the order in which units are numbered."""
    for service in sorted(document.deployment):
        for placement in sorted(document.deployment[service]):
            yield service, placement, document.deployment[service][placement]


def check(document: Document) -> None:
    """``SdlError`` for the first rule that is broken."""
    _bounds(document)
    _endpoint_kinds(document)
    _references(document)
    _groups(document)
    _services(document)


def _bounds(document: Document) -> None:
    found = list(uses(document))
    if not found:
        raise SdlError(document.deployment_line, "deployment names no service; say where one runs, and how often")
    running = [document.services[name] for name, _, _ in found if name in document.services]
    exposes = sum(max(1, len(rule.to)) for service in running for rule in service.expose)
    written = sum(
        len(entry) for s in running for part in (s.command, s.args, s.env, (s.image,)) for entry in part or ()
    )
    if len(found) > _MAX_USES or exposes > _MAX_EXPOSES or written > _MAX_TEXT:
        raise SdlError(
            document.deployment_line,
            f"this deployment is too large: at most {_MAX_USES} services over all placements, {_MAX_EXPOSES} exposed "
            f"ports and {_MAX_TEXT} characters of image, command, args and env; write several SDLs",
        )


# --- references --------------------------------------------------------------------------------------------------


def _endpoint_kinds(document: Document) -> None:
    for name, endpoint in document.endpoints.items():
        if not schema.ENDPOINT_NAME.fullmatch(name):
            raise SdlError(endpoint.line, f"the endpoint name {shown(name)} must be {schema.ENDPOINT_NAME_WANTS}")
        if endpoint.kind != "ip":
            raise SdlError(endpoint.line, f"endpoints.{name}.kind must be ip, not {shown(endpoint.kind)}")


def _references(document: Document) -> None:
    taken: dict[tuple[str, int, str], str] = {}
    used: set[str] = set()
    for name, placement, use in uses(document):
        service, compute = _referred(document, name, placement, use)
        if service.credentials is not None:
            _credentials(service, service.credentials)
        _addresses(document, service, taken, used)
        _mounts(document, service, compute, use)
    for name, endpoint in document.endpoints.items():
        if name not in used:
            raise SdlError(
                endpoint.line, f"the endpoint {name} is never used; write ip: {name} in an expose or remove it"
            )


def _referred(document: Document, name: str, placement: str, use: Use) -> tuple[ServiceRule, Compute]:
    where = f"deployment.{name}.{placement}"
    compute = document.compute.get(use.profile)
    if compute is None:
        raise SdlError(use.line, f"{where} uses the compute profile {shown(use.profile)}, which profiles.compute lacks")
    found = document.placements.get(placement)
    if found is None:
        raise SdlError(use.line, f"{where} uses the placement {shown(placement)}, which profiles.placement lacks")
    if use.profile not in found.pricing:
        raise SdlError(
            found.pricing_line,
            f"profiles.placement.{placement}.pricing has no price for {shown(use.profile)}; {where} needs it",
        )
    service = document.services.get(name)
    if service is None:
        raise SdlError(use.line, f"{where} deploys the service {shown(name)}, which services lacks")
    return service, compute


def _credentials(service: ServiceRule, login: Credentials) -> None:
    for key, value in (("host", login.host), ("username", login.username), ("password", login.password)):
        if not value.strip():
            raise SdlError(
                service.credentials_line, f"services.{service.name}.credentials.{key} is missing; the registry needs it"
            )


def _addresses(
    document: Document, service: ServiceRule, taken: dict[tuple[str, int, str], str], used: set[str]
) -> None:
    for rule in service.expose:
        for to in rule.to:
            if not to.ip:
                continue
            if not to.is_global:
                raise SdlError(to.line, f"ip: {to.ip} needs global: true beside it; an address is reached from outside")
            if to.ip not in document.endpoints:
                raise SdlError(
                    to.line, f"services.{service.name} uses the endpoint {shown(to.ip)}, which endpoints lacks"
                )
            used.add(to.ip)
            # As written: two exposes without ``as`` collide whatever their ports, as they do at the peer.
            key = (to.ip, rule.external_port, rule.protocol)
            if key in taken:
                raise SdlError(
                    to.line,
                    f"the endpoint {to.ip} has this port already, from the service {taken[key]}; "
                    "write an as of its own into each expose that uses it",
                )
            taken[key] = service.name


def _mounts(document: Document, service: ServiceRule, compute: Compute, use: Use) -> None:
    volumes = {volume.name: volume for volume in compute.volumes}
    mounts = service.params.mounts if service.params is not None else ()
    place = f"services.{service.name}.params.storage"
    at: dict[str, str] = {}
    for mount in mounts:
        volume = volumes.get(mount.name)
        if volume is None:
            raise SdlError(
                mount.line, f"{place} mounts the volume {shown(mount.name)}, which profiles.compute.{use.profile} lacks"
            )
        if not mount.path.startswith("/"):
            raise SdlError(mount.line, f"{place}.{mount.name}.mount must be an absolute path such as /data")
        if mount.path in at:
            raise SdlError(mount.line, f"{place} mounts {at[mount.path]} and {mount.name} both at {shown(mount.path)}")
        at[mount.path] = mount.name
        if document.shares_units and volume.attribute("class") == "ram" and mount.read_only:
            raise SdlError(mount.line, f"{place}.{mount.name} is read-only memory, which stays empty; drop readOnly")
    if not document.shares_units and not mounts:
        for volume in compute.volumes:
            if volume.attribute("persistent") == "true":
                raise SdlError(
                    volume.line, f"the volume {volume.name} is persistent; say where in {place}.{volume.name}.mount"
                )


# --- the market's limits -----------------------------------------------------------------------------------------


def _groups(document: Document) -> None:
    denoms: dict[str, int] = {}
    groups: dict[str, list[tuple[Compute, Use]]] = {}
    checked: set[str] = set()
    for _, placement, use in uses(document):
        compute = document.compute[use.profile]
        if use.profile not in checked:
            _unit(compute, f"profiles.compute.{use.profile}.resources")
            checked.add(use.profile)
        _price(document.placements[placement], placement, use.profile, denoms)
        groups.setdefault(placement, []).append((compute, use))
    for placement, members in sorted(groups.items()):
        _totals(placement, members)


def _unit(compute: Compute, place: str) -> None:
    def within(key: str, value: int, limits: tuple[int, int], words: str) -> None:
        if not limits[0] <= value <= limits[1]:
            raise SdlError(compute.lines[key], f"{place}.{key} must be {words}")

    within("cpu", compute.cpu_milli, _CPU_MILLI, "between 10m and 384 cores")
    within("gpu" if compute.gpu_units else "", compute.gpu_units, (0, _MAX_GPUS), f"at most {_MAX_GPUS} units")
    within("memory", compute.memory_bytes, _MEMORY, "between 1Mi and 2Ti")
    if not compute.volumes:
        raise SdlError(
            compute.lines.get("storage", compute.lines[""]), f"{place}.storage is missing; write a size such as 1Gi"
        )
    for volume in compute.volumes:
        if not _STORAGE[0] <= volume.size_bytes <= _STORAGE[1]:
            raise SdlError(volume.line, f"{place}.storage {volume.name} must be between 5Mi and 32Ti")


def _price(placement: Placement, name: str, profile: str, denoms: dict[str, int]) -> None:
    price = placement.pricing[profile]
    place = f"profiles.placement.{name}.pricing.{profile}"
    if not _DENOM.fullmatch(price.denom):
        raise SdlError(price.line, f"{place}.denom {shown(price.denom)} is no denomination; write uact")
    if price.amount > _MAX_PRICE:
        raise SdlError(price.line, f"{place}.amount must be at most 10000000 per block")
    denoms.setdefault(price.denom, price.line)
    if len(denoms) > 1:
        first = next(iter(denoms))
        raise SdlError(price.line, f"{place} is in {price.denom}, and another price in {first}; use one denomination")


def _totals(placement: str, members: list[tuple[Compute, Use]]) -> None:
    line = members[0][1].line
    cpu = sum(compute.cpu_milli * use.count for compute, use in members)
    gpus = sum(compute.gpu_units * use.count for compute, use in members)
    memory = sum(compute.memory_bytes * use.count for compute, use in members)
    if cpu == 0:
        raise SdlError(line, f"nothing runs at the placement {placement}; set a count to 1 or more")
    if cpu > _GROUP_CPU_MILLI or gpus > _GROUP_GPUS or memory > _GROUP_MEMORY:
        raise SdlError(
            line,
            f"the placement {placement} asks for more than 19200 cores, {_GROUP_GPUS} GPUs or 100Ti of memory in all; "
            "lower the counts",
        )


# --- the manifest's rules ----------------------------------------------------------------------------------------


def _services(document: Document) -> None:
    hosts: dict[str, int] = {}
    reachable = False
    for name, placement, _ in uses(document):
        if not placement:
            raise SdlError(document.deployment_line, "a placement has an empty name; name it")
        service = document.services[name]
        _service(service)
        for rule in service.expose:
            if not 1 <= rule.port <= 65535:
                raise SdlError(rule.line, f"services.{name} exposes port {rule.port}; a port is from 1 to 65535")
            if rule.external_port > 65535:
                raise SdlError(rule.line, f"services.{name} exposes as {rule.external_port}; a port is at most 65535")
            for _ in range(max(1, len(rule.to))):
                _hosts(rule.accept or (), rule.line, hosts)
            reachable = reachable or any(to.is_global for to in rule.to)
    if not reachable:
        raise SdlError(
            document.deployment_line,
            "no service is reachable from outside, and providers refuse that; write global: true in one expose",
        )


def _service(service: ServiceRule) -> None:
    if not SERVICE_NAME.match(service.name):
        raise SdlError(
            service.line,
            f"the service name {shown(service.name)} must be lower-case letters, digits and dashes, a letter first",
        )
    if not service.image:
        raise SdlError(service.line, f"services.{service.name}.image is missing; name a container image")
    for entry, line in zip(service.env or (), service.env_lines, strict=True):
        name = entry.split("=", 1)[0]
        if not ENV_NAME.match(name) or name == "." or name.startswith(".."):
            raise SdlError(
                line, f"services.{service.name}.env: {shown(name)} is no name of a variable; write NAME=value"
            )


def _hosts(accept: tuple[str, ...], line: int, hosts: dict[str, int]) -> None:
    for host in accept:
        if len(host) > 253 or not HOST_NAME.match(host):
            raise SdlError(line, f"the host name {shown(host)} must be a lower-case DNS name such as app.example.com")
        if host in hosts:
            raise SdlError(line, f"the host name {host} is used twice, first in line {hosts[host]}; use it once")
        hosts[host] = line
