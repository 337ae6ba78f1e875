"""Session fixtures over the rig. ``RIG=none`` deselects what needs root, and pytest says how many it deselected."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pytest

from tests.rig.cluster import Rig
from tests.rig.envtest import EnvTest
from tests.rig.errors import RigError


@pytest.fixture(scope="session")
def envtest() -> Iterator[EnvTest]:
    """A real API server, without a node."""
    with EnvTest() as environment:
        yield environment


@pytest.fixture(scope="session")
def rig() -> Iterator[Rig]:
    """A whole cluster with two A100. Shared by the session's tests: each cleans up its own objects."""
    if os.geteuid() != 0:
        pytest.fail(
            "the rig needs root: run as root, or set RIG=none to leave out the tests that need it", pytrace=False
        )
    made = Rig()
    try:
        made.up()
    except RigError as error:
        pytest.fail(f"the rig did not come up: {error}", pytrace=False)
    yield made
    made.down()


def deselect_without_rig(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With RIG=none, tests marked e2e or taking the ``rig`` fixture are deselected: counted in pytest's last line."""
    if os.environ.get("RIG", "") != "none":
        return
    needs = [item for item in items if item.get_closest_marker("e2e") or "rig" in _fixtures(item)]
    if needs:
        config.hook.pytest_deselected(items=needs)
        items[:] = [item for item in items if item not in needs]
        print(f"RIG=none: {len(needs)} tests that need root and a node are left out")


def _fixtures(item: pytest.Item) -> Sequence[str]:
    return item.fixturenames if isinstance(item, pytest.Function) else ()
