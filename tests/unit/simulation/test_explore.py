"""All interleavings of leases and fencing: nothing breaks, and what is left out is found."""

import pytest

from blixard.simulation.explore.canonical import Canon
from blixard.simulation.explore.model import Model
from blixard.simulation.explore.rules import LEASE, Rules
from blixard.simulation.explore.search import SMALL, Scope, explore
from blixard.simulation.explore.state import Budget, first_state
from tests.unit.simulation.explore_mutants import MUTANTS, SCOPES


@pytest.mark.parametrize("scope", SMALL, ids=lambda scope: scope.name)
def test_no_order_of_events_breaks_a_promise(scope):
    result = explore(scope)
    assert (result.wrong, result.way) == ("", ())
    assert result.complete
    assert result.states > 1_000


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_what_is_left_out_is_found(mutant):
    result = explore(SCOPES[MUTANTS[mutant]], mutant)
    assert result.wrong
    assert len(result.way) == result.depth + 1


def test_the_bound_on_states_is_kept_and_said():
    result = explore(Scope(name="", swift=1, budget=Budget(fencings=1), states_max=100))
    assert not result.complete
    assert not result.wrong


def reached(scope, stands_for):
    model = Model(Rules(), timely=scope.timely, swift=scope.swift)
    canon = Canon(model)
    first = first_state(scope.budget, int(LEASE.lease_s), silent=scope.silent)
    seen, waiting = {first}, [first]
    while waiting:
        for move in model.moves(waiting.pop()):
            after = canon.of(move.state) if stands_for else move.state
            if after not in seen:
                seen.add(after)
                waiting.append(after)
    return {canon.of(state) for state in seen}, len(seen)


def test_states_that_stand_for_others_reach_all_that_those_reach():
    (every, raw), (fewer, kept) = (reached(SMALL[1], stands_for) for stands_for in (False, True))
    assert fewer == every
    assert kept < raw
