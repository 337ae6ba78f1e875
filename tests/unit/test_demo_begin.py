"""What the demo says before it begins: ports, root, words it does not know."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from tests.demo import __main__ as demo
from tests.rig.errors import RigError
from tests.rig.stack import Ports

pytestmark = pytest.mark.unit


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def _free(monkeypatch: pytest.MonkeyPatch, **ports: int) -> Ports:
    """DEMO_PORTS that nobody listens on, but for the given ones."""
    wanted = Ports.free()
    numbers = {name: getattr(wanted, name) for name in Ports.__slots__} | ports
    monkeypatch.setenv("DEMO_PORTS", ",".join(f"{name}={number}" for name, number in numbers.items()))
    return wanted


def test_ports_are_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _free(monkeypatch) == demo.ports()


def test_a_taken_port_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch, listening: int) -> None:
    _free(monkeypatch, grpc=listening)
    with pytest.raises(RigError, match=rf"port {listening} \(grpc\).*DEMO_PORTS="):
        demo.ports()


@pytest.mark.parametrize("text", ["grpc", "grpc=x", "web=80"])
def test_ports_that_cannot_be_read_are_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("DEMO_PORTS", text)
    with pytest.raises(RigError, match="is not one of rpc, grpc, rest, gateway"):
        demo.ports()


def test_without_root_and_without_a_cluster_it_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(RigError, match=r"needs root.*KUBECONFIG"):
        demo.on_machine()
