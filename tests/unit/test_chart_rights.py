"""Rights in a lease's namespace: given once, waited for, and given again where they are missing."""

from __future__ import annotations

from typing import Any

import pytest

from gpulease.errors import KubeError
from gpulease.runtime.rights import LeaseRights

pytestmark = pytest.mark.unit
BINDINGS = {"gpulease-operator-in-lease": "gpulease-operator", "gpulease-gateway-in-lease": "gpulease-gateway"}


class Recorder:
    """A cluster that keeps what is applied to it."""

    def __init__(self) -> None:
        self.applied: list[dict[str, Any]] = []

    async def apply(self, body: dict[str, Any]) -> dict[str, Any]:
        self.applied.append(body)
        return body


class Clock:
    def __init__(self) -> None:
        self.slept_s: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)


def forbidden() -> KubeError:
    return KubeError(403, "Forbidden", "not allowed")


def make(bindings: dict[str, str]) -> tuple[LeaseRights, Recorder, Clock]:
    cluster, clock = Recorder(), Clock()
    rights = LeaseRights(cluster, clock, namespace="system", bindings=bindings)  # type: ignore[arg-type]
    return rights, cluster, clock


class Forbidden:
    """Refuses the first ``times`` calls."""

    def __init__(self, times: int, error: KubeError | None = None) -> None:
        self.left, self.error = times, error or forbidden()

    async def __call__(self) -> str:
        if self.left:
            self.left -= 1
            raise self.error
        return "done"


async def test_each_role_is_bound_to_its_account_in_the_leases_namespace() -> None:
    rights, cluster, _ = make(BINDINGS)
    await rights.grant("lease")
    assert [
        (
            body["kind"],
            body["metadata"]["namespace"],
            body["roleRef"]["kind"],
            body["roleRef"]["name"],
            [(s["kind"], s["namespace"], s["name"]) for s in body["subjects"]],
        )
        for body in cluster.applied
    ] == [
        ("RoleBinding", "lease", "ClusterRole", role, [("ServiceAccount", "system", account)])
        for role, account in BINDINGS.items()
    ]


async def test_a_binding_that_is_not_known_yet_is_waited_for() -> None:
    rights, _, clock = make(BINDINGS)
    assert await rights.patiently(Forbidden(3)) == "done"
    assert len(clock.slept_s) == 3
    assert clock.slept_s == sorted(clock.slept_s)


async def test_patience_ends() -> None:
    rights, _, clock = make(BINDINGS)
    with pytest.raises(KubeError):
        await rights.patiently(Forbidden(100))
    assert sum(clock.slept_s) < 2


async def test_what_is_not_about_rights_is_not_repeated() -> None:
    rights, cluster, clock = make(BINDINGS)
    error = KubeError(422, "Invalid", "no")
    with pytest.raises(KubeError, match="no"):
        await rights.patiently(Forbidden(1, error))
    await rights.grant_after(error, "lease")
    assert (clock.slept_s, cluster.applied) == ([], [])


async def test_without_bindings_nothing_is_written_or_repeated() -> None:
    rights, cluster, clock = make({})
    with pytest.raises(KubeError):
        await rights.patiently(Forbidden(1))
    await rights.grant("lease")
    await rights.grant_after(forbidden(), "lease")
    assert (clock.slept_s, cluster.applied) == ([], [])


async def test_missing_rights_are_given_again() -> None:
    rights, cluster, _ = make(BINDINGS)
    await rights.grant_after(forbidden(), "lease")
    assert len(cluster.applied) == len(BINDINGS)
