"""Each oracle objects to what it is there for, and to nothing else."""

import random
import struct
from types import SimpleNamespace
from zlib import crc32

import pytest

from blixard.consensus.log import GROUP, HEAD, encode_record
from blixard.simulation.disk_image import DiskImage
from blixard.simulation.durable import DurableLog
from blixard.simulation.inodes import DirectoryNode, FileNode
from blixard.simulation.observed import Watch
from blixard.simulation.oracles import Oracles
from blixard.simulation.votes import votes_in


def leader(term, last_index=100):
    return SimpleNamespace(role="leader", term=term, last_index=last_index)


def entry(term, index, data):
    """One entry as the engine writes it: term, index, data."""
    body = bytes([0x10, term, 0x18, index, 0x22, len(data)]) + data
    return len(body).to_bytes(4, "little") + body


def group(term=1, vote=0, entries=()):
    """One group: hard state and entries of (term, index, data)."""
    body = b"".join(entry(*each) for each in entries)
    return struct.pack("<BQQQI", 1, term, vote, 0, len(entries)) + body


class Disk:
    """A disk image whose durable log is written record by record."""

    def __init__(self, *groups):
        self.image = DiskImage(random.Random(0))
        raft, self.log, self.snap = DirectoryNode(), DirectoryNode(), DirectoryNode()
        self.image.root.durable["raft"] = raft
        raft.durable |= {"log": self.log, "snap": self.snap}
        self.segment = FileNode()
        self.log.durable["000000000001.log"] = self.segment
        self.add(HEAD, b"")
        for each in groups:
            self.add(GROUP, each)

    def add(self, kind, payload):
        self.segment.durable += encode_record(0, kind, 0, payload)[0]


def on_disks(oracles, *disks):
    """Give the oracles hosts with these disks, all of them voters."""
    logs = {host: DurableLog(disk.image) for host, disk in enumerate(disks, 1)}
    oracles.disk_of = logs.get
    oracles.members_at(1, 1, "conf", tuple(range(1, len(disks) + 1)))


@pytest.fixture
def oracles():
    return Oracles()


def test_two_leaders_of_one_term(oracles):
    oracles.role_changed(1, leader(3))
    oracles.role_changed(1, leader(3))
    assert oracles.violations == []
    oracles.role_changed(2, leader(3))
    assert "election safety" in oracles.violations[0]


def test_leader_without_a_committed_entry(oracles):
    oracles.applied(1, 50, 2, b"x", b"h")
    oracles.role_changed(2, leader(3, last_index=49))
    assert "leader completeness" in oracles.violations[0]


@pytest.mark.parametrize(
    ("second", "name"),
    [
        ((2, 7, 2, b"y", b"h"), "log matching"),
        ((2, 7, 1, b"x", b"h"), "log matching"),
        ((2, 7, 2, b"x", b"other"), "state hash"),
        ((1, 6, 2, b"z", b"i"), "apply order"),
    ],
)
def test_entries_that_differ(oracles, second, name):
    oracles.applied(1, 7, 2, b"x", b"h")
    oracles.applied(*second)
    assert name in oracles.violations[0]


def test_restarted_node_may_apply_again(oracles):
    oracles.applied(1, 7, 2, b"x", b"h")
    oracles.restarted(1)
    oracles.applied(1, 7, 2, b"x", b"h")
    assert oracles.violations == []


def test_what_is_applied_is_durable_on_a_majority(oracles):
    has, has_not = group(entries=[(2, 5, b"x")]), group(entries=[(1, 5, b"x")])
    on_disks(oracles, Disk(has), Disk(has), Disk(has_not))
    oracles.applied(1, 5, 2, b"x", b"h")
    assert oracles.violations == []


@pytest.mark.parametrize(
    "other", [group(), group(entries=[(1, 5, b"x")]), group(entries=[(2, 5, b"y")])]
)
def test_an_entry_missing_or_different_on_a_majority(oracles, other):
    on_disks(oracles, Disk(group(entries=[(2, 5, b"x")])), Disk(other), Disk(other))
    oracles.applied(1, 5, 2, b"x", b"h")
    assert "durability" in oracles.violations[0]


def test_a_durable_snapshot_holds_the_entries_before_it(oracles):
    disks = [Disk(group(entries=[(2, 5, b"x")])), Disk(), Disk()]
    disks[1].snap.durable[f"{9:016x}-{2:016x}.snap"] = FileNode()
    on_disks(oracles, *disks)
    oracles.applied(1, 5, 2, b"x", b"h")
    assert oracles.violations == []


