"""A shell through the gateway: frames, ends, and the command line's own terminal at the other end of a pty."""

from __future__ import annotations

import asyncio
import os
import pty
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from gpulease.chain import codec
from gpulease.errors import GatewayRefused, GatewayUnreachable
from gpulease.gateway import tenant
from gpulease.market import model as m
from tests.contract.test_chain_client import PROVIDER
from tests.contract.test_gateway import DSEQ, GPU, LEASE, Stand, stand
from tests.contract.test_gateway_limits import bearer
from tests.contract.test_gateway_streams import NAMESPACE, caller, limits, wait_for
from tests.fakes.cluster import FakeCommand

pytestmark = pytest.mark.contract
PATH = f"/lease/{DSEQ}/1/1/shell?service=web&podIndex=0&cmd0=sh"


@asynccontextmanager
async def hosted() -> AsyncIterator[Stand]:
    async with stand(limits=limits()) as here:
        await here.send()
        here.deployed()
        here.pod("web-1")
        here.pod("web-0")
        here.cluster.run = lambda command: None
        yield here


async def next_command(here: Stand, count: int = 1) -> FakeCommand:
    async with asyncio.timeout(60):  # the command line takes its time to start on a busy machine
        while len(here.cluster.commands) < count:
            await asyncio.sleep(0.01)
    return here.cluster.commands[count - 1]


async def test_a_command_runs_in_the_pod_of_its_index_and_its_code_comes_back() -> None:
    async with hosted() as here:

        def plays(command: FakeCommand) -> None:
            command.out(b"out")
            command.err(b"err")
            command.end(7, "command terminated with non-zero exit code")

        here.cluster.run = plays
        done = await tenant.run(caller(here), LEASE, service="web", command=["a b", "c;d", "é&="], timeout_s=5)
        assert done == tenant.RunResult(7, b"out", b"err")
        assert here.cluster.commands[0].asked == {
            "namespace": NAMESPACE,
            "pod": "web-0",
            "container": "web",
            "command": ["a b", "c;d", "é&="],
            "stdin": False,
            "tty": False,
        }
        with pytest.raises(GatewayRefused, match=r"valid range is \[0, 1\]"):
            async with tenant.shell(caller(here), LEASE, service="web", command=["sh"], pod_index=2) as session:
                _ = [part async for part in session.output()]
        assert here.cluster.commands[0].closed


async def test_what_never_ran_or_was_lost_is_told_apart() -> None:
    async with hosted() as here:
        ends = {
            "no such file or directory": "does not exist",
            "container not created": "could not run the command",
        }
        for said, words in ends.items():
            here.cluster.run = lambda command, said=said: command.end(None, said)
            with pytest.raises(GatewayRefused, match=words):
                await tenant.run(caller(here), LEASE, service="web", command=["x"], timeout_s=5)
        here.cluster.run = lambda command: command.break_off()
        with pytest.raises(GatewayRefused, match="could not run"):
            await tenant.run(caller(here), LEASE, service="web", command=["x"], timeout_s=5)
        here.pod("db-0", service="db", phase="Pending")
        with pytest.raises(GatewayRefused, match="no service for that lease"):
            await tenant.run(caller(here), LEASE, service="db", command=["x"], timeout_s=5)
        here.cluster.run = lambda command: None
        with pytest.raises(GatewayUnreachable, match="did not end"):
            await tenant.run(caller(here), LEASE, service="web", command=["x"], timeout_s=0.3)
        here.cluster.down = True
        await asyncio.sleep(0.05)
        with pytest.raises(GatewayRefused, match="could not run"):
            await tenant.run(caller(here), LEASE, service="web", command=["x"], timeout_s=5)


async def test_a_replica_that_is_not_ready_is_not_entered() -> None:
    async with hosted() as here:
        here.pod("web-0", phase="Pending")
        with pytest.raises(GatewayRefused, match="pod with that index is not running"):
            await tenant.run(caller(here), LEASE, service="web", command=["x"], timeout_s=5)
        here.pod("web-1", phase="Pending")
        await asyncio.sleep(0.05)
        with pytest.raises(GatewayRefused, match="service with that name is not running"):
            await tenant.run(caller(here), LEASE, service="web", command=["x"], timeout_s=5)


