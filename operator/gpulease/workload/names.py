"""Names that both sides can derive from a lease id, so that none is ever taken from a field somebody wrote."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache

from gpulease.ids import LeaseId


@lru_cache(maxsize=16_384)
def lease_namespace(lease: LeaseId) -> str:
    """45 characters of ``[0-9a-v]``: base32hex of sha224 over the id, the peer's derivation (akash reference §4).

    The text hashed is ``owner/dseq/gseq/oseq/provider``.
    """
    digest = hashlib.sha224(str(lease).encode()).digest()
    return base64.b32hexencode(digest).decode().rstrip("=").lower()


def manifest_secret(namespace: str) -> str:
    """Where the gateway keeps a lease's manifest, in the operator's namespace."""
    return f"manifest-{namespace}"


def hosted_name(lease: LeaseId) -> str:
    """The HostedLease of a lease; the namespace's name keeps it unique and a valid object name."""
    return f"lease-{lease.dseq}-{lease.gseq}-{lease.oseq}-{lease_namespace(lease)[:8]}"


def static_host(lease: LeaseId, service: str, domain: str) -> str:
    """A host name of its own for a service under the provider's domain; stable over the lease's life."""
    digest = hashlib.sha256(f"{lease}/{service}".encode()).digest()
    return f"{base64.b32hexencode(digest[:15]).decode().rstrip('=').lower()}.{domain}"
