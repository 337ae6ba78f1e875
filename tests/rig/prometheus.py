"""Debian's Prometheus over a list of targets: its settings, and a way to ask it."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.rig.errors import RigError
from tests.rig.node import which


def _job(name: str, target: str, interval_s: int) -> dict[str, object]:
    scheme, _, rest = target.rpartition("://")
    host, slash, path = rest.partition("/")
    return {
        "job_name": name,
        "scheme": scheme or "http",
        "metrics_path": f"/{path}" if slash else "/metrics",
        "scrape_interval": f"{interval_s}s",
        "scrape_timeout": f"{interval_s}s",
        "static_configs": [{"targets": [host]}],
        # As a ServiceMonitor with honorLabels would: container, namespace and pod are the exporter's, not renamed.
        "honor_labels": True,
    }


def write_settings(folder: Path, targets: Mapping[str, str], *, interval_s: int) -> list[str]:
    """Write settings for ``job name -> host:port[/path]``; gives the command line without its listen address."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "prometheus.yml"
    content = {
        "global": {"scrape_interval": f"{interval_s}s", "evaluation_interval": f"{interval_s}s"},
        "scrape_configs": [_job(name, target, interval_s) for name, target in sorted(targets.items())],
    }
    settings.write_text(yaml.safe_dump(content))
    argv = [which("prometheus"), f"--config.file={settings}", f"--storage.tsdb.path={folder / 'data'}"]
    return [*argv, "--log.level=warn"]


def _get(url: str, timeout_s: float) -> bytes:
    with urllib.request.urlopen(url, timeout=timeout_s) as answer:
        return bytes(answer.read())


def ready(base_url: str) -> bool:
    try:
        _get(f"{base_url}/-/ready", 2)
    except (urllib.error.URLError, OSError):
        return False
    return True


def query(base_url: str, expression: str) -> list[dict[str, Any]]:
    """The series an instant query answers with: ``{"metric": {...}, "value": [time, text]}`` each."""
    url = f"{base_url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    try:
        answer = json.loads(_get(url, 10))
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise RigError(f"Prometheus did not answer {expression!r}: {error}") from error
    series: list[dict[str, Any]] = answer["data"]["result"]
    return series
