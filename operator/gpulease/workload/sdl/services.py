"""The ``services`` part of an SDL."""

from __future__ import annotations

from gpulease.errors import SdlError
from gpulease.workload.model import Credentials, HttpOptions
from gpulease.workload.sdl import schema
from gpulease.workload.sdl.fields import flag, is_null, items, line_of, number, table, text, texts
from gpulease.workload.sdl.model import ExposeRule, ServiceParams, ServiceRule, To, VolumeMount
from gpulease.workload.sdl.tree import Node, shown


def service(name: str, node: Node, place: str) -> ServiceRule:
    raw = table(node, place)
    env = raw.get("env")
    login = raw.get("credentials")
    for number_, entry in enumerate(items(raw.get("dependencies"), f"{place}.dependencies")):
        where = f"{place}.dependencies[{number_}]"
        text(table(entry, where).get("service"), f"{where}.service")
    return ServiceRule(
        line=node.line,
        name=name,
        image=text(raw.get("image"), f"{place}.image"),
        command=texts(raw.get("command"), f"{place}.command"),
        args=texts(raw.get("args"), f"{place}.args"),
        env=texts(env, f"{place}.env"),
        env_lines=tuple(entry.line for entry in items(env, f"{place}.env")),
        expose=tuple(
            _expose(entry, f"{place}.expose[{i}]")
            for i, entry in enumerate(items(raw.get("expose"), f"{place}.expose"))
        ),
        params=None if is_null(raw.get("params")) else _params(raw["params"], f"{place}.params"),
        credentials=None if login is None or is_null(login) else _credentials(login, f"{place}.credentials"),
        credentials_line=login.line if login is not None else node.line,
    )


def _credentials(node: Node, place: str) -> Credentials:
    raw = table(node, place)
    host, user, password, email = (text(raw.get(k), f"{place}.{k}") for k in ("host", "username", "password", "email"))
    return Credentials(host, user, password, email)


def _params(node: Node, place: str) -> ServiceParams:
    raw = table(node, place)
    mounts = table(raw.get("storage"), f"{place}.storage")
    permissions = raw.get("permissions")
    return ServiceParams(
        tuple(_mount(name, mounts[name], f"{place}.storage.{name}") for name in sorted(mounts)),
        None
        if is_null(permissions)
        else texts(table(permissions, f"{place}.permissions").get("read"), f"{place}.permissions.read") or (),
    )


def _mount(name: str, node: Node, place: str) -> VolumeMount:
    raw = table(node, place)
    return VolumeMount(
        line_of(node, "mount", node.line),
        name,
        text(raw.get("mount"), f"{place}.mount"),
        flag(raw.get("readOnly"), f"{place}.readOnly"),
    )


def _expose(node: Node, place: str) -> ExposeRule:
    raw = table(node, place)
    protocol = text(raw.get("proto"), f"{place}.proto")
    if protocol.upper() not in ("", "TCP", "UDP"):
        raise SdlError(line_of(node, "proto", node.line), f"{place}.proto must be TCP or UDP, not {shown(protocol)}")
    return ExposeRule(
        line=node.line,
        port=number(raw.get("port"), f"{place}.port"),
        external_port=number(raw.get("as"), f"{place}.as"),
        protocol=protocol,
        accept=texts(raw.get("accept"), f"{place}.accept"),
        to=tuple(_to(entry, f"{place}.to[{i}]") for i, entry in enumerate(items(raw.get("to"), f"{place}.to"))),
        http=_http(raw.get("http_options"), f"{place}.http_options"),
    )


def _to(node: Node, place: str) -> To:
    raw = table(node, place)
    return To(
        node.line,
        text(raw.get("service"), f"{place}.service"),
        flag(raw.get("global"), f"{place}.global"),
        text(raw.get("ip"), f"{place}.ip"),
    )


def _http(node: Node | None, place: str) -> HttpOptions:
    """0 takes the default."""
    raw = table(node, place)
    default = HttpOptions()
    cases = texts(raw.get("next_cases"), f"{place}.next_cases") or default.next_cases
    for case in cases:
        if case not in schema.NEXT_CASES:
            wanted = ", ".join(schema.NEXT_CASES)
            raise SdlError(raw["next_cases"].line, f"{place}.next_cases holds {shown(case)}; use {wanted}")
    if "off" in cases and len(cases) > 1:
        raise SdlError(raw["next_cases"].line, f"{place}.next_cases holds off and other cases; off stands alone")

    def limited(key: str, usual: int, most: int | None) -> int:
        value = number(raw.get(key), f"{place}.{key}") or usual
        if most is not None and value > most:
            raise SdlError(raw[key].line, f"{place}.{key} must be at most {most}, not {value}")
        return value

    return HttpOptions(
        limited("max_body_size", default.max_body_size_bytes, schema.MAX_BODY_BYTES),
        limited("read_timeout", default.read_timeout_ms, schema.MAX_TIMEOUT_MS),
        limited("send_timeout", default.send_timeout_ms, schema.MAX_TIMEOUT_MS),
        limited("next_tries", default.next_tries, None),
        limited("next_timeout", default.next_timeout_ms, None),
        cases,
    )
