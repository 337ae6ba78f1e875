"""Generates operator/gpulease/pb from proto/ (same input, same output).

cosmos.* and gogoproto come from cosmpy: a second copy of them would clash in the process-wide descriptor pool. cosmpy
ships no .proto files, so its compiled descriptors are handed to protoc instead.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

import cosmpy.protos  # noqa: F401  (puts cosmos.* on the path)
import grpc_tools
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from cosmos.base.query.v1beta1 import pagination_pb2
from cosmos.base.v1beta1 import coin_pb2

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "operator/gpulease/pb"
OURS = ("akash", "k8s", "podresources")


def descriptor_set(roots: list[object]) -> bytes:
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def add(descriptor: object) -> None:
        if descriptor.name in files:  # type: ignore[attr-defined]
            return
        for dependency in descriptor.dependencies:  # type: ignore[attr-defined]
            add(dependency)
        proto = descriptor_pb2.FileDescriptorProto()
        descriptor.CopyToProto(proto)  # type: ignore[attr-defined]
        files[proto.name] = proto

    for root in roots:
        add(root)
    return descriptor_pb2.FileDescriptorSet(file=files.values()).SerializeToString()


def rewrite(text: str) -> str:
    """Our generated modules live under gpulease.pb; everything else keeps its top-level name."""
    for package in OURS:
        text = re.sub(rf"^from {package}(\.| import)", rf"from gpulease.pb.{package}\1", text, flags=re.M)
        text = re.sub(rf"^import {package}\.", rf"import gpulease.pb.{package}.", text, flags=re.M)
        text = re.sub(rf"(?<![\w.]){package}\.(?=[a-z0-9_.]+_pb2\b)", rf"gpulease.pb.{package}.", text)
    return re.sub(r"gpulease\.pb\.gpulease\.pb\.", "gpulease.pb.", text)


def main() -> int:
    sources = sorted(str(p.relative_to(ROOT / "proto")) for p in (ROOT / "proto").rglob("*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        known = Path(scratch) / "cosmos.bin"
        known.write_bytes(descriptor_set([coin_pb2.DESCRIPTOR, pagination_pb2.DESCRIPTOR]))
        out = Path(scratch) / "out"
        out.mkdir()
        include = Path(grpc_tools.__file__).parent / "_proto"
        code = protoc.main(
            [
                "protoc",
                f"-I{ROOT / 'proto'}",
                f"-I{include}",
                f"--descriptor_set_in={known}",
                f"--python_out={out}",
                f"--pyi_out={out}",
                f"--grpc_python_out={out}",
                *sources,
            ]
        )
        if code:
            return int(code)
        for package in OURS:
            shutil.rmtree(OUT / package, ignore_errors=True)
        count = 0
        for path in sorted(out.rglob("*.py*")):
            relative = path.relative_to(out)
            # A directory named k8s.io cannot be imported; protoc writes k8s/io.
            target = OUT / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_text()
            if path.name.endswith("_pb2_grpc.py") and "class " not in text:
                continue
            target.write_text(rewrite(text))
            count += 1
        for package in OURS:
            for folder in [OUT / package, *(OUT / package).rglob("*")]:
                if folder.is_dir():
                    (folder / "__init__.py").touch()
    print(f"{len(sources)} proto files, {count} modules")
    return 0


if __name__ == "__main__":
    sys.exit(main())
