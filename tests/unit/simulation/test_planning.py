"""Plans of faults as data."""

import random

import pytest

from blixard.base.errors import BlixardError
from blixard.simulation.faults import HANDS
from blixard.simulation.planning import KINDS, STOPS, Fault, Plan, draw_plan, within_budget


def drawn(seed, nodes=5):
    return draw_plan(random.Random(seed), nodes=nodes, begin_ms=5_000, heal_at_ms=45_000)


def test_every_kind_has_a_hand():
    assert sorted(KINDS) == sorted(HANDS)


def test_every_kind_is_drawn():
    assert {fault.kind for seed in range(60) for fault in drawn(seed).faults} == set(KINDS)


@pytest.mark.parametrize("seed", range(5))
def test_plan_and_its_parts_survive_json(seed):
    plan = drawn(seed)
    assert Plan.from_json(plan.to_json(), nodes=5) == plan
    part = plan.only(range(0, len(plan.faults), 3))
    assert Plan.from_json(part.to_json(), nodes=5) == part
    assert part.faults == plan.faults[::3]


@pytest.mark.parametrize("nodes", [3, 5])
def test_parts_of_a_plan_stay_within_the_budget(nodes):
    for seed in range(20):
        faults = list(drawn(seed, nodes).faults)
        part = [fault for fault in faults if fault.salt % 2]
        assert within_budget(faults, nodes) == faults
        assert within_budget(part, nodes) == part


def test_stops_never_take_a_majority():
    faults = [Fault(1_000 + i, "crash", 5_000, (i + 1,)) for i in range(5)]
    assert [fault.hosts for fault in within_budget(faults, 5)] == [(1,), (2,)]
    assert "crash" in STOPS


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b'{"faults": [{"at_ms": 1, "kind": "nope", "lasts_ms": 1}], "heal_at_ms": 9}',
        b'{"faults": [{"at_ms": 1, "kind": "crash", "lasts_ms": 1}], "heal_at_ms": 9}',
        b'{"faults": [{"at_ms": 1, "kind": "crash", "lasts_ms": 1, "hosts": [6]}], "heal_at_ms": 9}',
        b'{"faults": [{"at_ms": -1, "kind": "noise", "lasts_ms": 1}], "heal_at_ms": 9}',
    ],
)
def test_wrong_plan_is_refused(text):
    with pytest.raises(BlixardError, match="plan of faults"):
        Plan.from_json(text, nodes=5)
