"""A GPULease's services as an SDL, and an SDL as a GPULease's spec.

What a GPULease can say, an SDL can: the way there loses nothing of the groups and the manifest. The way back takes
``spec.services`` where the SDL says no more than those can, and else keeps the SDL whole in ``spec.sdl``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from gpulease.market.gpu import GpuWant, wants
from gpulease.market.model import GroupSpec, PlacementRequirements, Resources
from gpulease.units import Dec
from gpulease.workload.manifest import ENV_NAME
from gpulease.workload.model import Expose, HttpOptions, Manifest, Service
from gpulease.workload.sdl.tree import plain_kind

MAX_SDL_CHARS = 65_536
"""What ``spec.sdl`` holds."""
_MAX_SERVICES, _MAX_REPLICAS, _MAX_GPUS, _MAX_MODELS, _MAX_EXPOSES, _MAX_HOSTS = 8, 50, 8, 16, 16, 8
_MAX_COMMAND, _MAX_ARGS, _MAX_ENV = 64, 128, 128
_MODEL = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?\Z")
_ACCOUNT = re.compile(r"[a-z]+1[02-9ac-hj-np-z]{38,}\Z")
_ATTRIBUTE_KEY = re.compile(r"[a-zA-Z][a-zA-Z0-9_/.-]{1,126}[a-zA-Z0-9_*]?\Z")
_IMAGE = re.compile(r"\S{1,512}\Z")
_ESCAPED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff]")
"""Characters that YAML takes for line breaks or not at all: they survive in double quotes only."""
_UNITS = (("Ti", 2**40), ("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10))


# --- to an SDL ---------------------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Quotes whatever an SDL's reader would not take for text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = None
    if _ESCAPED.search(value) or plain_kind(value) != "str":
        style = '"'
    elif "\n" in value:
        style = "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def to_sdl(group: GroupSpec, manifest: Manifest) -> str:
    """SDL 2.0 text for what ``compile_services`` gave: one group, a unit for each service."""
    services = manifest[0].services
    units = {unit.resources.id: unit for unit in group.resources}
    document = {
        "version": "2.0",
        "services": {service.name: _service(service) for service in services},
        "profiles": {
            "compute": {service.name: {"resources": _resources(service.resources)} for service in services},
            "placement": {
                group.name: {
                    **_requirements(group.requirements),
                    "pricing": {
                        service.name: {
                            "denom": units[service.resources.id].price.denom,
                            "amount": _decimal(units[service.resources.id].price.amount),
                        }
                        for service in services
                    },
                }
            },
        },
        "deployment": {
            service.name: {group.name: {"profile": service.name, "count": service.count}} for service in services
        },
    }
    return dump(document)


def dump(document: Mapping[str, Any]) -> str:
    """YAML in the order of the mapping, every text in quotes that is not plainly one."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=4096)
    return text


