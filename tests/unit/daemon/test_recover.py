"""When a node must not go on alone."""

import pytest

from blixard.daemon.recover import MemberFound, Position, refusals


def member(name, *, voter=True, own=False, answers=False, last_index=0):
    return MemberFound(
        uid=name, name=name, address="h:1", voter=voter, own=own, answers=answers,
        last_index=last_index,
    )  # fmt: skip


OWN = member("a", own=True)


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ([member("b"), member("c")], ""),
        ([member("b", answers=True), member("c")], "a majority of the 3 voters is there (b"),
        ([member("b", answers=True, voter=False), member("c"), member("d")], ""),
        ([], "a majority of the 1 voters is there (no other"),
        ([member("b")], ""),  # one of two is no majority
        (
            [member(n) for n in "bcd"] + [member("e", answers=True, last_index=90)],
            "e answers and has a longer log",
        ),
        ([member(n) for n in "bcd"] + [member("e", answers=True, last_index=80)], ""),
    ],
)
def test_recovery_is_refused_while_a_majority_can_be_had(others, says) -> None:
    found = " ".join(refusals((7, 80), (OWN, *others), ()))
    assert (says in found) if says else not found


@pytest.mark.parametrize(
    ("term", "index", "longer"), [(7, 80, False), (7, 81, True), (8, 3, True), (6, 200, False)]
)
def test_recovery_is_refused_where_another_log_is_longer(term, index, longer) -> None:
    other = Position(where="/mnt/b", last_term=term, last_index=index)
    assert bool(refusals((7, 80), (OWN, member("b"), member("c")), (other,))) is longer
