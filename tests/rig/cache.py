"""Where built tools live, between runs and outside the tree: binaries, one stamp per tool, a lock for builders."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.rig.errors import RigError
from tests.rig.process import tail


def cache_dir() -> Path:
    return Path(os.environ.get("GPULEASE_RIG_CACHE") or Path.home() / ".cache" / "gpulease-rig")


def bin_dir() -> Path:
    return cache_dir() / "bin"


def tool(name: str) -> str:
    path = bin_dir() / name
    if not path.exists():
        raise RigError(f"{path} is not built yet; run make rig-build")
    return str(path)


@contextmanager
def build_lock() -> Iterator[None]:
    """Two builders at once would write the same files: the second waits."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    with (cache_dir() / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _stamp(name: str) -> Path:
    return cache_dir() / "stamps" / name


def fresh(name: str, version: str, outputs: Sequence[Path]) -> bool:
    try:
        return _stamp(name).read_text().strip() == version and all(path.exists() for path in outputs)
    except OSError:
        return False


def stamp(name: str, version: str) -> None:
    _stamp(name).parent.mkdir(parents=True, exist_ok=True)
    _stamp(name).write_text(version + "\n")


def digest(*files: Path) -> str:
    """A version for what is built from sources in the tree."""
    found = hashlib.sha256()
    for path in files:
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


@contextmanager
def step(words: str) -> Iterator[None]:
    """Says what takes long, and how long it took."""
    began = time.monotonic()
    print(f"rig: {words} …", flush=True)
    yield
    print(f"rig: {words}: {time.monotonic() - began:.1f} s", flush=True)


def call(
    argv: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout_s: float
) -> str:
    """Run a build command; its standard output, or a RigError with the end of what it said."""
    log = cache_dir() / "build.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("w") as out:
            done = subprocess.run(
                argv,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                stdout=subprocess.PIPE,
                stderr=out,
                stdin=subprocess.DEVNULL,
                timeout=timeout_s,
                text=True,
            )
    except subprocess.TimeoutExpired:
        raise RigError(f"{' '.join(argv[:4])} … took longer than {timeout_s:.0f} s") from None
    except OSError as error:
        raise RigError(f"{argv[0]} could not be run: {error}") from error
    if done.returncode:
        raise RigError(f"{' '.join(argv[:6])} … ended with {done.returncode}:\n{done.stdout[-2000:]}{tail(log)}")
    return done.stdout
