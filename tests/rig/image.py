"""The product's image for the rig: an archive from tools/image.py, made anew when what goes into it has changed."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.rig.cache import build_lock, cache_dir, call, digest, fresh, stamp, step

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "localhost/gpulease"
TAG = "rig"


def product_image() -> Path:
    """The archive of ``IMAGE:TAG``."""
    target = cache_dir() / "gpulease-image.tar"
    package = ROOT / "operator" / "gpulease"
    sources = sorted(p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    version = digest(ROOT / "requirements.lock", ROOT / "pyproject.toml", ROOT / "tools" / "image.py", *sources)
    with build_lock():
        if not fresh("gpulease-image", version, [target]):
            with step("make the image of gpulease"):
                tool = ROOT / "tools" / "image.py"
                argv = [sys.executable, str(tool), "archive", str(target), "--name", f"{IMAGE}:{TAG}"]
                call(argv, timeout_s=600)
            stamp("gpulease-image", version)
    return target
