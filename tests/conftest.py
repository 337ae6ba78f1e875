"""Fixtures for every tier."""

from __future__ import annotations

import pytest

from tests.rig.fixtures import deselect_without_rig, envtest, rig

__all__ = ["envtest", "rig"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    deselect_without_rig(config, items)
