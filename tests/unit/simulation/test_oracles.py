"""Each oracle objects to what it is there for, and to nothing else."""

import random
from types import SimpleNamespace

import pytest

from blixard.simulation.disk import DirectoryNode, DiskImage, FileNode
from blixard.simulation.oracles import Oracles
from blixard.simulation.votes import record_of, votes_in
from blixard.simulation.workload import History, KeyHistory, check_final


def leader(term, last_index=100):
    return SimpleNamespace(role="leader", term=term, last_index=last_index)


def image(*contents):
    made = DiskImage(random.Random(0))
    directory = DirectoryNode()
    made.root.durable["raft"] = directory
    for number, content in enumerate(contents):
        node = FileNode()
        node.durable = bytearray(content)
        directory.durable[str(number)] = node
    return made


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


def test_acknowledgement_needs_a_durable_majority(oracles):
    oracles.acknowledged(b"<k=1>", [[image(b"..<k=1>.."), image(b"", b"<k=1>"), image(b"")]])
    assert oracles.violations == []
    oracles.acknowledged(b"<k=1>", [[image(b"<k=1>"), image(b""), image(b"<k=2>")]])
    assert "durability" in oracles.violations[0]


def test_bytes_under_a_lost_name_do_not_count(oracles):
    lost = image(b"<k=1>")
    lost.root.durable.clear()
    oracles.acknowledged(b"<k=1>", [[lost, image(b"<k=1>"), image(b"")]])
    assert "durability" in oracles.violations[0]


def test_vote_twice_or_before_it_is_durable(oracles):
    disk = image(record_of(3, 1), record_of(3, 2))
    oracles.voted(5, 3, 1, disk)
    assert oracles.violations == []
    oracles.voted(5, 3, 2, disk)
    oracles.voted(5, 4, 1, disk)
    assert ["votes for" in oracles.violations[0], "not durable" in oracles.violations[1]] == [
        True
    ] * 2


def test_granted_votes_are_read_from_frames():
    def frame(*fields):
        body = bytes(fields)
        return len(body).to_bytes(4, "little") + body

    granted = frame(8, 6, 16, 2, 24, 5, 32, 9)
    refused = frame(8, 6, 16, 2, 24, 5, 32, 9, 80, 1)
    assert list(votes_in(b"head" + refused + granted)) == [(9, 2)]
    assert list(votes_in(b"\x08\x06\x10")) == []


@pytest.mark.parametrize(("value", "good"), [(2, False), (3, True), (4, True), (5, False)])
def test_final_value_lies_between_acknowledged_and_asked(value, good):
    failures = []
    history = History(keys={"k": KeyHistory(asked=4, acknowledged=3)})
    check_final(history, {"k": f"<k={value}>"}, lambda *args: failures.append(args), "here")
    assert (failures == []) is good
