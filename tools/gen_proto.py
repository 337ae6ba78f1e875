"""Writes proto/akash/**.proto from the wire facts in tests/data/chain/wire.yaml.

Run once per change of the wire facts; the .proto files are the source of the generated code afterwards. Only what
travels on the wire is written: no gogoproto options, which change Go types and not bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
WELL_KNOWN = {
    "google.protobuf.Any": "google/protobuf/any.proto",
    "google.protobuf.Duration": "google/protobuf/duration.proto",
    "google.protobuf.Empty": "google/protobuf/empty.proto",
    "google.protobuf.Timestamp": "google/protobuf/timestamp.proto",
    "cosmos.base.v1beta1.Coin": "cosmos/base/v1beta1/coin.proto",
    "cosmos.base.v1beta1.DecCoin": "cosmos/base/v1beta1/coin.proto",
    "cosmos.base.query.v1beta1.PageRequest": "cosmos/base/query/v1beta1/pagination.proto",
    "cosmos.base.query.v1beta1.PageResponse": "cosmos/base/query/v1beta1/pagination.proto",
    "k8s.io.apimachinery.pkg.api.resource.Quantity": "k8s/quantity.proto",
}


def type_words(raw: str) -> tuple[str, str]:
    """``repeated x`` to its label and type; the type is fully qualified with a leading dot when it has one."""
    label, _, name = raw.rpartition(" ")
    return label, name


def is_enum(body: dict[str, Any]) -> bool:
    return bool(body) and all(isinstance(v, int) for v in body.values())


def is_service(body: dict[str, Any]) -> bool:
    return bool(body) and all(isinstance(v, list) and isinstance(v[0], str) for v in body.values())


def used_types(body: dict[str, Any]) -> set[str]:
    names: set[str] = set()
    for value in body.values():
        if isinstance(value, list):
            for part in value:
                if isinstance(part, str) and "." in part:
                    for word in part.replace("map<", "").replace(">", "").replace(",", " ").split():
                        names.add(word)
    return names


def render(path: str, content: dict[str, Any], where: dict[str, str]) -> str:
    package = package_of(path)
    imports: set[str] = set()
    for body in content.values():
        for name in used_types(body):
            target = WELL_KNOWN.get(name) or where.get(name)
            if target and target != path:
                imports.add(target)
    lines = ['syntax = "proto3";', "", f"package {package};", ""]
    lines += [f'import "{name}";' for name in sorted(imports)] + ([""] if imports else [])
    tree: dict[str, Any] = {}
    for full, body in content.items():
        node = tree
        for part in full.removeprefix(package + ".").split("."):
            node = node.setdefault(part, {"children": {}, "body": None})["children"]
        _at(tree, full.removeprefix(package + ".").split("."))["body"] = body
    for name, node in tree.items():
        lines += [*block(name, node, 0), ""]
    return "\n".join(lines).rstrip() + "\n"


def _at(tree: dict[str, Any], parts: list[str]) -> dict[str, Any]:
    node: dict[str, Any] = tree[parts[0]]
    for part in parts[1:]:
        node = node["children"][part]
    return node


def block(name: str, node: dict[str, Any], depth: int) -> list[str]:
    pad, body = "  " * depth, node["body"] or {}
    if is_enum(body):
        return [f"{pad}enum {name} {{", *(f"{pad}  {k} = {v};" for k, v in body.items()), f"{pad}}}"]
    if is_service(body):
        return [f"{pad}service {name} {{", *(f"{pad}  {rpc(k, v)}" for k, v in body.items()), f"{pad}}}"]
    lines = [f"{pad}message {name} {{"]
    for child, sub in node["children"].items():
        lines += block(child, sub, depth + 1)
    for field, (number, *rest) in body.items():
        label, kind = type_words(rest[0])
        oneof = f"{label} " if label else ""
        dot = "." if "." in kind and not kind.startswith("map<") else ""
        lines.append(f"{pad}  {oneof}{dot}{kind} {field} = {number};")
    return [*lines, f"{pad}}}"]


def rpc(name: str, parts: list[str]) -> str:
    modes = " ".join(parts[2:])
    client = "stream " if "client" in modes or "bidi" in modes else ""
    server = "stream " if "server" in modes or "bidi" in modes else ""
    return f"rpc {name}({client}.{parts[0]}) returns ({server}.{parts[1]});"


def package_of(path: str) -> str:
    return path.rpartition("/")[0].replace("/", ".")


def main() -> int:
    wire = yaml.safe_load((ROOT / "tests/data/chain/wire.yaml").read_text())
    where = {name: path for path, content in wire.items() for name in content}
    for path, content in wire.items():
        target = ROOT / "proto" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(render(path, content, where))
    print(f"{len(wire)} files written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
