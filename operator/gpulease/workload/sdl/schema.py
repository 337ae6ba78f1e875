"""The schema layer: what an SDL of version 2.0 or 2.1 may hold, key by key, before its meaning is looked at.

Web clients of the market refuse what breaks these rules while the command line client reads on, ignoring keys it does
not know (gateway reference §6, "only the schema refuses"). We refuse: a misspelt key that is ignored costs money.
"""

from __future__ import annotations

import re

from gpulease.errors import SdlError
from gpulease.workload.sdl.shapes import (
    Anything,
    Flag,
    ListOf,
    MapOf,
    Nullable,
    Number,
    OneOrList,
    Record,
    Shape,
    Text,
    Whole,
    refuse,
)
from gpulease.workload.sdl.tree import Items, Node, Scalar, Table, boolean

VERSIONS = ("2.0", "2.1")
MAX_BODY_BYTES = 104_857_600
MAX_TIMEOUT_MS = 60_000
NEXT_CASES = ("error", "timeout", "500", "502", "503", "504", "403", "404", "429", "off")
ENDPOINT_NAME = re.compile(r"[a-z]+[-_a-z0-9]+")
ENDPOINT_NAME_WANTS = "lower-case letters, digits, - and _, begin with a letter and have 2 characters or more"
_ZERO = re.compile(r"0+(\.0+)?")


class _Version:
    """Quotes may be left out: what was written counts, not the number."""

    def check(self, node: Node, place: str) -> None:
        if not isinstance(node, Scalar) or node.text not in VERSIONS:
            raise refuse(node, place, '"2.0" or "2.1"')


class _NextCases:
    def check(self, node: Node, place: str) -> None:
        words = "one of " + ", ".join(NEXT_CASES) + " in quotes"
        ListOf(Text(words, one_of=NEXT_CASES)).check(node, place)
        cases = [entry.text for entry in node.items if isinstance(entry, Scalar)] if isinstance(node, Items) else []
        if "off" in cases and len(cases) > 1:
            raise SdlError(node.line, f"{place} holds off and other cases; off stands alone")


class _Persistent:
    """True and false, in quotes or not, and the words that YAML once took for them."""

    def check(self, node: Node, place: str) -> None:
        if not isinstance(node, Scalar) or node.kind not in ("bool", "str"):
            raise refuse(node, place, "true or false")


def _ip_is_global(node: Table, place: str) -> None:
    ip = node.entries.get("ip")
    if ip is None:
        return
    is_global = node.entries.get("global")
    if not (isinstance(is_global, Scalar) and is_global.kind == "bool" and boolean(is_global)):
        raise SdlError(
            node.line_of("ip"), f"{place}.ip needs global: true beside it; an address is reached from outside"
        )


def _gpu_is_whole(node: Table, place: str) -> None:
    units = node.entries.get("units")
    some = isinstance(units, Scalar) and units.kind in ("int", "float", "str") and not _ZERO.fullmatch(units.text)
    if units is not None and some and "attributes" not in node.entries:
        raise SdlError(node.line_of("units"), f"{place}.attributes is missing; name a vendor, for example nvidia: []")
    if "attributes" in node.entries and not some:
        raise SdlError(node.line_of("attributes"), f"{place}.attributes stands without GPUs; set units to 1 or more")


def _class_and_persistence(node: Table, place: str) -> None:
    kind, persistent = node.entries.get("class"), node.entries.get("persistent")
    if not isinstance(kind, Scalar) or not isinstance(persistent, Scalar):
        return
    lasting = persistent.text in ("true", "True", "TRUE") if persistent.kind == "bool" else persistent.text == "true"
    if kind.text == "ram" and lasting:
        raise SdlError(persistent.line, f"{place}: class ram cannot be persistent; set persistent to false")
    if kind.text in ("beta1", "beta2", "beta3", "default") and not lasting:
        raise SdlError(
            persistent.line, f"{place}: class {kind.text} is for persistent volumes; set persistent to true or drop it"
        )


def _some_vendor(node: Table, place: str) -> None:
    if not node.entries:
        raise SdlError(node.line, f"{place} names no vendor; write nvidia")


_TEXTS = ListOf(Text(), nullable=True)
_PORT = Whole(1, 65535)

