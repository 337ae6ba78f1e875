"""A real gateway's answers on a live lease, asked of ours: statuses, headers and bodies, save for the listed ones."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest

from gpulease.chain.keys import Key
from gpulease.gateway import jwt
from tests.contract.test_chain_client import PROVIDER, TENANT
from tests.contract.test_gateway import MANIFEST, RECORDED, Stand, stand

pytestmark = pytest.mark.contract

SAFER = {
    f"scope {scope} on service": "the scope status is asked for on service status too"
    for scope in ("logs", "send-manifest", "get-manifest")
}
NOT_SERVED_YET = {
    "hostname migrate, empty",
    "hostname migrate, not json",
    "endpoint migrate, unknown",
}
OTHER_BODY = {"version": {"akash", "kube"}, "status": {"cluster", "bidengine", "manifest", "address"}}
"""Bodies that tell of this software or this cluster: their keys are compared."""


def token(key: Key, leases: Mapping[str, Any], *, begins_s: float = -30, ends_s: float = 300, algorithm: str) -> str:
    now_s = time.time()
    return jwt.issue(
        key, leases=leases, not_before_s=int(now_s + begins_s), expires_s=int(now_s + ends_s), algorithm=algorithm
    )


def authorization(label: str) -> str:
    """The header that a record's label speaks of."""
    full: dict[str, Any] = {"access": "full"}
    if label == "status with a broken header":
        return "Basic abc def"
    if label == "garbage token":
        return "Bearer garbage"
    key, leases, options = TENANT, full, {}
    if label.startswith("scope "):
        leases = {"access": "scoped", "scope": [label.split()[1]]}
    elif label.startswith("granular {"):
        leases = GRANTS[label]
    elif label == "expired":
        options = {"begins_s": -300, "ends_s": -10}
    elif label == "not yet valid":
        options = {"begins_s": 100}
    elif label == "lease status of another tenant":
        key = PROVIDER
    text = token(key, leases, algorithm="ES256KADR36" if "ADR36" in label else "ES256K", **options)
    if label == "bad signature":
        head, body, signature = text.split(".")
        text = f"{head}.{body}.{'A' * len(signature)}"
    if label == "version v2":
        text = with_version(text)
    return f"Bearer {text}"


def with_version(text: str) -> str:
    """Signed again, for a wrong version is only told to a token's real issuer."""
    read = jwt.read(text)
    head = text.split(".", 1)[0]
    signed = f"{head}.{jwt._part(json.dumps({**read.body, 'version': 'v2'}).encode())}"
    return f"{signed}.{jwt._part(TENANT.sign(signed.encode()))}"


def _grant(label: str) -> dict[str, Any]:
    """Labels are cut at a length; what is cut off is the rest of one grant on the recorded deployment."""
    text = label.removeprefix("granular ")
    try:
        parsed: dict[str, Any] = json.loads(text)
    except ValueError:
        deployment = {"dseq": int(RECORDED["dseq"]), "scope": ["status"], "services": ["web"]}
        permission = {"provider": RECORDED["provider"], "access": "granular", "deployments": [deployment]}
        parsed = {"access": "granular", "permissions": [permission]}
    for permission in parsed.get("permissions", ()):
        if permission["provider"] == RECORDED["provider"]:
            permission["provider"] = PROVIDER.address
    return parsed


ASKED = [r for r in RECORDED["records"] if "request" in r]
GRANTS = {r["label"]: _grant(r["label"]) for r in ASKED if r["label"].startswith("granular {")}


async def answers(here: Stand, record: Mapping[str, Any]) -> tuple[Any, Any]:
    """(recorded, ours) in the same form."""
    request, response = record["request"], record["response"]
    held = None if request["auth"] is None else authorization(record["label"])
    status, headers, text = await here.ask(request["method"], request["path"], token=held, body=request["body"])
    wanted = response["body"].replace(RECORDED["provider"], PROVIDER.address)
    keys = OTHER_BODY.get(record["label"])
    if keys is not None:
        wanted, text = sorted(keys & json.loads(wanted).keys()), sorted(keys & json.loads(text).keys())
    elif response["headers"].get("Content-Type", "").startswith("application/json") and status == 200:
        wanted, text = json.loads(wanted), json.loads(text)
    names = ("Content-Type", "X-Content-Type-Options")
    return (
        (response["status"], [response["headers"].get(name) for name in names], wanted),
        (status, [headers.get(name) for name in names], text),
    )


async def test_every_recorded_answer_is_ours_too() -> None:
    compared = 0
    async with stand() as here:
        await here.send(MANIFEST)
        here.deployed()
        for record in ASKED:
            label = record["label"]
            if label in NOT_SERVED_YET:
                continue
            recorded, ours = await answers(here, record)
            if label in SAFER:
                assert (recorded[0], ours[0]) == (200, 401), label
                continue
            assert ours == recorded, label
            compared += 1
    assert compared == len(ASKED) - len(SAFER) - len(NOT_SERVED_YET) > 35