def test_an_acknowledged_write_that_left_the_disks(oracles):
    disks = [Disk(group(entries=[(2, 5, b"x")])) for _ in range(3)]
    on_disks(oracles, *disks)
    oracles.applied(1, 5, 2, b"x", b"h")
    for host, disk in enumerate(disks[:2], 1):
        disk.add(GROUP, group(entries=[(3, 5, b"z")]))
        oracles.disk_of(host).refresh()
    oracles.acknowledged(5)
    assert "durability" in oracles.violations[0]


def test_a_log_read_piece_by_piece_and_after_a_torn_tail():
    disk = Disk(group(entries=[(1, 1, b"a"), (1, 2, b"b")]))
    log = DurableLog(disk.image)
    log.refresh()
    assert log.last == 2
    whole = bytes(disk.segment.durable)
    disk.add(GROUP, group(term=4, vote=2, entries=[(2, 2, b"c"), (2, 3, b"d")]))
    complete, disk.segment.durable = disk.segment.durable, disk.segment.durable[:-1]
    log.refresh()
    assert (log.last, log.term) == (2, 1)
    disk.segment.durable = complete
    log.refresh()
    assert (log.last, log.term, log.vote) == (3, 4, 2)
    assert log.holds(2, (2, crc32(b"c")))
    assert not log.holds(2, (1, crc32(b"b")))
    disk.segment.durable = bytearray(whole)
    log.refresh()
    assert (log.last, log.term) == (2, 1)


def test_nothing_of_the_disk_before_counts_for_a_new_one():
    disk = Disk(group(term=3, entries=[(3, 1, b"a"), (3, 2, b"b")]))
    log = DurableLog(disk.image)
    log.refresh()
    disk.image.replace()
    disk.image.root.durable["raft"] = DirectoryNode()  # a first state: no names in it yet
    log.refresh()
    assert (log.term, log.last) == (0, 0)


def test_what_a_lost_disk_held_still_counts_for_the_member_that_had_it():
    host = SimpleNamespace(number=1, raft_id=1, image=Disk().image, lost={})
    world = SimpleNamespace(hosts=[host], now_ns=lambda: 0, host_of=lambda _raft_id: host)
    watch = Watch(world, Oracles())
    host.image.root.durable = Disk(group(entries=[(3, 1, b"a")])).image.root.durable
    host.lost[1], host.raft_id = host.image.replace(), 101
    held = {}
    for raft_id in (1, 101):
        disk = watch.oracles.disk_of(raft_id)
        disk.refresh()
        held[raft_id] = disk.holds(1, (3, crc32(b"a")))
    assert held == {1: True, 101: False}


def test_a_vote_for_two_in_one_term(oracles):
    oracles.voted(5, 3, 1)
    assert oracles.violations == []
    oracles.voted(5, 3, 2)
    assert "votes for" in oracles.violations[0]


def test_a_vote_that_is_not_durable(oracles):
    disk = Disk(group(term=3, vote=2))
    on_disks(oracles, disk)
    oracles.voted(1, 3, 2)
    assert oracles.violations == []
    oracles.voted(1, 4, 2)
    assert "its disk says" in oracles.violations[0]


def test_a_term_that_goes_back_on_a_disk(oracles):
    on_disks(oracles, Disk(group(term=5, vote=1), group(term=3, vote=1)))
    oracles.voted(1, 3, 1)
    assert "terms" in oracles.violations[0]


def test_other_members_at_the_same_index(oracles):
    oracles.members_at(1, 16, "a", (1, 2))
    oracles.members_at(2, 16, "b", (1, 2, 3))
    assert "members" in oracles.violations[0]


def test_a_snapshot_with_another_state(oracles):
    oracles.applied(1, 7, 2, b"x", b"h")
    oracles.restored(2, b"h", 7)
    assert oracles.violations == []
    oracles.restored(2, b"i", 7)
    assert "snapshot" in oracles.violations[0]


def test_granted_votes_are_read_from_frames():
    def frame(*fields):
        body = bytes(fields)
        return len(body).to_bytes(4, "little") + body

    granted = frame(8, 6, 16, 2, 24, 5, 32, 9)
    refused = frame(8, 6, 16, 2, 24, 5, 32, 9, 80, 1)
    assert list(votes_in(b"head" + refused + granted)) == [(9, 2)]
    assert list(votes_in(b"\x08\x06\x10")) == []
