"""The image's contents, the same for operator/Dockerfile and for the archive that needs no registry.

``stage DIR`` writes what lies on a base at /opt/gpulease: the wheel and the locked packages that it needs at run time
(those of this interpreter's environment; test and build tools stay out), with an SBOM. ``archive FILE`` adds a layer
below it: a minimal root of this machine's Python and the shared libraries that it and the packages ask for. Neither has
a compiler, a shell or a package manager.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata as metadata
import io
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HOME = PurePosixPath("/opt/gpulease")
USER = 65532
LIMIT_MB = 250
"""Of what lies on a base, unpacked."""
_PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
_SITE = PurePosixPath("lib") / _PYTHON / "site-packages"
_NOT_OF_STDLIB = ("test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages", "dist-packages")
_DECLARED_ONLY = frozenset({"virtualenv"})
"""Required by a package's metadata (cosmpy's), imported by none of its modules."""
_NOT_INSTALLED = frozenset({"tests", "SelfTest", "__pycache__", ".."})
"""Folders of packages without use at run time; what lies outside of site-packages is programs and headers."""
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_LOADER = "ld-linux-x86-64.so.2"
_ACCOUNTS = f"root:x:0:0::/:/none\ngpulease:x:{USER}:{USER}::/:/none\n"


def closure(name: str = "gpulease") -> list[metadata.Distribution]:
    """Installed distributions that ``name`` needs at run time, itself left out, by name."""
    from packaging.requirements import Requirement

    found: dict[str, metadata.Distribution] = {}
    waiting: list[tuple[str, frozenset[str]]] = [(name, frozenset())]
    done: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        entry = waiting.pop()
        if entry in done:
            continue
        done.add(entry)
        dist = metadata.distribution(entry[0])
        found[_plain(entry[0])] = dist
        for text in dist.requires or ():
            need = Requirement(text)
            if _plain(need.name) in _DECLARED_ONLY:
                continue
            extras = entry[1] or frozenset({""})
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append((_plain(need.name), frozenset(need.extras)))
    del found[_plain(name)]
    return [found[key] for key in sorted(found)]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def sbom(parts: Sequence[metadata.Distribution]) -> dict[str, Any]:
    """CycloneDX 1.5."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "gpulease", "version": metadata.version("gpulease")}},
        "components": [
            {
                "type": "library",
                "name": dist.metadata["Name"],
                "version": dist.version,
                "purl": f"pkg:pypi/{_plain(dist.metadata['Name'])}@{dist.version}",
            }
            for dist in parts
        ],
    }


def stage(target: Path, *, python: str) -> None:
    """Everything of ``/opt/gpulease``, for an interpreter at ``python``."""
    site = target / _SITE
    site.mkdir(parents=True)
    parts = closure()
    for dist in parts:
        for file in dist.files or ():
            if not _NOT_INSTALLED & set(file.parts):
                _copy(Path(str(dist.locate_file(file))), site / file)
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(_wheel(Path(folder))) as wheel:
        wheel.extractall(site)
    argv = [sys.executable, "-m", "compileall", "-q", "-j", "2", "--invalidation-mode", "unchecked-hash"]
    # Source that is for another Python stays uncompiled; the root is read-only, so nothing is compiled later.
    subprocess.run([*argv, "-s", str(target), "-p", str(HOME), str(site)], check=False, timeout=300)
    (target / "sbom.cdx.json").write_text(json.dumps(sbom(parts), indent=1) + "\n")
    (target / "pyvenv.cfg").write_text(f"home = {PurePosixPath(python).parent}\ninclude-system-site-packages = false\n")
    (target / "bin").mkdir()
    (target / "bin" / "python").symlink_to(python)
    script = target / "bin" / "gpulease"
    script.write_text(f"#!{HOME}/bin/python\nfrom gpulease.__main__ import main\n\nmain()\n")
    script.chmod(0o755)


def _wheel(folder: Path) -> Path:
    """Built from a copy: setuptools leaves things beside what it builds."""
    tree = folder / "tree"
    (tree / "operator").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    shutil.copytree(
        ROOT / "operator" / "gpulease", tree / "operator" / "gpulease", ignore=shutil.ignore_patterns("__pycache__")
    )
    code = f"from setuptools.build_meta import build_wheel; build_wheel({str(folder)!r})"
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([sys.executable, "-c", code], cwd=tree, check=True, timeout=300, **quiet)
    return next(folder.glob("*.whl"))


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


# --- a root without a base -------------------------------------------------------------------------------------------


