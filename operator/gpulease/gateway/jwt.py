"""Tokens of the market's gateways: ES256K and ES256KADR36, with the claims and scopes of gateway reference §4.

Two kinds of refusal, because clients tell them apart: :class:`TokenInvalid` (form, algorithm, issuer, signature) and
:class:`ClaimsInvalid` (anything in the claims, lifetime included).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gpulease.chain import keys
from gpulease.errors import AuthError

ALGORITHMS = ("ES256K", "ES256KADR36")
SCOPES = frozenset(
    {
        "send-manifest",
        "get-manifest",
        "logs",
        "shell",
        "events",
        "status",
        "restart",
        "hostname-migrate",
        "ip-migrate",
        "attestation",
    }
)
_MOST_BYTES = 64 * 1024
_MOST_U64 = 2**64 - 1
_MOST_U32 = 2**32 - 1


class TokenInvalid(AuthError):
    """The token cannot be read, or its signature is not its issuer's."""


class ClaimsInvalid(AuthError):
    """The token is its issuer's, and its claims break a rule or are out of their time."""


@dataclass(frozen=True, slots=True)
class DeploymentGrant:
    """``gseq`` and ``oseq`` 0 mean any."""

    dseq: int
    gseq: int
    oseq: int
    scopes: frozenset[str]
    services: frozenset[str]


@dataclass(frozen=True, slots=True)
class ProviderGrant:
    """``scopes`` None: all. ``deployments`` None: all of the owner's with this provider."""

    provider: str
    scopes: frozenset[str] | None = None
    deployments: tuple[DeploymentGrant, ...] | None = None


@dataclass(frozen=True, slots=True)
class Claims:
    """Who asks, and what for. ``scopes`` None and ``grants`` None: everything of the owner's."""

    owner: str
    scopes: frozenset[str] | None = None
    grants: tuple[ProviderGrant, ...] | None = None

    def reaches(self, provider: str) -> bool:
        """Whether the token says anything about this provider."""
        return self.grants is None or any(grant.provider == provider for grant in self.grants)

    def knows(self, provider: str, dseq: int, gseq: int, oseq: int) -> bool:
        """Whether anything at all is allowed on this lease."""
        grant = next((g for g in self.grants or () if g.provider == provider), None)
        if self.grants is None or (grant is not None and grant.deployments is None):
            return True
        return grant is not None and any(d.dseq == dseq and _same(d, gseq, oseq) for d in grant.deployments or ())

    def asks_for(self, provider: str, scope: str) -> bool:
        """Whether the scope is allowed on any lease with this provider."""
        if self.grants is None:
            return self.scopes is None or scope in self.scopes
        grant = next((g for g in self.grants if g.provider == provider), None)
        if grant is None:
            return False
        if grant.deployments is None:
            return grant.scopes is None or scope in grant.scopes
        return any(scope in d.scopes for d in grant.deployments)

    def permit(self, provider: str, scope: str, dseq: int, gseq: int = 0, oseq: int = 0) -> Permit | None:
        """What is allowed on these ids (0: any, for a whole deployment), None when nothing is."""
        if self.grants is None:
            return Permit() if self.scopes is None or scope in self.scopes else None
        grant = next((g for g in self.grants if g.provider == provider), None)
        if grant is None:
            return None
        if grant.deployments is None:
            return Permit() if grant.scopes is None or scope in grant.scopes else None
        fitting = [d for d in grant.deployments if d.dseq == dseq and scope in d.scopes and _same(d, gseq, oseq)]
        return Permit(frozenset().union(*(d.services for d in fitting))) if fitting else None


@dataclass(frozen=True, slots=True)
class Permit:
    """``services`` None: all of the lease's."""

    services: frozenset[str] | None = None

    def covers(self, service: str) -> bool:
        return self.services is None or service in self.services


def _same(grant: DeploymentGrant, gseq: int, oseq: int) -> bool:
    return all(have == 0 or asked in (0, have) for have, asked in ((grant.gseq, gseq), (grant.oseq, oseq)))


@dataclass(frozen=True, slots=True)
class Token:
    """Taken apart, not yet believed."""

    algorithm: str
    issuer: str
    signed: bytes
    signature: bytes
    body: Mapping[str, Any]


def read(text: str) -> Token:
    """``TokenInvalid`` for what is no token at all."""
    if len(text) > _MOST_BYTES:
        raise TokenInvalid("the token is too long")
    parts = text.split(".")
    if len(parts) != 3:
        raise TokenInvalid("a token has three parts separated by dots")
    header, body = _object(parts[0]), _object(parts[1])
    algorithm = header.get("alg")
    if algorithm not in ALGORITHMS:
        raise TokenInvalid("the token's algorithm must be ES256K or ES256KADR36")
    issuer = body.get("iss", "")
    if not isinstance(issuer, str):
        raise TokenInvalid("iss must be a string")
    return Token(str(algorithm), issuer, f"{parts[0]}.{parts[1]}".encode(), _unpadded(parts[2]), body)


def _unpadded(part: str) -> bytes:
    try:
        if "=" in part:
            raise ValueError
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise TokenInvalid("the token is not unpadded base64url") from None


