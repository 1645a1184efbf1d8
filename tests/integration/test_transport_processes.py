"""A peer in another process: killed, and stopped without its connection closing."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import msgspec
import pytest
from transport_nodes import AUTHORITY, Node, run, until

from blixard.base.errors import BlixardError
from blixard.runtime.transport import TransportConfig

PEER = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from transport_nodes import AUTHORITY, Node, echo
from blixard.security.tls import TlsIdentity
import msgspec

async def main():
    identity = TlsIdentity(**msgspec.json.decode(sys.stdin.readline(), type=dict[str, bytes]))
    node = Node("B", identity)
    node.transport.on_request("echo", echo)
    await node.start()
    print(node.port, flush=True)
    await asyncio.sleep(120)

asyncio.run(main())
"""


class Peer:
    """Node B in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


async def start_peer() -> Peer:
    here = str(Path(__file__).parent)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PEER,
        here,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    identity = AUTHORITY.node("B")
    pems = {name: getattr(identity, name) for name in ("chain_pem", "key_pem", "roots_pem")}
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(msgspec.json.encode(pems) + b"\n")
    return Peer(process, int(await process.stdout.readline()))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_dead_peer_is_noticed_without_deadline(how: signal.Signals) -> None:
    async def test() -> None:
        peer = await start_peer()
        a = await Node("A").start()
        a.transport.set_peer("B", f"127.0.0.1:{peer.port}")
        try:
            assert await a.transport.request("B", "echo", b"x", timeout_s=10) == b"A:x"
            a.transport.send("B", "raft", b"x")
            await until(lambda: a.transport.statistics()[0].connected)
            os.kill(peer.process.pid, how)
            await until(lambda: not a.transport.statistics()[0].connected)
            with pytest.raises(BlixardError) as caught:
                await a.transport.request("B", "echo", b"x", timeout_s=40)
            assert caught.value.code == "UNREACHABLE"
        finally:
            await peer.end()
            await a.stop()

    run(test)


def test_stopped_peer_is_used_again_after_it_continues() -> None:
    async def test() -> None:
        peer = await start_peer()
        a = await Node("A").start()
        a.transport.set_peer("B", f"127.0.0.1:{peer.port}")
        try:
            a.transport.send("B", "raft", b"x")
            await until(lambda: a.transport.statistics()[0].connected)
            os.kill(peer.process.pid, signal.SIGSTOP)
            await until(lambda: not a.transport.statistics()[0].connected)
            os.kill(peer.process.pid, signal.SIGCONT)
            async with asyncio.timeout(20):
                while not a.transport.statistics()[0].connected:
                    a.transport.send("B", "raft", b"x")
                    await asyncio.sleep(0.02)
            assert await a.transport.request("B", "echo", b"x", timeout_s=10) == b"A:x"
        finally:
            await peer.end()
            await a.stop()

    run(test)


def test_link_survives_a_channel_drained_in_mid_write() -> None:
    async def test() -> None:
        peer = await start_peer()
        patient = TransportConfig(drain_s=0.05, keepalive_timeout_s=30, backoff_max_s=0.2)
        a = await Node("A", config=patient).start()
        a.transport.set_peer("B", f"127.0.0.1:{peer.port}")
        try:
            a.transport.send("B", "raft", b"x")
            await until(lambda: a.transport.statistics()[0].connected)
            os.kill(peer.process.pid, signal.SIGSTOP)
            while a.transport.send("B", "raft", b"x" * 1_000_000):
                await asyncio.sleep(0)
            a.tls.reload(AUTHORITY.node("A", epoch=2))
            with pytest.raises(BlixardError):
                await a.transport.request("B", "echo", b"x", timeout_s=0.5)
            os.kill(peer.process.pid, signal.SIGCONT)
            async with asyncio.timeout(20):
                while not a.transport.statistics()[0].connected:
                    a.transport.send("B", "raft", b"x")
                    await asyncio.sleep(0.02)
        finally:
            await peer.end()
            await a.stop()

    run(test)
