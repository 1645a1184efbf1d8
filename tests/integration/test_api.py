"""The real server and client over a local socket and TLS, with what attackers send."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "api"))

from harness import Node, World, app, path

from blixard.api import events, protocol
from blixard.api.client import ApiClient
from blixard.api.server import ApiServer, ServerConfig, bind_local
from blixard.api.standing import SubCall, SubResource
from blixard.base.errors import BlixardError


class Running:
    """A server in a thread of its own."""

    def __init__(self, place: str) -> None:
        self.socket_path = place
        self.ready = threading.Event()
        self.following, self.left = threading.Event(), threading.Event()
        self.loop: Any = None
        self.thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self.thread.start()
        assert self.ready.wait(10)

    async def _main(self) -> None:
        self.loop, self.stopping = asyncio.get_running_loop(), asyncio.Event()
        sub = SubResource(kind="App", name="shout", verb="exec", stream=_shout)
        follow = SubResource(
            kind="App", name="follow", verb="logs", method="GET", stream=self._follow
        )
        self.node = await Node(
            World(), "n1", sub_resources=(sub, follow), now_ms=time.time_ns() // 1_000_000
        ).prepare()
        config = ServerConfig(socket_path=self.socket_path)
        server = ApiServer(self.node.service, config, tls=None, log=lambda *_, **__: None)
        await server.start()
        self.ready.set()
        await self.stopping.wait()
        await server.stop()

    async def _follow(self, _call: SubCall, _stream: Any) -> None:
        self.following.set()
        try:
            await asyncio.Event().wait()  # like a log that says nothing more
        finally:
            self.left.set()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.stopping.set)
        self.thread.join(20)
        assert not self.thread.is_alive()

    def raw(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(10)
        sock.connect(self.socket_path)
        return sock


async def _shout(call: SubCall, stream: Any) -> None:
    while (frame := await stream.receive()) is not None:
        if frame == b"fail":
            raise BlixardError("GUEST_UNREACHABLE", "it is gone")
        await stream.send(frame.upper())


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(protocol, "HEADER_S", 0.3)
    running = Running(str(tmp_path / "api.sock"))
    yield running
    running.stop()


@pytest.fixture
def client(server: Running) -> Iterator[ApiClient]:
    made = ApiClient(server.socket_path)
    yield made
    made.close()


def test_socket_has_mode_0660(server):
    assert stat.S_IMODE(os.stat(server.socket_path).st_mode) == 0o660


def test_socket_of_a_live_daemon_is_not_taken(server):
    with pytest.raises(BlixardError, match="DATA_DIR_IN_USE"):
        bind_local(server.socket_path)


def test_objects_over_a_local_socket(client):
    made = client.apply(path(), app(size=3))
    assert client.get(path()) == made
    assert [i["spec"]["size"] for i in client.list("/v1/apps")] == [3]
    with pytest.raises(BlixardError) as caught:
        client.apply(path(), app(size="x"))
    assert caught.value.problems[0].pointer == "/spec/size"
    client.delete(path())
    with pytest.raises(BlixardError, match="NOT_FOUND"):
        client.get(path())


def test_watch_yields_changes_until_its_time_is_over(client):
    client.apply(path(), app(size=1))
    changes = client.watch("/v1/apps", timeout_s=0.4)
    assert next(changes)["type"] == "added"
    with pytest.raises(BlixardError, match="TIMEOUT"):
        next(changes)


def test_quiet_stream_of_a_client_that_left_ends(server, client):
    client.apply(path(), app())
    sock = server.raw()
    sock.sendall(f"GET {path()}/follow HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    assert sock.recv(4096).startswith(b"HTTP/1.1 200")
    assert server.following.wait(10)
    sock.close()
    assert server.left.wait(10)


def test_watch_of_a_client_that_left_is_forgotten(server, client, monkeypatch):
    monkeypatch.setattr(events, "HEARTBEAT_S", 1000.0)
    changes = client.watch("/v1/apps", query={"revision": "0"})
    client.apply(path(), app())
    next(changes)
    assert len(server.node.machine.changes._subscriptions) == 1
    changes.close()
    for _ in range(100):
        if not server.node.machine.changes._subscriptions:
            return
        time.sleep(0.05)
    pytest.fail("the subscription stays")


def test_frames_both_ways_and_an_error_at_the_end(client):
    client.apply(path(), app())
    stream = client.stream(path() + "/shout")
    stream.send(b"a")
    assert stream.receive() == b"A"
    stream.send(b"b" * 300_000)
    assert stream.receive() == b"B" * 300_000
    stream.send(b"fail")
    with pytest.raises(BlixardError, match="GUEST_UNREACHABLE"):
        stream.receive()
    stream.close()
    with pytest.raises(BlixardError, match="NOT_FOUND"):
        client.stream(path("absent") + "/shout")


def test_frames_end_when_the_client_says_so(client):
    client.apply(path(), app())
    stream = client.stream(path() + "/shout")
    stream.end()
    assert stream.receive() is None
    stream.close()


def test_header_of_five_megabytes_is_refused(server):
    with server.raw() as sock:
        try:
            for _ in range(80):
                sock.sendall(b"GET /v1/version HTTP/1.1\r\nx: " + b"a" * 65536)
        except OSError:
            pass
        answer = _rest(sock)
    assert answer == b"" or b" 431 " in answer.split(b"\r\n")[0]


def test_slow_headers_are_ended(server):
    with server.raw() as sock:
        sock.sendall(b"GET /v1/version HTTP/1.1\r\n")
        assert b" 408 " in _rest(sock)


def test_slow_headers_on_a_kept_connection_are_ended(server):
    with server.raw() as sock:
        sock.sendall(b"GET /v1/version HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b" 200 " in sock.recv(65536)
        sock.sendall(b"GET /v1")
        assert b" 408 " in _rest(sock)


def test_body_over_the_limit_is_refused(client):
    with pytest.raises(BlixardError, match="TOO_LARGE"):
        client.apply(path(), app(color="x" * (1 << 20)))


@pytest.mark.parametrize("off_s", [-3600, 3600])
def test_client_of_a_wrong_clock_writes(client, monkeypatch, off_s):
    right_ns = time.time_ns
    monkeypatch.setattr("blixard.api.client.time.time_ns", lambda: right_ns() + off_s * 10**9)
    assert client.apply(path(), app())["metadata"]["name"] == "web"
    with pytest.raises(BlixardError) as refused:
        client.request("PUT", path(), body=app(), headers={"Idempotency-Key": "0" * 26})
    assert refused.value.code in {"REQUEST_ID_INVALID", "REQUEST_ID_EXPIRED"}


def test_kept_connection_that_died_is_replaced(client):
    client.apply(path(), app())
    client._idle.sock.shutdown(socket.SHUT_RDWR)
    assert client.get(path())["spec"] == {}


def test_absent_daemon_is_unreachable(tmp_path):
    begun = time.monotonic()
    with pytest.raises(BlixardError, match="UNREACHABLE"):
        ApiClient(str(tmp_path / "none.sock")).get("/v1/version")
    assert time.monotonic() - begun < 10


def _rest(sock: socket.socket) -> bytes:
    data = b""
    try:
        while piece := sock.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data