def _object(part: str) -> Mapping[str, Any]:
    try:
        value = json.loads(_unpadded(part), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise TokenInvalid("the token does not hold JSON") from None
    if not isinstance(value, dict):
        raise TokenInvalid("the token does not hold a JSON object")
    return value


def _no_constant(word: str) -> Any:
    raise ValueError(word)


def signed_by(token: Token, pubkey: bytes) -> bool:
    """Whether the holder of this compressed key signed: 64 bytes, low s."""
    return keys.verify(pubkey, _message(token.algorithm, token.signed, token.issuer), token.signature)


def _message(algorithm: str, signed: bytes, signer: str) -> bytes:
    if algorithm == "ES256K":
        return signed
    document = {
        "account_number": "0",
        "chain_id": "",
        "fee": {"amount": [], "gas": "0"},
        "memo": "",
        "msgs": [
            {"type": "sign/MsgSignData", "value": {"data": base64.b64encode(signed).decode(), "signer": signer}},
        ],
        "sequence": "0",
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def claims(token: Token, *, now_s: float) -> Claims:
    """Of a token whose signature holds; ``ClaimsInvalid`` says which rule is broken. There is no leeway."""
    body = token.body
    times = {name: _time_s(body, name) for name in ("iat", "nbf", "exp")}
    if now_s < times["nbf"]:
        raise ClaimsInvalid("the token is not valid yet; check the clock of the machine that made it")
    if now_s >= times["exp"]:
        raise ClaimsInvalid("the token has expired; make a new one")
    if body.get("version") != "v1":
        raise ClaimsInvalid("version must be v1")
    leases = body.get("leases")
    if not isinstance(leases, dict):
        raise ClaimsInvalid("leases must be an object")
    access = leases.get("access")
    scope, permissions = leases.get("scope"), leases.get("permissions")
    if access == "full":
        _absent("leases", scope=scope, permissions=permissions)
        return Claims(token.issuer)
    if access == "scoped":
        _absent("leases", permissions=permissions)
        return Claims(token.issuer, scopes=_scopes(scope))
    if access == "granular":
        _absent("leases", scope=scope)
        return Claims(token.issuer, grants=_grants(permissions))
    raise ClaimsInvalid("leases.access must be full, scoped or granular")


def _time_s(body: Mapping[str, Any], name: str) -> int:
    value = body.get(name)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ClaimsInvalid(f"{name} must be a time in seconds")
    try:
        return int(value)
    except OverflowError:
        raise ClaimsInvalid(f"{name} is no time") from None


def _absent(where: str, **fields: object) -> None:
    for name, value in fields.items():
        if value not in (None, [], ()):
            raise ClaimsInvalid(f"{where}.{name} does not belong with this access")


def _names(value: object, what: str) -> frozenset[str]:
    if not isinstance(value, list) or not value or not all(isinstance(entry, str) and entry for entry in value):
        raise ClaimsInvalid(f"{what} must be a list of names that is not empty")
    found = frozenset(value)
    if len(found) != len(value):
        raise ClaimsInvalid(f"{what} repeats a name")
    return found


def _scopes(value: object) -> frozenset[str]:
    found = _names(value, "scope")
    if not found <= SCOPES:
        raise ClaimsInvalid(f"unknown scope {sorted(found - SCOPES)[0]!r}")
    return found


def _entries(value: object, what: str) -> Iterable[Mapping[str, Any]]:
    if not isinstance(value, list) or not value or not all(isinstance(entry, dict) for entry in value):
        raise ClaimsInvalid(f"{what} must be a list of objects that is not empty")
    return value


def _grants(value: object) -> tuple[ProviderGrant, ...]:
    found = tuple(_grant(entry) for entry in _entries(value, "permissions"))
    if len({grant.provider for grant in found}) != len(found):
        raise ClaimsInvalid("permissions name a provider twice")
    return found


def _grant(entry: Mapping[str, Any]) -> ProviderGrant:
    provider = entry.get("provider")
    if not isinstance(provider, str) or not keys.is_address(provider):
        raise ClaimsInvalid("permissions.provider must be an address")
    access = entry.get("access")
    scope, deployments = entry.get("scope"), entry.get("deployments")
    if access == "full":
        _absent("permissions", scope=scope, deployments=deployments)
        return ProviderGrant(provider)
    if access == "scoped":
        _absent("permissions", deployments=deployments)
        return ProviderGrant(provider, scopes=_scopes(scope))
    if access == "granular":
        _absent("permissions", scope=scope)
        return ProviderGrant(
            provider, deployments=tuple(_deployment(d) for d in _entries(deployments, "permissions.deployments"))
        )
    raise ClaimsInvalid("permissions.access must be full, scoped or granular")


def _deployment(entry: Mapping[str, Any]) -> DeploymentGrant:
    dseq = _whole(entry, "dseq", _MOST_U64)
    gseq, oseq = _whole(entry, "gseq", _MOST_U32), _whole(entry, "oseq", _MOST_U32)
    if dseq == 0:
        raise ClaimsInvalid("permissions.deployments.dseq must be above 0")
    if oseq and not gseq:
        raise ClaimsInvalid("permissions.deployments.oseq needs gseq")
    services = entry.get("services")
    return DeploymentGrant(dseq, gseq, oseq, _scopes(entry.get("scope")), _names(services, "services"))


def _whole(entry: Mapping[str, Any], name: str, most: int) -> int:
    value = entry.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ClaimsInvalid(f"permissions.deployments.{name} must be a whole number")
    return value


def issue(
    key: keys.Key, *, leases: Mapping[str, Any], not_before_s: int, expires_s: int, algorithm: str = "ES256K"
) -> str:
    """A token of our own account."""
    body = {
        "iss": key.address,
        "iat": not_before_s,
        "nbf": not_before_s,
        "exp": expires_s,
        "version": "v1",
        "leases": dict(leases),
    }
    head = ".".join(
        _part(json.dumps(d, separators=(",", ":")).encode()) for d in ({"alg": algorithm, "typ": "JWT"}, body)
    )
    return f"{head}.{_part(key.sign(_message(algorithm, head.encode(), key.address)))}"


def _part(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
