"""Settings of the processes, from environment variables ``GPULEASE_*``; every number carries its unit.

What belongs to one provider or lease is in its custom resource; what belongs to a process is here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class OperatorSettings(BaseSettings):
    """The operator's own settings. ``roles`` may be ``provider``, ``tenant`` or both."""

    model_config = SettingsConfigDict(env_prefix="GPULEASE_", extra="ignore", frozen=True)

    namespace: str = Field(default="gpulease-system", max_length=63)
    roles: Annotated[tuple[str, ...], NoDecode] = ("provider", "tenant")
    state_dir: Path = Path("/var/lib/gpulease")
    metrics_listen: str = "127.0.0.1:9411"
    """HOST:PORT of metrics and probes; empty for none."""
    log_level: str = "info"
    log_format: str = "json"
    standalone: bool = True
    """False: stand for election on a coordination Lease before acting."""
    workers: int = Field(default=8, ge=1, le=64)
    resync_interval_s: float = Field(default=60.0, gt=0)
    agent_endpoints: dict[str, str] = Field(default_factory=dict)
    """Node name to agent URL; nodes not named here are found by the agent's pod label."""
    agent_token_file: Path | None = None
    agent_poll_interval_s: float = Field(default=5.0, gt=0)
    tx_lifetime_s: float = Field(default=60.0, gt=0, le=600)
    """How long a transaction may stay unincluded before it is provably dead (chain limit: 10 minutes)."""
    fee_budget_uakt_per_day: int = Field(default=50_000_000, ge=0)
    lease_bindings: dict[str, str] = Field(default_factory=dict, max_length=8)
    """ClusterRole name to service account of ``namespace``: bound in each lease's namespace when that is made."""
    closed_lease_retention_s: float = Field(default=3600.0, ge=0)
    """How long the HostedLease of a closed lease stays readable in the cluster."""

    @field_validator("roles", mode="before")
    @classmethod
    def _split_roles(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("roles")
    @classmethod
    def _known_roles(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = set(value) - {"provider", "tenant"}
        if unknown or not value:
            raise ValueError("GPULEASE_ROLES must name provider, tenant or both, separated by a comma")
        return value
