import pytest
from hypothesis import given
from hypothesis import strategies as st

from blixard.base.errors import BlixardError
from blixard.consensus.clock import ticks_due
from blixard.consensus.config import Member
from blixard.consensus.membership import ADD_LEARNER, ADD_VOTER, REMOVE, Membership, encode_member
from blixard.consensus.snapshots import SnapshotMeta, decode_snapshot, encode_snapshot
from blixard.consensus.wire import Hello, encode_hello, split_frame

CONF = ([1, 2, 3], [], [], [], False)
META = SnapshotMeta("c", 5, 2, CONF, (Member(1, "a", "h:1"),), (9,))


def member(number: int) -> Member:
    return Member(number, f"node{number}", f"h:{number}")


def three() -> Membership:
    return Membership(CONF, tuple(member(n) for n in (1, 2, 3)), (7,))


def code(call: object, *arguments: object) -> str:
    with pytest.raises(BlixardError) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value.code


def test_learner_becomes_voter_and_goes() -> None:
    table = three()
    learner = Member(4, "node4", "h:4", learner=True)
    table.apply(CONF, encode_member(learner), [(ADD_LEARNER, 4)])
    assert table.members[4].learner
    table.apply(CONF, b"", [(ADD_VOTER, 4)])
    assert table.voters() == [1, 2, 3, 4]
    table.apply(CONF, b"", [(REMOVE, 4)])
    assert table.removed == (4, 7)


@pytest.mark.parametrize(
    ("wanted", "refusal"),
    [
        (member(2), "ALREADY_EXISTS"),
        (Member(9, "node2", "h:9"), "ALREADY_EXISTS"),
        (member(7), "NODE_REMOVED"),
        (Member(0, "new", "h:9"), "INVALID"),
    ],
)
def test_unfit_member_is_refused(wanted: Member, refusal: str) -> None:
    assert code(three().check_add, wanted, 10) == refusal


def test_full_group_refuses_members() -> None:
    assert code(three().check_add, member(4), 3) == "OVERLOADED"


def test_removal_keeps_a_live_majority() -> None:
    three().check_unvote(3, [1, 2])
    assert code(three().check_unvote, 2, [1, 2]) == "INVARIANT"
    assert code(three().check_unvote, 5, [1, 2, 3]) == "NOT_FOUND"


def test_few_ticks_after_a_gap() -> None:
    assert ticks_due(0.05, 0.05, 3) == (1, 1)
    assert ticks_due(60.0, 0.05, 3) == (1200, 3)
    assert ticks_due(0.04, 0.05, 3) == (0, 0)


def test_snapshot_file_comes_back_as_written() -> None:
    assert decode_snapshot(encode_snapshot(META, b"state"), "p") == (META, b"state")


@given(st.data())
def test_any_flipped_byte_of_a_snapshot_is_noticed(data: st.DataObject) -> None:
    content = bytearray(encode_snapshot(META, b"some state of the machine"))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    assert code(decode_snapshot, bytes(content), "snap/x") == "LOG_CORRUPT"


def test_snapshot_cut_short_anywhere_is_noticed() -> None:
    content = encode_snapshot(META, b"state")
    for size in range(len(content)):
        assert code(decode_snapshot, content[:size], "snap/x") == "LOG_CORRUPT"


def test_greeting_stands_before_the_frame() -> None:
    hello = Hello("cluster", 3, "h:1")
    head = encode_hello(hello)
    assert split_frame(head + b"frame") == (head, hello)


@pytest.mark.parametrize("junk", [b"", b"\x01", b"\x02\x00\x00", b"\x01\x04\x00abcd"])
def test_junk_greeting_is_refused(junk: bytes) -> None:
    assert code(split_frame, junk) == "BAD_REQUEST"
