"""A simulated guest that moves has the same in mind on both hosts; one that moves not costs nothing."""

import asyncio

import msgspec
import pytest

from blixard.base.errors import BlixardError
from blixard.simulation import guest_state

from .test_guests import PLAN, Machine


class Moves(Machine):
    def __init__(self):
        super().__init__()
        self.source, self.target = self.world.hosts
        self.seen = []
        self.oracles.paused = lambda host, plan, state: self.seen.append((host, plan.run, state))
        self.oracles.arrived = lambda host, plan, state: self.seen.append((host, plan.run, state))
        for one, other in ((self.source, self.target), (self.target, self.source)):
            one.daemon.env.transport.set_peer(other.uid, other.address)
        self.start(self.source)
        self.run(5)

    def move(self, switch, *, live=True):
        waiting = msgspec.structs.replace(PLAN, run=2, incoming=True)
        hypervisor = self.target.daemon.hypervisor
        self.do(self.target, hypervisor.start_paused(waiting))

        async def receive(_uid, _payload, stream):
            await hypervisor.receive_state("i", stream)

        self.target.daemon.env.transport.on_stream("move", receive)

        async def send():
            stream = await self.source.daemon.env.transport.open_stream(
                self.target.uid, "move", b""
            )
            try:
                return await self.source.daemon.hypervisor.send_state(
                    "i", stream, live=live, switch=switch
                )
            finally:
                await stream.close()

        return self.do(self.source, send())


async def allowed():
    await asyncio.sleep(0.3)


@pytest.mark.parametrize("live", [True, False])
def test_memory_cpu_and_connections_arrive(live):
    moves = Moves()
    figures = moves.move(allowed, live=live)
    moves.do(moves.target, moves.target.daemon.hypervisor.resume("i"))
    (_, _, before), (host, run, after) = moves.seen
    assert (host, run) == (2, 2)
    assert before == after
    assert before.ran_ns > 5_000_000_000
    assert figures.downtime_ms >= 300
    assert figures.bytes_sent > 64 * 4
    moves.run(2)
    assert moves.target.guests.ready("i")
    assert moves.target.guests.look("i").cpu != after.cpu


def test_a_cut_before_the_switch_leaves_it_running():
    moves = Moves()
    moves.world.network.block(moves.source.uid, moves.target.uid)
    with pytest.raises(BlixardError):
        moves.move(allowed)
    assert [p.instance_uid for p in moves.source.guests.running()] == ["i"]
    assert not moves.seen


def test_a_refused_switch_leaves_it_paused_and_the_other_without_a_state():
    moves = Moves()

    async def refused():
        raise BlixardError("CONFLICT", "no")

    with pytest.raises(BlixardError, match="CONFLICT"):
        moves.move(refused)
    assert moves.source.guests.get("i").state == "paused"
    with pytest.raises(BlixardError, match="waits for a state"):
        moves.do(moves.target, moves.target.daemon.hypervisor.resume("i"))


def test_the_state_is_a_function_of_birth_and_time_run():
    one = guest_state.state_at(PLAN, 7, 10**9, 0)
    assert one == guest_state.state_at(PLAN, 7, 10**9, 0)
    later, other = (
        guest_state.state_at(PLAN, 7, 2 * 10**9, 0),
        guest_state.state_at(PLAN, 8, 10**9, 0),
    )
    for change in (later, other):
        assert change.pages != one.pages
        assert change.cpu != one.cpu
        assert change.connections != one.connections
    unchanged = [n for n in one.pages if one.pages[n] == later.pages[n]]
    assert 0 < len(unchanged) < guest_state.PAGES
