"""Whom a node asks for the leader, and how long it waits for each."""

import asyncio

import pytest

from blixard.base.errors import BlixardError
from blixard.node import messages as m
from blixard.node.leadership import TRIED_MAX, Leadership

HANGS = "hangs"


class Nodes:
    """Environment and transport at once: each node hangs, leads, or names another leader."""

    def __init__(self, **nodes):
        self.nodes, self.asked, self.transport = nodes, [], self
        self.leadership = Leadership(self, "own", lambda: "", {})
        self.leadership.peers = tuple(
            m.Peer(uid=uid, name=uid, address="", raft_id=number, epoch=1, voter=True)
            for number, uid in enumerate(nodes, 1)
        )

    def spawn(self, coroutine, *, name):
        return asyncio.get_running_loop().create_task(coroutine, name=name)

    async def request(self, uid, _method, _payload, *, timeout_s):
        self.asked.append(uid)
        says = self.nodes[uid]
        if says == HANGS:
            await asyncio.sleep(timeout_s)
            raise BlixardError("TIMEOUT", uid)
        if says is None:
            return uid.encode()
        raise BlixardError(says[0], uid, details={"leader": says[1]})

    async def ask(self, **more):
        return await self.leadership.ask("question", b"", **{"timeout_s": 60, **more})


def elsewhere(leader=""):
    return ("NOT_LEADER", leader)


def test_leader_is_found_by_what_others_say_and_is_asked_first_from_then_on():
    nodes = Nodes(a=elsewhere("c"), b=HANGS, c=None)

    async def twice():
        return [await nodes.ask(), await nodes.ask()]

    assert asyncio.run(twice()) == [b"c", b"c"]
    assert nodes.asked == ["a", "c", "c"]


def test_nodes_that_do_not_answer_keep_nobody_from_asking_the_next():
    nodes = Nodes(a=HANGS, b=HANGS, c=elsewhere(), d=None)
    assert asyncio.run(nodes.ask(patience_s=0.001)) == b"d"
    assert nodes.asked == ["a", "b", "c", "d"]


def test_without_patience_given_one_is_asked_at_a_time():
    nodes = Nodes(a=HANGS, b=None)
    assert asyncio.run(nodes.ask(timeout_s=0.001)) == b"b"


def test_who_waits_for_a_node_asks_elsewhere_once_another_one_leads():
    nodes = Nodes(a=HANGS, b=None)

    async def both():
        waits = asyncio.create_task(nodes.ask())
        await asyncio.sleep(0)
        return await nodes.ask(patience_s=0.001), await waits

    assert asyncio.run(both()) == (b"b", b"b")


def test_answer_of_the_leader_itself_ends_the_search():
    nodes = Nodes(a=("NODE_REMOVED", ""), b=None)
    with pytest.raises(BlixardError, match="NODE_REMOVED"):
        asyncio.run(nodes.ask())
    assert nodes.asked == ["a"]


def test_number_of_nodes_asked_is_bounded():
    nodes = Nodes(**{f"n{number:02}": elsewhere() for number in range(20)})
    with pytest.raises(BlixardError, match="NOT_LEADER"):
        asyncio.run(nodes.ask())
    assert len(nodes.asked) == TRIED_MAX


def test_nothing_goes_on_after_the_answer():
    nodes = Nodes(a=HANGS, b=HANGS, c=None)

    async def left():
        await nodes.ask(patience_s=0.001)
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    assert asyncio.run(left()) == 1
