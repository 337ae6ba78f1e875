"""The one error tree.

Every error raised by gpulease derives from :class:`GpuleaseError` and carries a sentence that tells its reader
what to do. ``Unreachable`` errors mean *unknown*: callers must never read them as "does not exist".
"""

from __future__ import annotations


class GpuleaseError(Exception):
    """Root of the tree; ``str(error)`` is a sentence for the person who can act on it."""


class ConfigError(GpuleaseError):
    """A setting or resource field is missing or wrong; retrying without an edit is useless."""


class BadInput(GpuleaseError):
    """Somebody else's document (manifest, SDL, order, token) breaks a rule."""


class ManifestError(BadInput):
    """A manifest breaks the rules of ``akash.manifest.v2beta3`` or differs from the chain."""


class SdlError(BadInput):
    """An SDL breaks the rules of its language: ``line`` (from 1) says where, ``reason`` what to do."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


class AuthError(BadInput):
    """A token, certificate or signature was refused."""


class Unreachable(GpuleaseError):
    """A remote party did not answer in time: its state is unknown."""


class ChainError(GpuleaseError):
    """The chain answered, and the answer is an error."""


class ChainUnreachable(Unreachable):
    """No chain endpoint answered in time, or only ones that are catching up."""


class ChainPruned(ChainError):
    """The asked height is no longer kept by the node."""


class ChainMismatch(ChainError):
    """The endpoint speaks for another chain id than the configured one."""


class TxRefused(ChainError):
    """A transaction was refused by CheckTx or failed in a block.

    ``codespace`` and ``code`` identify the reason; ``log`` is the chain's own text.
    """

    def __init__(self, codespace: str, code: int, log: str) -> None:
        super().__init__(f"transaction refused by the chain: {log} (codespace {codespace}, code {code})")
        self.codespace = codespace
        self.code = code
        self.log = log


class KubeError(GpuleaseError):
    """The API server answered, and the answer is an error.

    ``status`` is the HTTP code, ``reason`` the API's machine-readable word (``Conflict``, ``Forbidden`` ...).
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class KubeNotFound(KubeError):
    """404: a positive answer that the object does not exist."""


class KubeConflict(KubeError):
    """409: somebody else wrote first; read again."""


class KubeUnreachable(Unreachable):
    """The API server did not answer in time."""


class AgentUnreachable(Unreachable):
    """A node agent did not answer in time: its node's usage is unknown, not zero."""


class NodeUnreachable(Unreachable):
    """On a node: the kubelet, NVML or the DCGM exporter did not answer in time; what they know is unknown."""


class StoreError(GpuleaseError):
    """The local store cannot be read or written; nothing may be sent until it can."""


class GatewayRefused(GpuleaseError):
    """A provider's gateway answered with an error: ``status`` and its body text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"the provider's gateway answered {status}: {text.strip() or 'no text'}")
        self.status = status
        self.text = text


class GatewayUnreachable(Unreachable):
    """A provider's gateway did not answer in time, or its certificate is not the one on chain."""


class InvariantBroken(GpuleaseError):
    """Our own books contradict themselves: stop rather than pay or delete on a guess."""
