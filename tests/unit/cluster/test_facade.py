"""Commits through the facade, and the watch."""

import asyncio

import pytest
from tests.unit.cluster.logs import Log, T, box, command

from blixard.base.errors import BlixardError
from blixard.base.ids import ulid
from blixard.cluster import machine as machine_module
from blixard.cluster import watch
from blixard.cluster.facade import Cluster


class Raft:
    """Applies at once."""

    def __init__(self, log):
        self.log = log

    async def propose(self, data, *, timeout_s):
        return self.log.feed(data)


class Clock:
    """The part of the environment that the facade uses; its clock stands at T."""

    made = 1000

    def wall_time_ms(self):
        return T

    def new_id(self):
        self.made += 1
        return ulid(T, self.made)


def commit(log, *ops):
    cluster = Cluster(Raft(log), log.machine, Clock())
    return asyncio.run(cluster.commit(ops, actor="me", timeout_s=1))


def test_failed_outcome_names_the_operation():
    with pytest.raises(BlixardError) as caught:
        commit(Log(), box("a", "u1"), box("a", "u2", expect=0))
    assert (caught.value.code, caught.value.details) == ("ALREADY_EXISTS", {"op": "/ops/1"})


def test_writes_go_on_after_a_fast_clock(monkeypatch):
    monkeypatch.setattr(machine_module, "REQUEST_IDS_MAX", 2)
    log = Log()
    for number in range(4):
        log.feed(command(number, box(f"x{number}", f"x{number}"), time_ms=T + 3_600_000))
    assert log.machine.horizon_ms > T
    assert commit(log, box("a", "u1")).code == ""


def test_watch_starts_after_the_revision():
    log = Log()
    first = log.do(box("a", "u1")).revision
    log.do(box("b", "u2"))
    follower = log.machine.subscribe(first, ("Box",), "default")
    log.do(box("b", "", spec={"n": 1}))
    changes = asyncio.run(follower.next())
    assert [(c.type, c.resource.metadata.name) for c in changes] == [
        ("ADDED", "b"),
        ("MODIFIED", "b"),
    ]


def test_slow_follower_is_cut(monkeypatch):
    monkeypatch.setattr(watch, "QUEUE_MAX", 2)
    log = Log()
    follower = log.machine.subscribe(0)
    log.do(box("a", "u1"), box("b", "u2"), box("c", "u3"))
    with pytest.raises(BlixardError, match="waiting to be read"):
        asyncio.run(follower.next())


def test_restored_state_has_no_older_changes():
    log = Log()
    log.machine.restore(log.machine.encode(log.machine.freeze()))
    with pytest.raises(BlixardError) as caught:
        log.machine.subscribe(1)
    assert caught.value.code == "REVISION_COMPACTED"
