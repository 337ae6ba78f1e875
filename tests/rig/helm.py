"""helm as tests use it: the real program, built into the rig's cache, with a home of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.rig.build import build_helm
from tests.rig.errors import RigError

CHART = Path(__file__).resolve().parents[2] / "charts" / "gpulease"


class Helm:
    """``kubeconfig`` None: rendering only. ``home`` takes helm's caches, so that no user's own are touched."""

    def __init__(self, home: Path, kubeconfig: Path | None = None, *, namespace: str = "gpulease-system") -> None:
        self._program = build_helm()
        self._home, self._kubeconfig, self._namespace = home, kubeconfig, namespace

    def __call__(self, *args: str, values: Mapping[str, Any] | None = None, timeout_s: float = 30.0) -> str:
        """Standard output; a RigError with what helm says when it refuses."""
        argv = [str(self._program), *args, "--namespace", self._namespace]
        argv += ["--kubeconfig", str(self._kubeconfig)] if self._kubeconfig else []
        argv += ["--values", "-"] if values is not None else []
        homes = {f"HELM_{name}_HOME": str(self._home / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        try:
            done = subprocess.run(
                argv,
                input=json.dumps(values) if values is not None else None,
                env={**os.environ, **homes},
                capture_output=True,
                text=True,
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired:
            raise RigError(f"helm {args[0]} took longer than {timeout_s:.0f} s") from None
        if done.returncode:
            raise RigError(f"helm {' '.join(args[:3])} ended with {done.returncode}: {done.stderr[-3000:]}")
        return done.stdout

    def render(self, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The chart's objects with ``values``, CRDs left out."""
        text = self("template", "gpulease", str(CHART), values=values)
        return [body for body in yaml.safe_load_all(text) if body]
