"""A real gateway's answers on a live lease, asked of ours: statuses, headers, bodies, frames and close codes.

What differs is listed: in ``SAFER``, and logs that have ended say so with a close frame.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest

from gpulease.chain.keys import Key
from gpulease.gateway import jwt
from gpulease.ids import LeaseId
from gpulease.workload.names import lease_namespace
from tests.contract.test_chain_client import PROVIDER, TENANT
from tests.contract.test_gateway import LEASE, MANIFEST, RECORDED, Stand, stand
from tests.fakes.cluster import FakeCommand

pytestmark = pytest.mark.contract

SAFER = {
    f"scope {scope} on service": "the scope status is asked for on service status too"
    for scope in ("logs", "send-manifest", "get-manifest")
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
    if label == "logs, scope status":
        leases = {"access": "scoped", "scope": ["status"]}
    elif label.startswith("scope "):
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
            recorded, ours = await answers(here, record)
            if label in SAFER:
                assert (recorded[0], ours[0]) == (200, 401), label
                continue
            assert ours == recorded, label
            compared += 1
    assert compared == len(ASKED) - len(SAFER) > 40


# --- websockets --------------------------------------------------------------------------------------------------

STREAMED = [r for r in RECORDED["records"] if "request" not in r]
POD = "web-64d8588c98-jlvv9"
CLOSED_BY_US = {"logs, no follow": (1000, "")}
"""The peer lets go of the connection there."""


def plays(command: FakeCommand) -> None:
    """What the recorded container did with the recorded commands."""
    words = command.asked["command"]
    if words == ["/bin/busybox", "echo", "hi"]:
        command.out(b"hi\n")
        command.end(0)
    elif words == ["/bin/busybox", "sh", "-c"]:
        command.err(b"sh: -c requires an argument\n")
        command.end(2, "command terminated with non-zero exit code")
    elif words == ["/nope"]:
        command.end(None, 'exec: "/nope": stat /nope: no such file or directory')
    elif words[1] in ("head", "stty") and command.asked["stdin"]:
        command.task = asyncio.create_task(echoes(command))


async def echoes(command: FakeCommand) -> None:
    heard = await command.heard.get()
    command.out(heard if isinstance(heard, bytes) else f"{heard[1]} {heard[0]}\r\n".encode())
    command.end(0)


def frame(recorded: Mapping[str, Any]) -> str | bytes:
    if "text" in recorded:
        return str(recorded["text"])
    return bytes.fromhex(recorded["binary_hex"])


def events() -> list[dict[str, Any]]:
    """The recorded frames as the Event objects that they told of."""
    record = next(r for r in STREAMED if r["label"] == "kubeevents")
    made = []
    for number, entry in enumerate(record["frames"]):
        told = json.loads(entry["text"].replace(recorded_namespace(), lease_namespace(LEASE)))
        meta = {"name": f"{POD}.{number}", "namespace": lease_namespace(LEASE), "uid": str(number)}
        meta["creationTimestamp"] = f"2026-01-01T00:00:0{number}Z"
        fields = {k: told[k] for k in ("type", "reason", "note", "reportingController", "reportingInstance")}
        made.append(
            {"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": meta, "regarding": told["object"], **fields}
        )
    return made


def recorded_namespace() -> str:
    lease = LeaseId(RECORDED["tenant"], int(RECORDED["dseq"]), 1, 1, RECORDED["provider"])
    return lease_namespace(lease)


async def streamed(here: Stand, record: Mapping[str, Any]) -> tuple[list[str | bytes], tuple[int, str] | None]:
    """Our frames, and the end when one was recorded."""
    label = record["label"]
    held = None if label == "logs, no token" else authorization(label)
    wanted = [frame(f) for f in record["frames"]]
    got: list[str | bytes] = []
    async with here.socket(record["path"], token=held) as socket:
        for entry in record["sent"]:
            await socket.send_bytes(bytes.fromhex(entry["binary_hex"]))
        while "end" in record or len(got) < len(wanted):
            message = await asyncio.wait_for(socket.receive(), 5)
            if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                reason = str(message.extra or "") if message.type is aiohttp.WSMsgType.CLOSE else ""
                return got, (socket.close_code or 0, reason)
            got.append(message.data)
            if "follow=true" in record["path"] and "logs" in record["path"]:
                here.cluster.log_of(lease_namespace(LEASE), POD).write("tick")
    return got, None


async def test_every_recorded_stream_is_ours_too() -> None:
    refused = 0
    async with stand() as here:
        await here.send(MANIFEST)
        here.deployed()
        log = here.pod(POD)
        for _ in range(5):
            log.write("tick")
        for event in events():
            here.cluster.put(event)
        here.cluster.run = plays
        for record in STREAMED:
            label = record["label"]
            if label == "logs, no follow":
                log.end()
            if "refused" in record:
                status, _, text = await here.ask(
                    "GET", record["path"], token=None if label == "logs, no token" else authorization(label)
                )
                assert (status, text) == (record["refused"]["status"], record["refused"]["body"]), label
                refused += 1
                continue
            if label == "logs, tail 0":
                log.restart()
                asyncio.get_running_loop().call_later(0.2, log.write, "tick")
            got, end = await streamed(here, record)
            wanted = [frame(f) for f in record["frames"]]
            wanted = [
                w.replace(recorded_namespace(), lease_namespace(LEASE)) if isinstance(w, str) else w for w in wanted
            ]
            assert got == wanted, label
            if end is not None:
                assert end == CLOSED_BY_US.get(label, (record["end"]["code"], record["end"]["reason"])), label
    assert (len(STREAMED), refused) == (17, 4)