def _service(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = {"image": service.image}
    for key, values in (("command", service.command), ("args", service.args), ("env", service.env)):
        if values is not None:
            found[key] = list(values)
    if service.expose:
        found["expose"] = [_expose(expose) for expose in service.expose]
    return found


def _expose(expose: Expose) -> dict[str, Any]:
    found: dict[str, Any] = {"port": expose.port, "as": expose.external_port, "proto": expose.protocol}
    if expose.hosts is not None:
        found["accept"] = list(expose.hosts)
    if expose.is_global:
        found["to"] = [{"global": True}]
    return found


def _resources(resources: Resources) -> dict[str, Any]:
    found: dict[str, Any] = {
        "cpu": {"units": f"{resources.cpu_milli}m"},
        "memory": {"size": _size(resources.memory_bytes)},
        "storage": {"size": _size(resources.storage[0].quantity_bytes)},
    }
    if resources.gpu_units:
        models = [_want(want) for want in wants(resources.gpu_attributes) if want != GpuWant("*")]
        found["gpu"] = {"units": resources.gpu_units, "attributes": {"vendor": {"nvidia": models}}}
    return found


def _want(want: GpuWant) -> dict[str, str]:
    words = {"model": want.model, "ram": want.ram, "interface": want.interface}
    return {key: value for key, value in words.items() if value}


def _requirements(needs: PlacementRequirements) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if needs.attributes:
        found["attributes"] = {a.key: a.value for a in needs.attributes}
    signed = {"allOf": list(needs.signed_by_all_of), "anyOf": list(needs.signed_by_any_of)}
    if any(signed.values()):
        found["signedBy"] = {key: accounts for key, accounts in signed.items() if accounts}
    return found


def _size(count_bytes: int) -> str:
    """With the largest suffix that keeps it whole."""
    for suffix, unit in _UNITS:
        if count_bytes and count_bytes % unit == 0:
            return f"{count_bytes // unit}{suffix}"
    return str(count_bytes)


def _decimal(amount: Dec) -> str:
    """Without zeros at the end."""
    text = str(amount)
    return text.rstrip("0").rstrip(".")


# --- to a GPULease -----------------------------------------------------------------------------------------------


def to_spec(groups: tuple[GroupSpec, ...], manifest: Manifest, *, reclaims: bool, text: str) -> dict[str, Any]:
    """``services`` and ``placement`` of a GPULease, or ``sdl`` where they cannot say as much."""
    if len(groups) != 1 or reclaims or not _is_plain(groups[0], manifest):
        return {"sdl": text}
    found: dict[str, Any] = {"services": [_lease_service(service) for service in manifest[0].services]}
    needs = groups[0].requirements
    placement: dict[str, Any] = {}
    if needs.attributes:
        placement["attributes"] = [{"key": a.key, "value": a.value} for a in needs.attributes]
    signed = {"allOf": list(needs.signed_by_all_of), "anyOf": list(needs.signed_by_any_of)}
    if any(signed.values()):
        placement["signedBy"] = {key: accounts for key, accounts in signed.items() if accounts}
    if placement:
        found["placement"] = placement
    return found


def _is_plain(group: GroupSpec, manifest: Manifest) -> bool:
    services = manifest[0].services
    needs = group.requirements
    accounts = (*needs.signed_by_all_of, *needs.signed_by_any_of)
    return (
        len(services) <= _MAX_SERVICES
        and any(service.resources.gpu_units for service in services)
        and all(_is_plain_service(service) for service in services)
        and len(needs.attributes) <= 32
        and all(_ATTRIBUTE_KEY.match(a.key) and 0 < len(a.value) <= 256 for a in needs.attributes)
        and all(_ACCOUNT.match(account) and len(account) <= 128 for account in accounts)
        and all(len(set(some)) == len(some) <= 16 for some in (needs.signed_by_all_of, needs.signed_by_any_of))
    )


def _is_plain_service(service: Service) -> bool:
    r = service.resources
    names = [entry.partition("=")[0] for entry in service.env or ()]
    ports = [(e.protocol, e.is_global, e.outside_port) for e in service.expose]
    return (
        1 <= service.count <= _MAX_REPLICAS
        and len(service.name) <= 63
        and _IMAGE.match(service.image) is not None
        and service.params is None
        and service.credentials is None
        and not (r.cpu_attributes or r.memory_attributes)
        and len(r.storage) == 1
        and not r.storage[0].attributes
        and r.gpu_units <= _MAX_GPUS
        and _are_plain_models(r)
        and len(service.expose) <= _MAX_EXPOSES
        and len(set(ports)) == len(ports)
        and all(_is_plain_expose(expose) for expose in service.expose)
        and len(set(names)) == len(names) <= _MAX_ENV
        and all("=" in entry and len(entry) <= 8192 for entry in service.env or ())
        and all(len(n) <= 256 and ENV_NAME.match(n) and n[0] != "." for n in names)
        and len(service.command or ()) <= _MAX_COMMAND
        and len(service.args or ()) <= _MAX_ARGS
        and all(len(word) <= 4096 for part in (service.command, service.args) for word in part or ())
    )


def _are_plain_models(resources: Resources) -> bool:
    found = wants(resources.gpu_attributes)
    if len(found) != len(resources.gpu_attributes) or len(found) > _MAX_MODELS:
        return False
    if found == (GpuWant("*"),):
        return True
    return all(_MODEL.match(want.model) and len(want.model) <= 63 and len(want.ram) <= 8 for want in found) and all(
        not want.ram.startswith("0") for want in found
    )


def _is_plain_expose(expose: Expose) -> bool:
    hosts = expose.hosts or ()
    return (
        expose.http == HttpOptions()
        and not expose.service
        and not expose.ip
        and len(hosts) <= _MAX_HOSTS
        and (not hosts or expose.is_ingress)
    )


def _lease_service(service: Service) -> dict[str, Any]:
    r = service.resources
    found: dict[str, Any] = {"name": service.name, "image": service.image}
    for key, values in (("command", service.command), ("args", service.args)):
        if values:
            found[key] = list(values)
    if service.env:
        pairs = (entry.partition("=") for entry in service.env)
        found["env"] = [{"name": name, "value": value} for name, _, value in pairs]
    if service.count != 1:
        found["replicas"] = service.count
    found["resources"] = {
        "cpu": f"{r.cpu_milli}m" if r.cpu_milli % 1000 else r.cpu_milli // 1000,
        "memory": _size(r.memory_bytes),
        "storage": _size(r.storage[0].quantity_bytes),
    }
    if r.gpu_units:
        models = [_want(want) for want in wants(r.gpu_attributes) if want != GpuWant("*")]
        found["resources"]["gpu"] = {"count": r.gpu_units, **({"models": models} if models else {})}
    if service.expose:
        found["expose"] = [_lease_expose(expose) for expose in service.expose]
    return found


def _lease_expose(expose: Expose) -> dict[str, Any]:
    found: dict[str, Any] = {"port": expose.port}
    if expose.outside_port != expose.port:
        found["as"] = expose.outside_port
    if expose.protocol != "TCP":
        found["protocol"] = expose.protocol
    if expose.is_global:
        found["global"] = True
    if expose.hosts:
        found["hosts"] = list(expose.hosts)
    return found
