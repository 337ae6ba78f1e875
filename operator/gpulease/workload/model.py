"""The manifest as values: what a tenant wants to run, as ``akash.manifest.v2beta3`` says it (gateway reference §5.1).

``None`` and ``()`` differ where the wire's ``null`` and ``[]`` do: the manifest's hash is taken over its JSON.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gpulease.market.model import Resources

HTTP_PORT = 80


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """Times in milliseconds, sizes in bytes; the peer's defaults."""

    max_body_size_bytes: int = 1_048_576
    read_timeout_ms: int = 60_000
    send_timeout_ms: int = 60_000
    next_tries: int = 3
    next_timeout_ms: int = 0
    next_cases: tuple[str, ...] = ("error", "timeout")


@dataclass(frozen=True, slots=True)
class Expose:
    """``external_port`` 0 means ``port``; ``protocol`` is ``TCP`` or ``UDP``."""

    port: int
    external_port: int = 0
    protocol: str = "TCP"
    service: str = ""
    is_global: bool = False
    hosts: tuple[str, ...] | None = None
    http: HttpOptions = field(default_factory=HttpOptions)
    ip: str = ""
    endpoint_sequence_number: int = 0

    @property
    def outside_port(self) -> int:
        return self.external_port or self.port

    @property
    def is_ingress(self) -> bool:
        """Reached by host name through the provider's HTTP ingress."""
        return self.is_global and self.protocol == "TCP" and self.outside_port == HTTP_PORT and not self.ip


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume of the service's resources at an absolute path."""

    name: str
    path: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Params:
    """``mounts`` None is the wire's ``null``."""

    mounts: tuple[Mount, ...] | None = None
    permissions_read: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Credentials:
    """For pulling the image from a private registry."""

    host: str
    username: str
    password: str = field(repr=False)
    email: str = ""


@dataclass(frozen=True, slots=True)
class Service:
    name: str
    image: str
    resources: Resources
    count: int
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    env: tuple[str, ...] | None = None
    expose: tuple[Expose, ...] = ()
    params: Params | None = None
    credentials: Credentials | None = None


@dataclass(frozen=True, slots=True)
class ManifestGroup:
    """The services of one deployment group, by name."""

    name: str
    services: tuple[Service, ...]


Manifest = tuple[ManifestGroup, ...]
