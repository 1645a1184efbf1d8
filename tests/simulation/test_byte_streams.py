"""What we speak over byte streams, unmodified, over streams that are cut, slow, late and silent."""

import asyncio
import json
import random
import types

import msgspec
import pytest
from tests.simulation.mutants import patched
from tests.unit.hypervisors.streams import MemoryStream

from blixard.api import client as api
from blixard.api.events import HEARTBEAT, sse_event
from blixard.api.http1 import Connection
from blixard.base.errors import BlixardError
from blixard.guest import protocol as guest
from blixard.hypervisors.guard.client import GuardClient
from blixard.hypervisors.guard.door import Door
from blixard.hypervisors.qemu.agent import AgentLink
from blixard.hypervisors.qemu.qmp import QmpClient, QmpCodec
from blixard.simulation.bytestreams import ByteStream, SimStreamTransport, connect_with, draw_faults
from blixard.simulation.loop import SimLoop

pytestmark = pytest.mark.simulation

SEEDS = range(1, 16)
CALLS = 12
BAD = 3  # connections
REFUSED = ("HYPERVISOR_UNAVAILABLE", "GUEST_UNREACHABLE")


class World:
    """A loop, and connections that behave as the seed says: the last ones well."""

    def __init__(self, seed, serve, *, ends=True, bad=BAD, silent_ms=60_000):
        self.draw = random.Random(seed)
        self.loop = SimLoop(order=random.Random(seed))
        self.streams = []
        self.loop.create_unix_connection = connect_with(self.loop, self._connect)
        self._serve, self._bad, self._ends, self._silent_ms = serve, bad, ends, silent_ms

    def _connect(self, _path):
        ends = self._ends and len(self.streams) < self._bad
        faults = draw_faults(self.draw, ends=ends, silent_ms=self._silent_ms)
        stream = ByteStream(self.loop, self.draw, faults)
        self.streams.append(stream)
        self._serve(self.loop, stream.ends[1])
        return stream.ends[0]

    def run(self, coroutine):
        result = self.loop.run_until_complete(coroutine)
        assert self.loop.errors == []
        return result


class Answering(asyncio.Protocol):
    """A peer that answers each message of *codec* with what *answer* makes of it."""

    def __init__(self, codec, answer, greeting=b""):
        self.codec, self.answer, self.greeting = codec, answer, greeting

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.greeting)

    def data_received(self, data):
        for message in self.codec.feed(data):
            for reply in self.answer(message):
                self.transport.write(reply)


async def ask_often(draw, ask, *, close):
    """Each call is answered or refused in time; once no connection is bad any more, answered."""
    loop = asyncio.get_running_loop()
    for number in range(CALLS + BAD + 1):
        if number >= CALLS:
            await asyncio.sleep(100)  # who was silent goes on
        began_s = loop.time()
        asks = (ask(10 * number + n) for n in range(draw.randint(1, 3)))
        errors = [e for e in await asyncio.gather(*asks, return_exceptions=True) if e]
        assert all(isinstance(e, BlixardError) and e.code in REFUSED for e in errors), errors
        assert loop.time() - began_s < 35
        if number >= CALLS and not errors:
            break
    await close()
    return errors


# the guard


class Selector:
    """Calls the door back when an end is ready."""

    def register(self, connection, _events, callback):
        if hasattr(connection, "on_ready"):
            connection.on_ready = lambda: callback(connection)

    def modify(self, *_as_registered):
        """An end tells of all that happens to it."""

    def unregister(self, connection):
        connection.on_ready = lambda: None


def guard_door(tmp_path, handle):
    """Return what serves the guard's protocol with the guard's own door."""
    door = Door(Selector(), str(tmp_path / "guard"), handle)
    door._listener.close()

    def serve(_loop, end):
        door._listener = types.SimpleNamespace(accept=lambda: (end, None))
        door._accept(None)

    return door, serve


@pytest.mark.parametrize("seed", SEEDS)
def test_guard_is_asked_over_any_stream(seed, tmp_path):
    heard = []

    def handle(request):
        heard.append(request["number"])
        return {"twice": 2 * request["number"], "text": "x" * request["number"]}

    door, serve = guard_door(tmp_path, handle)
    world = World(seed, serve)
    told = []

    async def talk():
        client = GuardClient("dir", "node")
        client.on_exit = told.append

        async def ask(number):
            answer = await client.call("op", number=number)
            assert answer["twice"] == 2 * number
            assert len(answer["text"]) == number
            door.tell_all({"event": "exit", "number": number})

        return await ask_often(world.draw, ask, close=client.close)

    assert world.run(talk()) == []
    assert all(message.keys() == {"event", "number"} for message in told)
    assert all(isinstance(number, int) for number in heard)


# QMP


@pytest.mark.parametrize("seed", SEEDS)
def test_monitor_is_asked_over_any_stream(seed):
    def answer(message):
        if world.draw.random() < 0.3:
            yield b'{"event": "STOP", "timestamp": {}}\r\n'
        if world.draw.random() < 0.3:
            yield b'{"return": {}, "id": [1]}\r\n'  # QEMU may be in the hands of its guest
        result = {"return": message.get("arguments", {}), "id": message["id"]}
        yield json.dumps(result).encode() + b"\r\n"

    def serve(loop, end):
        greeting = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'
        SimStreamTransport(end, loop, Answering(QmpCodec(), answer, greeting))

    world = World(seed, serve)
    events = []

    async def talk():
        clients, lock = [QmpClient("monitor", events.append)], asyncio.Lock()

        async def ask(number):
            if not clients[-1].connected:
                clients.append(QmpClient("monitor", events.append))
                try:
                    await clients[-1].connect()
                except BlixardError:
                    await clients.pop().close()
                    raise
            assert await clients[-1].execute("op", number=number) == {"number": number}

        async def one_at_a_time(number):
            async with lock:
                await ask(number)

        async def close():
            for client in clients:
                await client.close()

        return await ask_often(random.Random(0), one_at_a_time, close=close)

    assert world.run(talk()) == []
    assert all(event["event"] == "STOP" for event in events)


