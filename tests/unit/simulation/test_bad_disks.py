"""What consensus does on disks that fail, rot, or hold what another node wrote."""

import random

import pytest

from blixard.base.errors import BlixardError
from blixard.consensus import recovery
from blixard.consensus.config import Member, RaftConfig
from blixard.consensus.log import GROUP, Log
from blixard.consensus.room import Room
from blixard.simulation.damage import Trouble
from tests.unit.simulation.test_disk import Bench

IDENTITY = recovery.Identity("c", Member(1, "one", "10.0.0.1:7000"))
FIRST = "log/000000000001.log"


class Env:
    """As much of an environment as recovery needs."""

    def __init__(self, disk):
        self.disk = disk
        self.random = random.Random(1)

    def log(self, *_line, **_fields):
        """Say nothing."""


class Store(Bench):
    def __init__(self, seed=1):
        super().__init__(seed)
        self.disk.mkdir("log")
        self.wait(self.disk.sync_dir(""))

    def log(self):
        return Log(self.disk, "log", segment_bytes=1 << 20, record_bytes=1 << 16)

    def payloads(self):
        found = self.wait(self.log().open())
        return [record.payload for record in found.records if record.kind == GROUP]

    def recover(self, uid="one"):
        return self.wait(recovery.recover(Env(self.disk), "raft", RaftConfig(), uid))


def with_state(seed=1):
    bench = Store(seed)
    first = recovery.genesis(IDENTITY)
    bench.wait(recovery.write_first_state(Env(bench.disk), "raft", IDENTITY, first=first))
    return bench


@pytest.mark.parametrize("seed", range(8))
def test_name_of_a_segment_is_durable_after_the_daemon_was_killed(seed):
    bench = Store(seed)
    bench.wait(bench.log().start_segment(b"state"))
    content = bench.read(FIRST)
    bench.disk.unlink(FIRST)
    bench.wait(bench.disk.sync_dir("log"))
    file = bench.disk.open(FIRST, create=True)  # as if killed before the directory was synced
    file.pwrite(0, content)
    bench.wait(file.sync())
    log = bench.log()
    bench.wait(log.open())
    log.write(b"acknowledged", 1)
    bench.wait(log.sync())
    bench.image.crash()
    assert bench.payloads() == [b"acknowledged"]


@pytest.mark.parametrize("seed", range(8))
def test_record_whose_sync_failed_is_written_anew_by_the_next_start(seed):
    bench = Store(seed)
    log = bench.log()
    bench.wait(log.start_segment(b"state"))
    log.write(b"in the cache alone", 1)
    bench.image.trouble = Trouble(sync_error=1.0)
    with pytest.raises(BlixardError, match="DISK_FAILED"):
        bench.wait(log.sync())
    bench.image.heal()
    assert bench.payloads() == [b"in the cache alone"]
    bench.image.crash()
    assert bench.payloads() == [b"in the cache alone"]


def test_state_of_another_node_is_refused():
    bench = with_state()
    assert bench.recover().identity == IDENTITY
    with pytest.raises(BlixardError, match="node one, this is node two"):
        bench.recover("two")


def test_every_rotten_bit_of_the_identity_is_noticed():
    bench = with_state()
    node = bench.image.find("raft/identity")
    for place in range(len(node.current)):
        node.current[place] ^= 1 << place % 8
        with pytest.raises(BlixardError, match="LOG_CORRUPT"):
            bench.recover()
        node.current[place] ^= 1 << place % 8


def test_disk_that_cannot_be_read_has_a_code():
    bench = with_state()
    bench.image.trouble = Trouble(read_error=1.0)
    with pytest.raises(BlixardError, match="DISK_FAILED"):
        bench.recover()


def test_first_state_that_a_crash_cut_short_does_not_count():
    bench = Store()
    bench.disk.mkdir("raft")
    assert not recovery.has_state(bench.disk, "raft")
    assert recovery.has_state(with_state().disk, "raft")


@pytest.mark.parametrize("seed", range(8))
def test_first_state_whose_last_syncs_failed_is_durable_after_the_next_start(seed):
    bench = Store(seed)

    def fails_from_now(what, path):
        if (what, path) == ("renamed", "raft/identity"):
            bench.image.trouble = Trouble(sync_error=1.0)

    bench.image.tap = fails_from_now
    first = recovery.genesis(IDENTITY)
    with pytest.raises(BlixardError, match="DISK_FAILED"):
        bench.wait(recovery.write_first_state(Env(bench.disk), "raft", IDENTITY, first=first))
    bench.image.tap = None
    bench.image.heal()
    bench.recover()
    bench.image.crash()
    assert bench.recover().identity == IDENTITY


def test_misdirected_write_is_found_at_the_next_start():
    bench = Store()
    log = bench.log()
    bench.wait(log.start_segment(b"state"))
    for index in range(1, 4):
        if index == 2:
            bench.image.trouble = Trouble(misdirect=True)
        log.write(bytes(5_000), index)
        bench.wait(log.sync())
    assert len(bench.payloads()) == 3
    bench.image.crash()
    with pytest.raises(BlixardError, match="LOG_CORRUPT"):
        bench.payloads()


def test_disk_that_takes_no_new_file_refuses_writes_and_no_start():
    bench = Store()
    bench.disk.mkdir("raft")
    room = Room(Env(bench.disk), "raft", RaftConfig(min_free_bytes=0))
    bench.image.full = True
    room.start()
    assert room.full
    bench.image.full = False
    room.tick()
    assert room.full  # it looks again now and then
    room.start()
    assert not room.full
