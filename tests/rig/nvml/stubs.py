"""Compiles the double: double.c by hand, and one NOT_SUPPORTED stub for each other function nvml.h declares."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from tests.rig.cache import cache_dir, call, digest, fresh, stamp, step
from tests.rig.errors import RigError

_DECLARED = re.compile(r"nvmlReturn_t\s+DECLDIR\s+(nvml\w+)\s*\((.*?)\)\s*;", re.S)
_DEFINED = re.compile(r"^nvmlReturn_t\s+(nvml\w+)\s*\(", re.M)


def library_dir() -> Path:
    """What LD_LIBRARY_PATH has to name."""
    return cache_dir() / "nvml"


def header() -> Path:
    try:
        files = distribution("nvidia-nvml-dev").files or []
    except PackageNotFoundError:
        raise RigError("nvidia-nvml-dev (which has nvml.h) is not installed; run make setup") from None
    for name in files:
        if name.name == "nvml.h":
            return Path(str(name.locate()))
    raise RigError("nvidia-nvml-dev is installed but has no nvml.h; run make setup")


def stub_source(header_text: str, own_text: str) -> str:
    plain = re.sub(r"/\*.*?\*/", "", header_text, flags=re.S)
    plain = re.sub(r"//[^\n]*", "", plain)
    seen = set(_DEFINED.findall(own_text))
    lines = ["#define NVML_NO_UNVERSIONED_FUNC_DEFS", '#include "nvml.h"']
    for name, arguments in _DECLARED.findall(plain):
        if name not in seen:
            seen.add(name)
            lines.append(f"nvmlReturn_t {name}({' '.join(arguments.split())}) {{ return NVML_ERROR_NOT_SUPPORTED; }}")
    return "\n".join(lines) + "\n"


def build_double(source: Path) -> None:
    folder = library_dir()
    target = folder / "libnvidia-ml.so.1"
    include = header()
    version = digest(source, include, Path(__file__))
    if fresh("nvml", version, [target]):
        return
    with step("build the NVML double"):
        folder.mkdir(parents=True, exist_ok=True)
        stubs = folder / "stubs.c"
        stubs.write_text(stub_source(include.read_text(), source.read_text()))
        fresh_target = folder / "libnvidia-ml.so.new"
        argv = ["gcc", "-w", "-O1", "-shared", "-fPIC", "-D_GNU_SOURCE", "-I", str(include.parent)]
        argv += ["-o", str(fresh_target), str(source), str(stubs), "-Wl,-soname,libnvidia-ml.so.1"]
        call(argv, timeout_s=120)
        fresh_target.replace(target)
    stamp("nvml", version)