async def test_frames_that_make_no_sense_stop_the_input_and_nothing_else() -> None:
    async with hosted() as here:
        cases = [b"\x68in", b"\x69\x00\x50\x00\x18", b"", b"\x69\x00", b"\x68not heard"]
        async with here.socket(f"{PATH}&tty=1&stdin=1", token=bearer()) as socket:
            await socket.send_str("text is not heard")
            for frame in cases:
                await socket.send_bytes(frame)
            command = await next_command(here)
            assert [await command.heard.get() for _ in range(2)] == [b"in", (80, 24)]
            command.out(b"still here")
            assert (await socket.receive()).data == b"\x64still here"
            assert command.heard.empty()
            command.end(0)
            assert (await socket.receive()).data == b'\x66{"exit_code":0}\n'
            assert (await socket.receive()).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING)
            assert socket.close_code == 1006
        async with here.socket(f"{PATH}&tty=0&stdin=off", token=bearer()) as socket:
            for frame in (b"\x69\x00\x50\x00\x18", b"\x68closed", b"\x07", b"\x68x"):
                await socket.send_bytes(frame)
            command = await next_command(here, 2)
            command.end(0)
            assert (await socket.receive()).data[0] == 102
            assert command.heard.empty()


async def test_a_tenant_that_leaves_ends_its_command() -> None:
    async with hosted() as here:
        async with here.socket(f"{PATH}&tty=0&stdin=1", token=bearer()):
            command = await next_command(here)
        await wait_for(lambda: command.closed)
        await wait_for(lambda: here.server.gateway.streams.open_by_lease.total() == 0)


async def test_much_output_and_input_arrive_whole() -> None:
    async with hosted() as here:
        opening = tenant.shell(caller(here), LEASE, service="web", command=["cat"], stdin=True)
        async with opening as session:
            sending = asyncio.create_task(session.write(b"i" * 300_000))
            command = await next_command(here)
            got = 0
            while got < 300_000:
                got += len(await command.heard.get())
            await sending
            for _ in range(40):
                command.out(b"o" * 30_000)
            command.end(0)
            assert sum([len(data) async for _, data in session.output()]) == 1_200_000
        assert (got, session.exit_code) == (300_000, 0)


async def command_line(here: Stand, tmp_path: Path, *words: str) -> list[str]:
    """Arguments that reach the lease by the chain alone."""
    key = tmp_path / "key"
    key.write_text("22" * 32)
    record = m.ProviderRecord(PROVIDER.address, here.uri, (GPU,))
    await here.seller.done(f"record-{here.server.port}", codec.provider_record(record, exists=True))
    node = here.chain.endpoints[0]
    access = ["--key-file", str(key), "--rpc", node.rpc, "--grpc", node.grpc, "--chain-id", "contract"]
    return [sys.executable, "-m", "gpulease", "lease", *access, *words]


async def until(fd: int, words: bytes) -> bytes:
    """What a terminal shows, up to and with ``words``."""
    seen = b""
    async with asyncio.timeout(60):
        while words not in seen:
            seen += await asyncio.to_thread(os.read, fd, 4096)
    return seen


async def test_the_command_line_gives_a_person_a_terminal(tmp_path: Path) -> None:
    async with hosted() as here:
        arguments = await command_line(here, tmp_path, "shell", str(DSEQ), "-s", "web", "--tty", "--", "sh", "-i")
        outer, inner = pty.openpty()
        termios.tcsetwinsize(inner, (30, 100))
        process = await asyncio.create_subprocess_exec(*arguments, stdin=inner, stdout=inner, stderr=inner)
        try:
            command = await next_command(here)
            assert (command.asked["command"], command.asked["tty"], command.asked["stdin"]) == (
                ["sh", "-i"],
                True,
                True,
            )
            assert await asyncio.wait_for(command.heard.get(), 60) == (100, 30)
            command.out(b"$ ")
            await until(outer, b"$ ")
            assert not termios.tcgetattr(inner)[3] & (termios.ECHO | termios.ICANON)
            os.write(outer, b"ls\x03")
            assert await asyncio.wait_for(command.heard.get(), 60) == b"ls\x03"
            termios.tcsetwinsize(inner, (40, 120))
            process.send_signal(28)  # SIGWINCH, which the kernel sends to a session that has this terminal
            assert await asyncio.wait_for(command.heard.get(), 60) == (120, 40)
            command.end(3, "command terminated with non-zero exit code")
            assert await asyncio.wait_for(process.wait(), 60) == 3
            assert termios.tcgetattr(inner)[3] & termios.ECHO
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            os.close(inner)
            os.close(outer)


async def said(arguments: list[str]) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 90)
    return process.returncode or 0, out.decode(), err.decode()


async def test_the_command_line_prints_logs_and_says_what_is_wrong(tmp_path: Path) -> None:
    async with hosted() as here:
        log = here.pod("web-0")
        log.write("hello")
        log.end()
        here.cluster.log_of(NAMESPACE, "web-1").end()
        plain = await command_line(here, tmp_path, "logs", str(DSEQ))
        fine, wrong = await asyncio.gather(said(plain), said([*plain, "-s", "nope"]))
        assert fine == (0, "[web-0] hello\n", "")
        assert (wrong[0], wrong[1], "no running pods" in wrong[2]) == (4, "", True)
