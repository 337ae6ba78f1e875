"""Tokens: the protocol's signature cases, the rules for claims, and what each access kind opens."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from gpulease.chain.keys import Key
from gpulease.gateway import jwt

pytestmark = pytest.mark.unit

DATA = Path(__file__).parents[1] / "data/jwt"
CASES = json.loads((DATA / "cases_es256k.json").read_text())
SIGNER = Key.from_mnemonic((DATA / "mnemonic").read_text().strip())
US, OTHER = Key(b"\x11" * 32).address, Key(b"\x22" * 32).address
TENANT = Key(b"\x44" * 32)
NOW = 1_760_405_000


@pytest.mark.parametrize("case", CASES, ids=[c["description"] for c in CASES])
def test_the_protocols_signature_cases(case: dict[str, Any]) -> None:
    try:
        token = jwt.read(case["tokenString"])
        # The cases' short claims name no issuer: their ADR36 documents were signed for the mnemonic's own address.
        signed = jwt.Token(token.algorithm, token.issuer or SIGNER.address, token.signed, token.signature, token.body)
        held = jwt.signed_by(signed, SIGNER.pubkey_bytes)
    except jwt.TokenInvalid:
        held = False
    assert held is not case["mustFail"]


def test_every_byte_of_a_token_counts() -> None:
    text = issue({"access": "full"})
    for position in (5, text.index(".") + 5, len(text) - 20):
        changed = text[:position] + ("A" if text[position] != "A" else "B") + text[position + 1 :]
        try:
            assert not jwt.signed_by(jwt.read(changed), TENANT.pubkey_bytes)
        except jwt.TokenInvalid:
            continue


def test_a_signature_with_a_high_s_is_refused() -> None:
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    token = jwt.read(issue({"access": "full"}))
    high = order - int.from_bytes(token.signature[32:], "big")
    forged = jwt.Token(
        token.algorithm, token.issuer, token.signed, token.signature[:32] + high.to_bytes(32, "big"), token.body
    )
    assert jwt.signed_by(token, TENANT.pubkey_bytes)
    assert not jwt.signed_by(forged, TENANT.pubkey_bytes)


def issue(leases: dict[str, Any], *, algorithm: str = "ES256K") -> str:
    return jwt.issue(TENANT, leases=leases, not_before_s=NOW - 60, expires_s=NOW + 60, algorithm=algorithm)


def read(leases: dict[str, Any], /, **changes: Any) -> jwt.Claims:
    token = jwt.read(issue(leases))
    body = {k: v for k, v in {**token.body, **changes}.items() if v is not ...}
    return jwt.claims(jwt.Token("ES256K", token.issuer, b"", b"", body), now_s=NOW)


@pytest.mark.parametrize("algorithm", jwt.ALGORITHMS)
def test_what_we_issue_we_believe(algorithm: str) -> None:
    token = jwt.read(issue({"access": "scoped", "scope": ["logs"]}, algorithm=algorithm))
    assert jwt.signed_by(token, TENANT.pubkey_bytes)
    assert not jwt.signed_by(token, SIGNER.pubkey_bytes)
    assert jwt.claims(token, now_s=NOW) == jwt.Claims(TENANT.address, scopes=frozenset({"logs"}))


def part(value: object) -> str:
    return packed(json.dumps(value).encode())


def packed(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


NOT_A_NUMBER = b'{"exp": NaN}'
HEAD = part({"alg": "ES256K"})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.b",
        "a.b.c.d",
        "....",
        f"{HEAD}.{part([])}.AA",
        f"{HEAD}.{part({'iss': 7})}.AA",
        f"{part({'alg': 'none'})}.{part({})}.",
        f"{part({'alg': 'HS256'})}.{part({})}.AA",
        f"{part({})}.{part({})}.AA",
        f"{HEAD}=.{part({})}.AA",
        f"{HEAD}.{packed(b'[' * 40_000)}.AA",
        f"{HEAD}.{packed(NOT_A_NUMBER)}.AA",
        f"{HEAD}.{part({})}.é",
        f"{HEAD}.{'A' * 70_000}.AA",
    ],
)
def test_what_is_no_token(text: str) -> None:
    with pytest.raises(jwt.TokenInvalid):
        jwt.read(text)


FULL = {"access": "full"}
GRANT = {"dseq": 5, "scope": ["logs"], "services": ["web"]}


def granular(*permissions: Any) -> dict[str, Any]:
    return {"access": "granular", "permissions": list(permissions)}


def deployment(**changes: Any) -> dict[str, Any]:
    return granular({"provider": US, "access": "granular", "deployments": [{**GRANT, **changes}]})


@pytest.mark.parametrize(
    ("leases", "changes"),
    [
        (FULL, {"exp": NOW}),
        (FULL, {"nbf": NOW + 1}),
        (FULL, {"exp": ...}),
        (FULL, {"iat": ...}),
        (FULL, {"nbf": ...}),
        (FULL, {"exp": True}),
        (FULL, {"exp": "soon"}),
        (FULL, {"exp": float("inf")}),
        (FULL, {"version": "v2"}),
        (FULL, {"version": ...}),
        (FULL, {"leases": ...}),
        (FULL, {"leases": []}),
        ({"access": "what"}, {}),
        ({}, {}),
        ({"access": "full", "scope": ["logs"]}, {}),
        ({"access": "full", "permissions": [{"provider": US, "access": "full"}]}, {}),
        ({"access": "scoped"}, {}),
        ({"access": "scoped", "scope": []}, {}),
        ({"access": "scoped", "scope": ["nonsense"]}, {}),
        ({"access": "scoped", "scope": ["logs", "logs"]}, {}),
        ({"access": "scoped", "scope": "logs"}, {}),
        ({"access": "scoped", "scope": [7]}, {}),
        (granular(), {}),
        (granular("x"), {}),
        (granular({"provider": "x", "access": "full"}), {}),
        (granular({"provider": US, "access": "full"}, {"provider": US, "access": "full"}), {}),
        (granular({"provider": US, "access": "full", "scope": ["logs"]}), {}),
        (granular({"provider": US, "access": "scoped"}), {}),
        (granular({"provider": US, "access": "scoped", "scope": ["logs"], "deployments": [GRANT]}), {}),
        (granular({"provider": US, "access": "granular"}), {}),
        (granular({"provider": US, "access": "granular", "scope": ["logs"], "deployments": [GRANT]}), {}),
        (deployment(dseq=0), {}),
        (deployment(dseq=-1), {}),
        (deployment(dseq="5"), {}),
        (deployment(dseq=2**64), {}),
        (deployment(oseq=1), {}),
        (deployment(scope=[]), {}),
        (deployment(services=[]), {}),
        (deployment(services=["web", "web"]), {}),
    ],
)
def test_claims_that_break_a_rule(leases: dict[str, Any], changes: dict[str, Any]) -> None:
    with pytest.raises(jwt.ClaimsInvalid):
        read(leases, **changes)


@pytest.mark.parametrize(
    "changes", [{"exp": str(NOW + 9)}, {"exp": NOW + 1.9}, {"jti": "x"}, {"more": 1}, {"nbf": NOW}]
)
def test_claims_that_are_odd_and_pass(changes: dict[str, Any]) -> None:
    assert read(FULL, **changes).owner == TENANT.address


def scoped(provider: str, *scopes: str) -> dict[str, Any]:
    return granular({"provider": provider, "access": "scoped", "scope": list(scopes)})


ANY = jwt.Permit()
WEB = jwt.Permit(frozenset({"web"}))


@pytest.mark.parametrize(
    ("leases", "scope", "ids", "permit"),
    [
        (FULL, "shell", (5, 1, 1), ANY),
        ({"access": "scoped", "scope": ["logs"]}, "logs", (5, 1, 1), ANY),
        ({"access": "scoped", "scope": ["logs"]}, "status", (5, 1, 1), None),
        (granular({"provider": US, "access": "full"}), "shell", (5, 1, 1), ANY),
        (granular({"provider": OTHER, "access": "full"}), "shell", (5, 1, 1), None),
        (scoped(US, "logs"), "logs", (5, 1, 1), ANY),
        (scoped(US, "logs"), "shell", (5, 1, 1), None),
        (scoped(OTHER, "logs"), "logs", (5, 1, 1), None),
        (deployment(), "logs", (5, 1, 1), WEB),
        (deployment(), "logs", (6, 1, 1), None),
        (deployment(), "shell", (5, 1, 1), None),
        (deployment(gseq=1), "logs", (5, 1, 7), WEB),
        (deployment(gseq=2), "logs", (5, 1, 1), None),
        (deployment(gseq=1, oseq=2), "logs", (5, 1, 1), None),
        (deployment(gseq=1, oseq=2), "logs", (5, 1, 2), WEB),
        (deployment(gseq=2, oseq=2, scope=["send-manifest"]), "send-manifest", (5, 0, 0), WEB),
    ],
)
def test_what_an_access_kind_opens(
    leases: dict[str, Any], scope: str, ids: tuple[int, int, int], permit: jwt.Permit | None
) -> None:
    assert read(leases).permit(US, scope, *ids) == permit


def test_a_token_for_other_providers_does_not_reach_us() -> None:
    assert read(FULL).reaches(US)
    assert read(scoped(US, "logs")).reaches(US)
    assert not read(scoped(OTHER, "logs")).reaches(US)
