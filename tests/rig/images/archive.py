"""Images from one static binary each, as archives that `ctr images import` takes. No builder, no base image."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path


def write_image(target: Path, *, names: Sequence[str], binary: Path, path: str, user: str) -> None:
    """One layer with ``binary`` at ``path``, run as ``user``. Equal input gives an equal archive."""
    layer = _tar({path.lstrip("/"): (binary.read_bytes(), 0o755), "etc/passwd": (_PASSWD, 0o644)})
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": [path], "User": user, "Env": ["PATH=/bin"], "StopSignal": "SIGTERM"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
            "history": [{"created_by": "gpulease rig"}],
        },
        sort_keys=True,
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": list(names), "Layers": ["layer.tar"]}]).encode()
    target.write_bytes(
        _tar({"manifest.json": (manifest, 0o644), config_name: (config, 0o644), "layer.tar": (layer, 0o644)})
    )


_PASSWD = b"root:x:0:0::/:/\ndemo:x:1000:1000::/:/\n"


def _tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in sorted({parent for path in files for parent in _parents(path)}):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
        for path, (content, mode) in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
