"""Messages, requests and streams between simulated processes."""

import asyncio

import pytest

from blixard.base.errors import BlixardError
from blixard.simulation.network import LinkFaults
from blixard.simulation.oracles import Oracles
from blixard.simulation.world import World


class Pair:
    def __init__(self, seed=1):
        self.world = World(seed, 2, mode="fifo", observer=Oracles())
        for host in self.world.hosts:
            host.boot()
            host.start_daemon()
        self.near, self.far = (host.daemon.env.transport for host in self.world.hosts)
        self.near.set_peer("node-2", "x:1")
        self.got = []
        self.far.on_message("m", lambda _uid, payload: self.got.append(payload))

    def send(self, count):
        for number in range(count):
            self.near.send("node-2", "m", bytes([number]))
        self.run(5)

    def run(self, seconds):
        self.world.loop.run_until(self.world.loop.now_ns + int(seconds * 1e9))

    def ask(self, coroutine):
        task = self.world.hosts[0].daemon.process.spawn(coroutine, name="ask")
        self.world.loop.run_until(self.world.loop.now_ns + 10**11, task)
        return task.result()


def test_calm_network_keeps_order():
    pair = Pair()
    pair.send(50)
    assert pair.got == [bytes([n]) for n in range(50)]


def test_unknown_peer_is_refused_at_once():
    assert not Pair().near.send("nobody", "m", b"")


def test_loss_duplicates_and_reordering_happen():
    pair = Pair()
    pair.world.network.faults = LinkFaults(loss=0.3, duplicate=0.3, reorder=0.3)
    pair.send(100)
    assert len(set(pair.got)) < 100
    assert len(pair.got) > len(set(pair.got))
    assert pair.got != sorted(pair.got)


def test_one_way_cut_leaves_the_other_way():
    pair = Pair()
    pair.world.network.block("node-2", "node-1")
    pair.send(3)
    assert len(pair.got) == 3
    assert pair.world.network.is_blocked("node-2", "node-1")


def test_clog_holds_back_then_delivers():
    pair = Pair()
    pair.world.network.clog("node-1", "node-2", pair.world.loop.now_ns + 2 * 10**9)
    pair.near.send("node-2", "m", b"x")
    pair.run(1)
    assert pair.got == []
    pair.run(2)
    assert pair.got == [b"x"]


def test_message_to_an_older_incarnation_is_dropped():
    pair = Pair()
    pair.near.send("node-2", "m", b"x")
    host = pair.world.hosts[1]
    host.kill_daemon()
    host.start_daemon().env.transport.on_message("m", lambda _u, p: pair.got.append(p))
    pair.run(5)
    assert pair.got == []


def test_request_returns_the_answer_or_the_error():
    pair = Pair()

    async def serve(uid, payload):
        if payload == b"bad":
            raise BlixardError("CONFLICT", "no")
        return uid.encode() + payload

    pair.far.on_request("r", serve)
    assert pair.ask(pair.near.request("node-2", "r", b"!", timeout_s=1)) == b"node-1!"
    with pytest.raises(BlixardError, match="CONFLICT"):
        pair.ask(pair.near.request("node-2", "r", b"bad", timeout_s=1))


def test_request_over_a_cut_times_out():
    pair = Pair()
    pair.world.network.block("node-1", "node-2")
    with pytest.raises(BlixardError, match="TIMEOUT"):
        pair.ask(pair.near.request("node-2", "r", b"", timeout_s=1))


def test_stream_carries_frames_both_ways_and_ends():
    pair = Pair()

    async def echo(_uid, payload, stream):
        await stream.send(payload)
        while (frame := await stream.receive()) is not None:
            await stream.send(frame * 2)
            if frame == b"end":
                return

    pair.far.on_stream("s", echo)

    async def talk():
        stream = await pair.near.open_stream("node-2", "s", b"hello")
        await stream.send(b"a")
        await stream.send(b"end")
        frames = []
        while (frame := await stream.receive()) is not None:
            frames.append(frame)
        return frames

    assert pair.ask(talk()) == [b"hello", b"aa", b"endend"]


def test_paused_host_answers_after_it_goes_on():
    pair = Pair()
    pair.world.hosts[1].pause_daemon()
    pair.send(2)
    assert pair.got == []
    pair.world.hosts[1].resume_daemon()
    pair.run(1)
    assert len(pair.got) == 2


def test_crash_forgets_tasks_of_the_host():
    pair = Pair()
    seen = []

    async def work():
        try:
            await asyncio.sleep(1)
        finally:
            seen.append(1)

    pair.world.hosts[0].daemon.env.spawn(work(), name="work")
    pair.run(0.5)
    pair.world.hosts[0].crash()
    pair.run(5)
    assert seen == []
    pair.world.close()