_TO = Record(
    {"service": Text(), "global": Flag(), "ip": Text("the name of an endpoint", min_length=1)}, also=_ip_is_global
)
_HTTP = Record(
    {
        "max_body_size": Whole(0, MAX_BODY_BYTES),
        "read_timeout": Whole(0, MAX_TIMEOUT_MS),
        "send_timeout": Whole(0, MAX_TIMEOUT_MS),
        "next_tries": Whole(),
        "next_timeout": Whole(),
        "next_cases": _NextCases(),
    }
)
_EXPOSE = Record(
    {
        "port": _PORT,
        "as": _PORT,
        "proto": Text("TCP or UDP", one_of=("TCP", "UDP", "tcp", "udp")),
        "accept": ListOf(Text("a host name")),
        "to": ListOf(_TO),
        "http_options": _HTTP,
    },
    {"port": "write the port that the container listens on, from 1 to 65535"},
)
_PARAMS = Record(
    {
        "storage": MapOf(
            Record(
                {
                    "mount": Text("an absolute path such as /data", pattern=re.compile(r"/.*", re.DOTALL)),
                    "readOnly": Flag(),
                }
            )
        ),
        "permissions": Record(
            {"read": ListOf(Text("deployment, logs or events", one_of=("deployment", "logs", "events")))}
        ),
    }
)
_CREDENTIALS = Record(
    {
        "host": Text("the registry's host name", min_length=1),
        "username": Text("the registry's user", min_length=1),
        "password": Text("text of 6 characters or more", min_length=6, secret=True),
        "email": Text("an e-mail address of 5 characters or more", min_length=5),
    },
    {
        "host": "write the registry's host name",
        "username": "write the registry's user",
        "password": "write the user's password or token",
    },
)
_SERVICE = Record(
    {
        "image": Text("the name of a container image", min_length=1),
        "command": _TEXTS,
        "args": _TEXTS,
        "env": _TEXTS,
        "expose": ListOf(_EXPOSE, nullable=True),
        "dependencies": ListOf(Record({"service": Text()})),
        "params": _PARAMS,
        "credentials": _CREDENTIALS,
    },
    {"image": "write the name of a container image, for example nginx:1.27"},
)
_GPU_MODEL = Record(
    {"model": Text(), "ram": Text("memory such as 80Gi"), "interface": Text("pcie or sxm", one_of=("pcie", "sxm"))}
)
_GPU = Record(
    {
        "units": Number("a number of GPUs", zero=True),
        "attributes": Record(
            {"vendor": Record({"nvidia": Nullable(ListOf(_GPU_MODEL))}, also=_some_vendor)},
        ),
    },
    also=_gpu_is_whole,
)
_VOLUME = Record(
    {
        "name": Text(),
        "size": Text("a size such as 10Gi"),
        "attributes": Record(
            {"class": Text("a storage class"), "persistent": _Persistent()},
            {"class": "write beta1, beta2, beta3, default or ram", "persistent": "write true or false"},
            also=_class_and_persistence,
        ),
    },
    {"size": "write a size such as 10Gi"},
)
_RESOURCES = Record(
    {
        "cpu": Record(
            {
                "units": Number(
                    "CPU cores such as 500m or 2",
                    re.compile(r"[0-9]+(\.[0-9]+)?[a-zA-Z]*"),
                    never=re.compile(r"0+(\.0+)?m?"),
                ),
                "attributes": Anything(),
            },
            {"units": "write CPU cores such as 500m or 2"},
        ),
        "memory": Record({"size": Text("a size such as 512Mi")}, {"size": "write a size such as 512Mi"}),
        "storage": OneOrList(_VOLUME),
        "gpu": _GPU,
    },
    {
        "cpu": "write units, for example 500m",
        "memory": "write a size, for example 512Mi",
        "storage": "write a size, for example 1Gi",
    },
)
_PRICE = Record(
    {
        "denom": Text("uact or uakt", one_of=("uakt", "uact")),
        "amount": Number("a price per block of 0 or more", re.compile(r"[0-9]+(\.[0-9]+)?"), zero=True),
    },
    {"denom": "write uact", "amount": "write the most to pay per block"},
)
_PLACEMENT = Record(
    {
        "attributes": Anything(),
        "signedBy": Record({"allOf": ListOf(Text("an account")), "anyOf": ListOf(Text("an account"))}),
        "pricing": MapOf(_PRICE),
    },
    {"pricing": "write denom and amount for every compute profile that is used"},
)
SDL: Shape = Record(
    {
        "version": _Version(),
        "include": ListOf(Text()),
        "services": MapOf(_SERVICE),
        "profiles": Record(
            {
                "compute": MapOf(Record({"resources": _RESOURCES}, {"resources": "write cpu, memory and storage"})),
                "placement": MapOf(_PLACEMENT),
            },
            {"compute": "describe the resources of the services", "placement": "name a placement and its pricing"},
        ),
        "deployment": MapOf(
            MapOf(
                Record(
                    {"profile": Text("the name of a compute profile"), "count": Whole(1)},
                    {"profile": "name a compute profile", "count": "write how many replicas run"},
                )
            )
        ),
        "endpoints": MapOf(
            Record({"kind": Text("ip", one_of=("ip",))}, {"kind": "write kind: ip"}), ENDPOINT_NAME, ENDPOINT_NAME_WANTS
        ),
        "reclamation": Record(
            {"min_window": Text('a time such as "24h", in s, m or h', pattern=re.compile(r"[1-9][0-9]*[smh]"))},
            {"min_window": 'write a time such as "24h"'},
        ),
    },
    {
        "version": 'write version: "2.0" or "2.1"',
        "services": "name the services and their images",
        "profiles": "describe compute and placement",
        "deployment": "say where each service runs, and how often",
    },
)


def check(document: Node) -> None:
    """``SdlError`` for the first thing that the schema does not allow."""
    SDL.check(document, "")
