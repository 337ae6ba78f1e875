"""The generated code against the wire facts: every message, field, enum and service."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FieldDescriptor

import gpulease.pb  # noqa: F401  (registers cosmos.*)

pytestmark = pytest.mark.unit

WIRE: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parents[1] / "data/chain/wire.yaml").read_text())
SCALARS = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_FLOAT: "float",
}


def type_name(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        if field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields
            return f"map<{type_name(key)}, {type_name(value)}>"
        name = str(field.message_type.full_name)
    elif field.enum_type is not None:
        name = str(field.enum_type.full_name)
    else:
        name = SCALARS[field.type]
    return f"repeated {name}" if field.label == FieldDescriptor.LABEL_REPEATED else name


@pytest.mark.parametrize("path", sorted(WIRE))
def test_file_matches_the_wire(path: str) -> None:
    importlib.import_module("gpulease.pb." + path.removesuffix(".proto").replace("/", ".") + "_pb2")
    pool = descriptor_pool.Default()
    for name, body in WIRE[path].items():
        if body and all(isinstance(v, int) for v in body.values()):
            found: Any = {v.name: v.number for v in pool.FindEnumTypeByName(name).values}
            assert found == body, name
        elif body and all(isinstance(v, list) and isinstance(v[0], str) for v in body.values()):
            methods = {m.name: m for m in pool.FindServiceByName(name).methods}
            assert set(methods) == set(body), name
            for method, parts in body.items():
                got = methods[method]
                assert [got.input_type.full_name, got.output_type.full_name] == parts[:2], (name, method)
                assert got.server_streaming == (len(parts) > 2 and "server" in parts[2]), (name, method)
        else:
            fields = {f.name: [f.number, type_name(f)] for f in pool.FindMessageTypeByName(name).fields}
            assert fields == {k: v[:2] for k, v in body.items()}, name


@pytest.mark.parametrize(
    "order",
    [
        "import cosmpy.protos, gpulease.pb.akash.market.v1beta5.query_pb2",
        "import gpulease.pb.akash.market.v1beta5.query_pb2, cosmpy.aerial.client",
        "import cosmpy.aerial.client, gpulease.pb.akash.deployment.v1beta4.query_pb2",
    ],
)
def test_both_sets_of_generated_code_live_in_one_process(order: str) -> None:
    done = subprocess.run([sys.executable, "-c", order], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
