"""Who asks: a token or a client certificate, both held against the chain (gateway reference §3, §4)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import structlog

from gpulease.chain.keys import is_address
from gpulease.errors import AuthError, ChainError, ChainMismatch, Unreachable
from gpulease.gateway import certs, jwt
from gpulease.gateway.ports import ChainPort
from gpulease.market.model import Certificate

log = structlog.get_logger(__name__)
_MOST_KEYS = 10_000
_MOST_CERTIFICATES = 2_000
CERTIFICATES_AGE_S = 5.0
"""A revoked certificate is refused after this at the latest: a block, on the real chain."""


class Refused(AuthError):
    """``status`` and the message of the answer; the message is part of the contract with clients."""

    def __init__(self, status: int, message: str, why: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.why = why or message
        """For our log: never the token."""


def unauthorized(why: str = "") -> Refused:
    return Refused(401, "unauthorized access", why)


class Authenticator:
    """Caches account keys (they never change on chain) and, shortly, certificates. Both caches are bounded."""

    def __init__(self, chain: ChainPort, *, now_s: Callable[[], float]) -> None:
        self._chain = chain
        self._now_s = now_s
        self._keys: OrderedDict[str, bytes] = OrderedDict()
        self._certificates: OrderedDict[str, tuple[float, Sequence[Certificate]]] = OrderedDict()

    async def identify(self, authorization: str | None, certificate: bytes | None) -> jwt.Claims | None:
        """Claims of whoever asks, None for nobody; ``Refused`` for bad proof; ``ChainUnreachable`` when unknown."""
        if authorization and certificate:
            raise Refused(400, "ambiguous authentication: give a client certificate or a token, not both")
        if certificate:
            return await self._by_certificate(certificate)
        if not authorization:
            return None
        words = authorization.split()
        if len(words) != 2 or words[0].lower() != "bearer":
            raise Refused(400, "invalid authorization header")
        return await self._by_token(words[1])

    async def vet(self, certificate: bytes) -> bool:
        """Whether a client certificate holds on chain now; True as well when the chain does not say."""
        try:
            await self._by_certificate(certificate)
        except Refused as error:
            log.info("certificate_refused", why=error.why)
            return False
        except (Unreachable, ChainError):
            return True
        return True

    async def _by_token(self, text: str) -> jwt.Claims:
        try:
            token = jwt.read(text)
            if not is_address(token.issuer):
                raise jwt.TokenInvalid("iss is not an address")
            pubkey = await self._pubkey(token.issuer)
            if not jwt.signed_by(token, pubkey):
                raise jwt.TokenInvalid("the signature is not the issuer's")
            return jwt.claims(token, now_s=self._now_s())
        except jwt.TokenInvalid as error:
            raise Refused(401, "JWT is invalid", str(error)) from None
        except jwt.ClaimsInvalid as error:
            raise Refused(400, "JWT has invalid claims", str(error)) from None

    async def _pubkey(self, address: str) -> bytes:
        known = self._keys.get(address)
        if known is not None:
            self._keys.move_to_end(address)
            return known
        try:
            account = await self._chain.account(address)
        except ChainMismatch:
            raise
        except ChainError as error:
            raise jwt.TokenInvalid(f"the chain does not take the issuer for an account: {error}") from None
        if account is None or account.pubkey is None:
            raise jwt.TokenInvalid("the issuer has no public key on chain; it has to sign a transaction first")
        self._keys[address] = account.pubkey
        if len(self._keys) > _MOST_KEYS:
            self._keys.popitem(last=False)
        return account.pubkey

    async def _by_certificate(self, der: bytes) -> jwt.Claims:
        try:
            owner = certs.common_name(der)
            if not is_address(owner):
                raise AuthError("the certificate's common name is not an address")
            certs.check(der, owner, await self._published(owner), serves=False, now_s=self._now_s())
        except AuthError as error:
            raise unauthorized(str(error)) from None
        return jwt.Claims(owner)

    async def _published(self, owner: str) -> Sequence[Certificate]:
        now_s = self._now_s()
        held = self._certificates.get(owner)
        if held is not None and now_s - held[0] < CERTIFICATES_AGE_S:
            return held[1]
        found = await self._chain.certificates(owner, state="valid")
        self._certificates[owner] = (now_s, found)
        self._certificates.move_to_end(owner)
        if len(self._certificates) > _MOST_CERTIFICATES:
            self._certificates.popitem(last=False)
        return found
