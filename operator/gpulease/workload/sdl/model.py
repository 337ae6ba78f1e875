"""An SDL as values: what was written, with the lines where it stands, before references are followed.

None and ``()`` differ where the manifest's ``null`` and ``[]`` do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpulease.market.model import Attribute
from gpulease.units import Dec
from gpulease.workload.model import Credentials, HttpOptions


@dataclass(frozen=True, slots=True)
class To:
    """Who may reach an exposed port: another service, everybody, everybody at an address of its own."""

    line: int
    service: str = ""
    is_global: bool = False
    ip: str = ""


@dataclass(frozen=True, slots=True)
class ExposeRule:
    """``external_port`` 0 means ``port``; ``protocol`` as written, in any case, empty for TCP."""

    line: int
    port: int
    external_port: int
    protocol: str
    accept: tuple[str, ...] | None
    to: tuple[To, ...]
    http: HttpOptions


@dataclass(frozen=True, slots=True)
class VolumeMount:
    line: int
    name: str
    path: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class ServiceParams:
    mounts: tuple[VolumeMount, ...]
    permissions_read: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class ServiceRule:
    """``env_lines`` is where each entry of ``env`` stands."""

    line: int
    name: str
    image: str
    command: tuple[str, ...] | None
    args: tuple[str, ...] | None
    env: tuple[str, ...] | None
    env_lines: tuple[int, ...]
    expose: tuple[ExposeRule, ...]
    params: ServiceParams | None
    credentials: Credentials | None
    credentials_line: int


@dataclass(frozen=True, slots=True)
class Volume:
    line: int
    name: str
    size_bytes: int
    attributes: tuple[Attribute, ...]

    def attribute(self, key: str) -> str:
        return next((a.value for a in self.attributes if a.key == key), "")


@dataclass(frozen=True, slots=True)
class Compute:
    """One replica's resources; ``lines`` maps cpu, memory, storage and gpu to where they stand."""

    lines: Mapping[str, int]
    cpu_milli: int
    cpu_attributes: tuple[Attribute, ...]
    memory_bytes: int
    volumes: tuple[Volume, ...]
    gpu_units: int
    gpu_attributes: tuple[Attribute, ...]


@dataclass(frozen=True, slots=True)
class Price:
    """The most to be paid per block for one replica."""

    line: int
    denom: str
    amount: Dec


@dataclass(frozen=True, slots=True)
class Placement:
    pricing_line: int
    attributes: tuple[Attribute, ...]
    all_of: tuple[str, ...] | None
    any_of: tuple[str, ...] | None
    pricing: Mapping[str, Price]


@dataclass(frozen=True, slots=True)
class Use:
    """That a service runs at a placement."""

    line: int
    profile: str
    count: int


@dataclass(frozen=True, slots=True)
class EndpointRule:
    line: int
    kind: str


@dataclass(frozen=True, slots=True)
class Document:
    """``shares_units`` is how 2.1 differs from 2.0: services of one profile share a resource unit."""

    shares_units: bool
    services: Mapping[str, ServiceRule]
    compute: Mapping[str, Compute]
    placements: Mapping[str, Placement]
    deployment: Mapping[str, Mapping[str, Use]]
    deployment_line: int
    endpoints: Mapping[str, EndpointRule]
    reclamation_min_window_ns: int | None