def minimal_root(target: Path, *, packages: Path) -> str:
    """Python, its libraries and those of ``packages``; returns where the interpreter is."""
    program = Path(sys.executable).resolve()
    prefix = Path(sys.base_prefix)
    stdlib = Path(sysconfig.get_path("stdlib"))
    lib = target / "usr" / stdlib.relative_to(prefix)
    shutil.copytree(stdlib, lib, ignore=lambda folder, names: _left_out(Path(folder) == stdlib, names))
    interpreter = target / "usr" / "bin" / _PYTHON
    interpreter.parent.mkdir(parents=True)
    shutil.copy2(program, interpreter)
    objects = [program, *stdlib.glob("lib-dynload/*.so"), *packages.rglob("*.so"), *packages.rglob("*.so.*")]
    for library in sorted(_asked_for(objects)):
        if not library.is_relative_to(packages):
            _copy(library.resolve(), target / _LIBRARIES / library.name)
    (target / "usr/lib64").mkdir()
    shutil.move(target / _LIBRARIES / _LOADER, target / "usr/lib64" / _LOADER)
    for name in ("lib", "lib64", "bin"):
        (target / name).symlink_to(f"usr/{name}")
    for name in ("etc/ssl/certs", "tmp", "proc", "var/lib/gpulease"):
        (target / name).mkdir(parents=True)
    (target / "etc/passwd").write_text(_ACCOUNTS)
    _copy(Path("/etc/ssl/certs/ca-certificates.crt"), target / "etc/ssl/certs/ca-certificates.crt")
    return f"/usr/bin/{_PYTHON}"


def _left_out(top: bool, names: Iterable[str]) -> set[str]:
    return {name for name in names if name.endswith(".a") or name == "test" or (top and name in _NOT_OF_STDLIB)}


def _asked_for(objects: Iterable[Path]) -> set[Path]:
    """Shared libraries that the loader finds for ``objects``."""
    argv = ["ldd", *map(str, objects)]
    told = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=120).stdout
    return {Path(found) for found in re.findall(r"(?:=>\s+|^\s+)(/\S+) \(0x", told, re.MULTILINE)}


# --- archives --------------------------------------------------------------------------------------------------------


def archive(target: Path, *, names: Sequence[str]) -> float:
    """A docker archive with two layers; returns the MB of the upper one, which is what a base would be given."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        staged = folder / "app"
        stage(staged, python=f"/usr/bin/{_PYTHON}")
        below = folder / "root"
        minimal_root(below, packages=staged)
        size_mb = sum(p.lstat().st_size for p in staged.rglob("*") if not p.is_dir()) / 1e6
        layers = []
        for tree, at in ((below, ""), (staged, str(HOME).lstrip("/"))):
            path = folder / f"{tree.name}.tar"
            _tar(path, tree, at)
            layers.append(path)
        _write(target, names, layers)
    return size_mb


def _tar(target: Path, tree: Path, at: str) -> None:
    def entry(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = USER if info.name == "var/lib/gpulease" else 0
        info.uname = info.gname = ""
        info.mtime = 0
        if info.name == "tmp":
            info.mode = 0o1777
        return info

    with tarfile.open(target, "w") as out:
        for path in _walk(tree):
            name = str(PurePosixPath(at) / path.relative_to(tree).as_posix())
            out.add(path, arcname=name, recursive=False, filter=entry)


def _walk(tree: Path) -> Iterator[Path]:
    yield from sorted(tree.rglob("*"))


def _write(target: Path, names: Sequence[str], layers: Sequence[Path]) -> None:
    digests = []
    for path in layers:
        with path.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Entrypoint": [f"{HOME}/bin/gpulease"],
            "User": f"{USER}:{USER}",
            "Env": [f"PATH={HOME}/bin:/usr/bin", "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1"],
            "StopSignal": "SIGTERM",
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
        "history": [{"created_by": "tools/image.py"} for _ in layers],
    }
    text = json.dumps(config, sort_keys=True).encode()
    config_name = f"{hashlib.sha256(text).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": list(names), "Layers": [path.name for path in layers]}]
    with tarfile.open(target, "w") as out:
        for name, content in ((config_name, text), ("manifest.json", json.dumps(manifest).encode())):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
        for path in layers:
            out.add(path, arcname=path.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    staging = verbs.add_parser("stage")
    staging.add_argument("target", type=Path)
    staging.add_argument("--python", default="/usr/local/bin/python3", help="The base's interpreter.")
    whole = verbs.add_parser("archive")
    whole.add_argument("target", type=Path)
    whole.add_argument("--name", action="append", default=[], help="Image name with tag; repeatable.")
    given = parser.parse_args()
    if given.verb == "stage":
        stage(given.target, python=given.python)
        return
    names = given.name or [f"localhost/gpulease:{metadata.version('gpulease')}"]
    size_mb = archive(given.target, names=names)
    print(f"{given.target}: {', '.join(names)}, {size_mb:.0f} MB on its base")
    if size_mb > LIMIT_MB:
        sys.exit(f"that is more than {LIMIT_MB} MB: a package has come in that does not belong there")


if __name__ == "__main__":
    main()
