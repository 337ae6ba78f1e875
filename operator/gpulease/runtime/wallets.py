"""Keys from Secrets: read when needed, kept in memory only, with a sentence when there is none."""

from __future__ import annotations

import base64
import binascii

from gpulease.chain.keys import Key
from gpulease.errors import ConfigError
from gpulease.kube.client import Cluster
from gpulease.kube.refs import Ref
from gpulease.runtime.specs import WalletSpec


async def read_key(cluster: Cluster, namespace: str, wallet: WalletSpec) -> Key | tuple[str, str]:
    """The key, or a (reason, sentence) pair. ``KubeUnreachable`` when it cannot be known."""
    secret = await cluster.get(Ref("v1", "Secret", wallet.secret_name, namespace))
    if secret is None:
        return (
            "WalletMissing",
            f"Secret {wallet.secret_name} is not in namespace {namespace}; create it with the account's private key "
            f"under {wallet.key}: kubectl -n {namespace} create secret generic {wallet.secret_name} "
            f"--from-file={wallet.key}=FILE.",
        )
    raw = (secret.get("data") or {}).get(wallet.key)
    if not raw:
        return (
            "WalletEmpty",
            f"Secret {wallet.secret_name} has no entry {wallet.key}; put the account's private key (hexadecimal or "
            "mnemonic) there.",
        )
    try:
        return Key.from_secret_text(base64.b64decode(raw).decode())
    except (ConfigError, UnicodeDecodeError, binascii.Error) as error:
        words = str(error) if isinstance(error, ConfigError) else "it is not text"
        return ("WalletInvalid", f"Secret {wallet.secret_name}, entry {wallet.key}, holds no usable key: {words}.")
