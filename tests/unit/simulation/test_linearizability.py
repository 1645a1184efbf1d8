"""The checker agrees with brute force, with recorded verdicts, and with itself under change."""

import json
import pathlib
import random

import msgspec
import pytest

from blixard.simulation.histories import (
    good_history,
    judge_by_force,
    random_history,
    small_histories,
)
from blixard.simulation.linearizability import check, check_keys
from blixard.simulation.models import UNKNOWN, KeyValue, Operation, Register, by_key, parse_jepsen

RECORDED = "shared/data/porcupine"


def op(client, kind, called, ended, **rest):
    rest.setdefault("result", UNKNOWN if ended is None else True)
    return Operation(client=client, kind=kind, called=called, ended=ended, **rest)


@pytest.mark.parametrize("operations", [1, 2])
def test_all_small_histories(operations):
    bad = 0
    for history in small_histories(operations):
        by_force = judge_by_force(history)
        assert check(history).good == by_force, history
        bad += not by_force
    assert bad > 0


def test_random_histories_against_brute_force():
    draw = random.Random(1)
    verdicts = []
    for number in range(4_000):
        history = random_history(draw, 3 + number % 4)
        verdict = check(history)
        verdicts.append(verdict.good)
        assert verdict.good == judge_by_force(history), history
    assert 200 < sum(verdicts) < 3_800


def test_shown_prefix_is_bad_and_its_last_end_is_what_makes_it_so():
    draw = random.Random(2)
    shown = 0
    for _ in range(1_000):
        verdict = check(random_history(draw, 6))
        if verdict.bad:
            shown += 1
            assert verdict.stuck in verdict.prefix
            assert not judge_by_force(verdict.prefix)
            before = [
                msgspec.structs.replace(o, ended=None, result=UNKNOWN)
                if o.ended is None or o.ended >= verdict.stuck.ended else o
                for o in verdict.prefix
            ]  # fmt: skip
            assert judge_by_force(before)
    assert shown > 100


@pytest.fixture
def good():
    draw = random.Random(3)
    return [good_history(draw, 60, clients=4, unknown=0.05) for _ in range(20)]


def test_right_by_construction_is_accepted(good):
    for history in good:
        assert check(history).good


def test_a_read_of_a_value_never_written_is_found(good):
    for history in good:
        reads = [n for n, o in enumerate(history) if o.kind == "read" and o.ended is not None]
        place = reads[len(reads) // 2]
        wrong = list(history)
        wrong[place] = msgspec.structs.replace(wrong[place], result=10**9)
        verdict = check(wrong)
        assert verdict.bad
        assert wrong[place] in verdict.prefix
        assert "no order explains" in verdict.explain()


def test_a_read_of_an_overwritten_value_is_found():
    history = [
        op(1, "write", 0, 1, value=1),
        op(1, "write", 2, 3, value=2),
        op(2, "read", 4, 5, result=1),
    ]
    assert check(history).bad
    assert check([*history[:1], op(1, "write", 2, 6, value=2), *history[2:]]).good


def test_an_acknowledged_write_moved_behind_its_reader_is_found():
    history = [op(1, "write", 5, 6, value=1), op(2, "read", 1, 2, result=1)]
    assert check(history).bad


def test_wider_intervals_never_break(good):
    draw = random.Random(4)
    for history in good:
        wider = [
            msgspec.structs.replace(
                o,
                called=o.called - draw.randint(0, 30),
                ended=None if o.ended is None else o.ended + draw.randint(0, 30),
            )
            for o in history
        ]
        assert check(wider).good


def test_names_do_not_matter():
    draw = random.Random(5)
    for _ in range(300):
        history = random_history(draw, 6)
        swap = {1: 2, 2: 1}
        renamed = [
            msgspec.structs.replace(
                o,
                client=9 - o.client,
                value=swap.get(o.value, o.value),
                expected=swap.get(o.expected, o.expected),
                result=o.result if isinstance(o.result, bool) else swap.get(o.result, o.result)
                if o.result is not UNKNOWN else UNKNOWN,
            )
            for o in history
        ]  # fmt: skip
        assert check(history).good == check(renamed).good


def test_one_more_pending_operation_never_breaks(good):
    for history in good:
        assert check([*history, op(99, "write", 500, None, value=77)]).good


def test_prefixes_of_good_histories_are_good(good):
    for history in good:
        for end in (1_000, 2_500, 4_000):
            part = [
                o if o.ended is not None and o.ended <= end
                else msgspec.structs.replace(o, ended=None, result=UNKNOWN)
                for o in history
                if o.called <= end
            ]  # fmt: skip
            assert check(part).good


def test_an_unknown_write_may_happen_late_or_never():
    unknown = op(1, "write", 0, None, value=1)
    seen, unseen = op(2, "read", 10, 11, result=1), op(2, "read", 10, 11, result=None)
    assert check([unknown, seen]).good
    assert check([unknown, unseen]).good
    assert check([unknown, seen, op(2, "read", 12, 13, result=None)]).bad


def test_an_unknown_write_known_to_be_applied_has_happened():
    applied = op(1, "write", 0, 5, value=1, result=UNKNOWN)
    assert check([applied, op(2, "read", 10, 11, result=None)]).bad


def test_keys_apart_and_together_agree():
    draw = random.Random(6)
    verdicts = set()
    for _ in range(300):
        history = [
            msgspec.structs.replace(o, key=draw.choice("ab")) for o in random_history(draw, 6)
        ]
        apart = all(verdict.good for verdict in check_keys(history).values())
        assert apart == check(history, KeyValue()).good
        assert sum(map(len, by_key(history).values())) == len(history)
        verdicts.add(apart)
    assert verdicts == {True, False}


def test_another_initial_value():
    assert check([op(1, "read", 0, 1, result=5)], Register(5)).good
    assert check([op(1, "read", 0, 1, result=None)], Register(5)).bad


def test_steps_are_bounded():
    # Many unknown writes and a read that none of them explains: exponential without a bound.
    history = [op(n, "cas", n, None, value=n + 1, expected=n % 5) for n in range(30)]
    verdict = check([*history, op(50, "read", 100, 101, result=-1)], max_steps=1_000)
    assert verdict.answer in ("undecided", "not linearizable")
    assert verdict.steps < 2_000


@pytest.fixture
def recorded():
    places = [parent / RECORDED for parent in pathlib.Path(__file__).parents]
    found = [place for place in places if (place / "verdicts.json").exists()]
    if not found:
        pytest.skip("the recorded histories are not beside the repository")
    return found[0]


def test_recorded_verdicts(recorded):
    known = json.loads((recorded / "verdicts.json").read_text())
    assert len(known) == 50
    for name, good in known.items():
        verdict = check(parse_jepsen((recorded / "jepsen" / name).read_text()))
        assert (verdict.good, verdict.bad) == (good, not good), name
