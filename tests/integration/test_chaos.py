"""A short run of bench/chaos.py, and that its judges can find something."""

from __future__ import annotations

import json
import pathlib
import random
import subprocess
import sys

import msgspec
import pytest

BENCH = pathlib.Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))

from faults.plan import KINDS, ROUND_S, plan_round
from history import judge, load, save

from blixard.simulation.models import Operation

SEED = 45  # its round: kill, power cut, cut outwards, away, cut; on two nodes


@pytest.mark.netns
@pytest.mark.slow
def test_real_daemons_survive_a_round_of_faults() -> None:
    ran = subprocess.run(
        [sys.executable, str(BENCH / "chaos.py"), "--minutes", "0.4", "--seed", str(SEED)],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["ok"]
    assert found["figures"]["faults"] > 3
    assert found["figures"]["acknowledged"] > 50


def write(value: int, called: int) -> Operation:
    return Operation(client=1, kind="write", key="k", called=called, ended=called + 1, value=value,
                     result=True)  # fmt: skip


def read(value: int | None, called: int) -> Operation:
    return Operation(client=2, kind="read", key="k", called=called, ended=called + 1, result=value)


def cas(expected: int | None, value: int, called: int, *, did: bool) -> Operation:
    return Operation(client=3, kind="cas", key="k", called=called, ended=called + 1, value=value,
                     expected=expected, result=did)  # fmt: skip


GOOD = [write(1, 10), read(1, 20), cas(1, 2, 30, did=True), cas(1, 3, 40, did=False), read(2, 50)]
UNKNOWN = Operation(client=4, kind="write", key="k", called=15, value=9)


@pytest.mark.parametrize(
    ("history", "wrong"),
    [
        (GOOD, 0),
        ([*GOOD, UNKNOWN, read(9, 60)], 0),
        ([*GOOD, read(1, 60)], 1),
        ([*GOOD, read(None, 60)], 1),
        ([*GOOD, read(9, 60)], 1),
        ([*GOOD, cas(1, 4, 60, did=True)], 1),
        ([*GOOD, UNKNOWN, read(9, 60), read(2, 70)], 1),
    ],
    ids=["good", "late", "stale", "lost", "refused yet done", "double cas", "came and went"],
)
def test_history_is_judged_and_kept(
    history: list[Operation], wrong: int, tmp_path: pathlib.Path
) -> None:
    save(history, tmp_path / "history")
    again = load(tmp_path / "history")
    assert msgspec.to_builtins(again) == msgspec.to_builtins(history)
    figures, problems = judge(again)
    assert (figures["not_linearizable"], len(problems["not_linearizable"])) == (wrong, wrong)
    assert problems["undecided"] == []


def test_history_that_is_too_hard_to_judge_is_a_problem() -> None:
    figures, problems = judge([*GOOD, UNKNOWN, read(1, 60)], max_steps=1)
    assert figures["undecided"] == len(problems["undecided"]) == 1


def test_plan_leaves_one_node_alone() -> None:
    kinds = set()
    for seed in range(300):
        plan = plan_round(random.Random(seed))
        assert plan == plan_round(random.Random(seed))
        kinds |= {fault.kind for fault in plan}
        assert all(fault.at_s + fault.lasts_s <= ROUND_S for fault in plan)
        if plan[0].kind == "blackout":
            assert len(plan) == 1
            continue
        assert len({fault.node for fault in plan}) <= 2
        assert not any(fault.leader for fault in plan) or len({f.node for f in plan}) == 1
        for node in range(3):
            mine = [fault for fault in plan if fault.node == node]
            ends = [fault.at_s + fault.lasts_s for fault in mine]
            assert all(end < after.at_s for end, after in zip(ends, mine[1:], strict=False))
    assert kinds == {*KINDS, "blackout"}
