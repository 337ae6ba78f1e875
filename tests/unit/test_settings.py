"""Settings as a Deployment's environment gives them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gpulease.settings import OperatorSettings

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "roles"),
    [("provider,tenant", ("provider", "tenant")), ("tenant", ("tenant",)), (" provider , ", ("provider",))],
)
def test_roles_are_words_with_commas(monkeypatch: pytest.MonkeyPatch, text: str, roles: tuple[str, ...]) -> None:
    monkeypatch.setenv("GPULEASE_ROLES", text)
    assert OperatorSettings().roles == roles


@pytest.mark.parametrize("text", ["", "seller"])
def test_other_roles_are_refused_with_what_to_write(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("GPULEASE_ROLES", text)
    with pytest.raises(ValidationError, match="must name provider, tenant or both"):
        OperatorSettings()
