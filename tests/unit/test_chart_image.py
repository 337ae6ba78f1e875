"""What is in the image, and what is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools import image

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[2]


def test_the_image_has_what_runs_and_no_tools() -> None:
    names = {dist.metadata["Name"].lower() for dist in image.closure()}
    assert {"kopf", "kubernetes", "cosmpy", "coincurve", "grpcio", "nvidia-ml-py", "aiohttp"} <= names
    assert not names & {"pytest", "hypothesis", "mypy", "ruff", "setuptools", "grpcio-tools", "virtualenv", "gpulease"}


def test_the_bill_of_materials_names_the_locked_versions() -> None:
    locked = dict(re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    parts = image.sbom(image.closure())["components"]
    assert len(parts) > 30
    for part in parts:
        name = part["purl"].removeprefix("pkg:pypi/").split("@")[0]
        assert locked[name] == part["version"], name


def test_the_dockerfile_ends_on_the_base_as_nobody_in_particular() -> None:
    lines = (ROOT / "operator" / "Dockerfile").read_text().splitlines()
    last = lines[max(n for n, line in enumerate(lines) if line.startswith("FROM")) :]
    assert last[0] == "FROM ${BASE}"
    assert f"USER {image.USER}:{image.USER}" in last
    assert f"COPY --from=build {image.HOME} {image.HOME}" in last
    assert not any(line.startswith("RUN") for line in last)
