"""Which deployment an object stands for, whatever somebody does to its annotations."""

from __future__ import annotations

from typing import Any

import pytest

from gpulease.runtime.tenant_gather import dseq_of
from gpulease.runtime.tenant_spec import dseq_of as from_uid
from gpulease.tenancy.states import DSEQ_ANNOTATION, FINALIZER

pytestmark = pytest.mark.unit
UID = "0f6f5a8e-4f7c-4d2b-9f50-0c9d3b0f3a11"


@pytest.mark.parametrize(
    ("annotation", "finalizers", "expected"),
    [
        (None, [], None),
        ("17", [], 17),
        ("17", [FINALIZER], 17),
        (None, [FINALIZER], from_uid(UID)),
        ("not a number", [FINALIZER], from_uid(UID)),
        ("-1", [FINALIZER], from_uid(UID)),
        ("9" * 20, [FINALIZER], from_uid(UID)),
        ("٣", [FINALIZER], from_uid(UID)),
        ("not a number", ["somebody.else/finalizer"], None),
    ],
)
def test_a_claimed_object_keeps_its_deployment(
    annotation: str | None, finalizers: list[str], expected: int | None
) -> None:
    meta: dict[str, Any] = {"uid": UID, "finalizers": finalizers}
    if annotation is not None:
        meta["annotations"] = {DSEQ_ANNOTATION: annotation}
    assert dseq_of({"metadata": meta}) == expected


def test_numbers_have_one_length_and_follow_from_the_uid_alone() -> None:
    numbers = [from_uid(f"uid-{n}") for n in range(1000)]
    assert {len(str(number)) for number in numbers} == {13}
    assert len(set(numbers)) == 1000
    assert from_uid(UID) == from_uid(UID)
