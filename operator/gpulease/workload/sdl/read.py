"""From a tree to a Document: each key decoded by the type the language gives it, references not yet followed."""

from __future__ import annotations

import re

from gpulease.errors import SdlError
from gpulease.workload.sdl import quantities
from gpulease.workload.sdl.fields import is_null, line_of, quantity, table, text, texts
from gpulease.workload.sdl.model import Document, EndpointRule
from gpulease.workload.sdl.profiles import compute, placement, uses
from gpulease.workload.sdl.services import service
from gpulease.workload.sdl.tree import Node, Table, shown

_TOP = ("version", "include", "services", "profiles", "deployment", "endpoints", "reclamation")
_VERSION = re.compile(
    r"\s*v?([0-9]{1,9})(?:\.([0-9]{1,9}))?(?:\.([0-9]{1,9}))?(-[0-9A-Za-z.-]{1,64})?(\+[0-9A-Za-z.-]{1,64})?\s*"
)


def document(root: Node | None) -> Document:
    """``SdlError`` for the first key that cannot be read."""
    if root is None or not isinstance(root, Table):
        raise SdlError(root.line if root else 1, 'an SDL is a mapping that begins with version: "2.0" or "2.1"')
    top = root.entries
    for key in top:
        if key not in _TOP:
            raise SdlError(root.line_of(key), f"the key {shown(key)} is not known; use one of {', '.join(_TOP)}")
    shares_units = _version(root)
    texts(top.get("include"), "include")
    profiles = table(top.get("profiles"), "profiles")
    return Document(
        shares_units=shares_units,
        services={n: service(n, v, f"services.{n}") for n, v in table(top.get("services"), "services").items()},
        compute={
            n: compute(v, f"profiles.compute.{n}")
            for n, v in table(profiles.get("compute"), "profiles.compute").items()
        },
        placements={
            n: placement(v, f"profiles.placement.{n}")
            for n, v in table(profiles.get("placement"), "profiles.placement").items()
        },
        deployment={n: uses(v, f"deployment.{n}") for n, v in table(top.get("deployment"), "deployment").items()},
        deployment_line=root.line_of("deployment"),
        endpoints=_endpoints(top.get("endpoints")),
        reclamation_min_window_ns=_reclamation(root),
    )


def _endpoints(node: Node | None) -> dict[str, EndpointRule]:
    found = {}
    for name, entry in table(node, "endpoints").items():
        kind = text(table(entry, f"endpoints.{name}").get("kind"), f"endpoints.{name}.kind")
        found[name] = EndpointRule(line_of(node, name, entry.line), kind)
    return found


def _version(root: Table) -> bool:
    """True for 2.1 and later, which share units."""
    node = root.entries.get("version")
    if node is None:
        raise SdlError(root.line, 'version is missing; write version: "2.0" or "2.1"')
    match = _VERSION.fullmatch(text(node, "version"))
    if match is not None:
        number_ = tuple(int(part or "0") for part in match.groups()[:3])
        early = match[4] is not None
        if number_ == (2, 0, 0) and not early:
            return False
        if number_ > (2, 1, 0) or (number_ == (2, 1, 0) and not early):
            return True
    raise SdlError(node.line, f'version {shown(text(node, "version"))} is not known; write "2.0" or "2.1"')


def _reclamation(root: Table) -> int | None:
    if "reclamation" not in root.entries:
        return None
    node = root.entries["reclamation"]
    window = table(node, "reclamation").get("min_window")
    if window is None or is_null(window):
        raise SdlError(node.line, 'reclamation.min_window is missing; write a time such as "24h"')
    found = quantity(window, "reclamation.min_window", quantities.duration_ns)
    if found <= 0:
        raise SdlError(window.line, 'reclamation.min_window must be above 0; write a time such as "24h"')
    return found