def test_codec_that_forgets_half_a_line_is_noticed():
    feed = QmpCodec.feed

    def forgetful(codec, data):
        found = feed(codec, data)
        codec._buffer = b""
        return found

    def all_seeds():
        for seed in SEEDS:
            test_monitor_is_asked_over_any_stream(seed)

    with patched(QmpCodec, "feed", forgetful), pytest.raises(AssertionError):
        all_seeds()


# the agent in a guest


def agent_end(loop, end):
    """Serve as the agent does: hello, status, and an exec that gives back its input."""

    def answer(message):
        kind, stream, payload = message
        if kind == guest.HELLO:
            yield guest.frame(guest.HELLO, stream, b'{"version": 1}')
        elif kind == guest.STATUS:
            yield guest.frame(guest.STATUS, stream, b'{"ready": true}')
        elif kind == guest.STDIN and payload:
            yield guest.frame(guest.STDOUT, stream, payload)
            cost = str(guest.HEADER.size + len(payload)).encode()
            yield guest.frame(guest.WINDOW, stream, cost)
        elif kind == guest.STDIN:
            yield guest.frame(guest.EXIT, stream, b"7")

    SimStreamTransport(end, loop, Answering(guest.Decoder(), answer))


@pytest.mark.parametrize("seed", SEEDS)
def test_agent_is_asked_over_any_stream(seed):
    world = World(seed, agent_end)

    async def talk():
        link = AgentLink("agent")

        async def ask(_number):
            assert (await link.status()).ready

        return await ask_often(world.draw, ask, close=link.close)

    assert world.run(talk()) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_exec_passes_its_input_or_says_that_it_was_lost(seed):
    world = World(seed, agent_end, ends=seed % 2 == 1, bad=1)
    said = world.draw.randbytes(world.draw.choice((0, 10, 3_000, 600_000 if seed < 5 else 9_000)))

    async def talk():
        link, stream, codes = AgentLink("agent"), MemoryStream(), []
        for start in range(0, len(said), 40_000):
            stream.said.put_nowait(b"\0" + said[start : start + 40_000])
        stream.said.put_nowait(None)
        try:
            async with asyncio.timeout(3_000):
                await link.exec(["cat"], tty=False, stream=stream)
        except BlixardError as error:
            codes.append(error.code)
        except TimeoutError:
            codes.append("GUEST_UNREACHABLE")  # it was silent, and nobody bounds an exec
        await link.close()
        return stream, codes

    stream, codes = world.run(talk())
    assert codes in ([], ["GUEST_UNREACHABLE"])
    output = stream.of(1)
    assert said.startswith(output)
    if stream.of(3):
        assert (output, stream.of(3)) == (said, b"7")
    if seed % 2 == 0:
        assert stream.of(3)


# server-sent events


class Socket:
    """A blocking socket over one end."""

    def __init__(self, loop, end):
        self.loop, self.end, self.wait_s = loop, end, 60.0

    def settimeout(self, seconds):
        self.wait_s = seconds

    def sendall(self, data):
        while data:
            data = data[self._soon(self.end.send, data) :]

    def recv(self, size):
        return self._soon(self.end.recv, size)

    def _soon(self, do, given):
        until_ns = self.loop.now_ns + int(self.wait_s * 1e9)
        while True:
            try:
                return do(given)
            except BlockingIOError:
                if self.loop.now_ns >= until_ns:
                    raise TimeoutError from None
                self.loop.run_until(min(until_ns, self.loop.now_ns + 1_000_000))

    def close(self):
        self.end.close()


class Outside(api.Outside):
    """Connects to a stream on which the answer to a watch comes."""

    def __init__(self, world, answer):
        super().__init__(api.Credentials())
        self.world, self.answer = world, answer

    def monotonic(self):
        return self.world.loop.now_ns / 1e9

    def connect(self, _address):
        end = self.world._connect("")
        server = self.world.streams[-1].ends[1]
        SimStreamTransport(server, self.world.loop, asyncio.Protocol()).write(self.answer)
        return Connection(Socket(self.world.loop, end))


def follow(client, found):
    """Follow a watch to its end, which is an error."""
    for change in client.watch("/v1/vms", timeout_s=3_000):
        found.append(change)


@pytest.mark.parametrize("seed", SEEDS)
def test_watch_tells_whole_changes_in_order_or_that_it_was_lost(seed):
    world = World(seed, lambda _loop, _end: None, ends=seed % 2 == 1, silent_ms=10**9)
    changes = [{"type": "updated", "object": {"text": "ü\n\n" * n}} for n in range(12)]
    body = b"".join(
        sse_event("updated", msgspec.json.encode(change).decode(), event_id=str(n))
        + (HEARTBEAT if world.draw.random() < 0.3 else b"")
        for n, change in enumerate(changes)
    )
    answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    while body:
        size = world.draw.randint(1, 90)
        answer += b"%x\r\n%b\r\n" % (len(body[:size]), body[:size])
        body = body[size:]
    outside = Outside(world, answer + b"0\r\n\r\n")
    client = api.ApiClient(api.Address(path="api"), outside=outside)
    found = []
    with pytest.raises(BlixardError) as ended:
        follow(client, found)
    assert ended.value.code in ("UNREACHABLE", "TIMEOUT")
    assert found == changes[: len(found)]
    assert len(found) == len(changes) or seed % 2 == 1
