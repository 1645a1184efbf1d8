"""Breadth first over all states: the first violation found has the shortest way to it."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from blixard.simulation.explore.canonical import Canon
from blixard.simulation.explore.model import Model
from blixard.simulation.explore.rules import LEASE, Rules
from blixard.simulation.explore.state import Budget, State, first_state
from blixard.simulation.garbage import uncollected

PROGRESS_EVERY = 20_000
STATES_MAX = 5_000_000
BOUNDED = 200_000  # of scopes too large for minutes: all the short ways are walked


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """One exploration: which faults, how many of each."""

    name: str
    budget: Budget
    timely: bool = False
    swift: int = -1
    silent: bool = False
    states_max: int = STATES_MAX


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen; ``wrong`` is empty if nothing broke, ``way`` leads to what did."""

    scope: str
    states: int
    transitions: int
    depth: int
    complete: bool
    wrong: str
    way: tuple[str, ...]
    wall_s: float


def explore(
    scope: Scope,
    rules: type[Rules] = Rules,
    progress: Callable[[int, int], None] = lambda _states, _waiting: None,
) -> Result:
    """Visit every state of *scope* once; stop at the first violation or at the bound."""
    # States are tuples of tuples: nothing to collect, and millions to look through.
    with uncollected():
        return _explore(scope, rules, progress)


def _explore(scope: Scope, rules: type[Rules], progress: Callable[[int, int], None]) -> Result:
    began = time.perf_counter()
    book = rules()
    model = Model(book, timely=scope.timely, swift=scope.swift)
    canon = Canon(model)
    first = first_state(scope.budget, int(LEASE.lease_s), silent=scope.silent)
    came: dict[State, tuple[State, str] | None] = {first: None}
    level, depth, transitions = [first], 0, 0

    def result(wrong: str, way: tuple[str, ...], *, complete: bool) -> Result:
        return Result(
            scope=scope.name, states=len(came), transitions=transitions, depth=depth,
            complete=complete, wrong=wrong, way=way, wall_s=time.perf_counter() - began,
        )  # fmt: skip

    while level:
        following: list[State] = []
        for state in level:
            for move in model.moves(state):
                transitions += 1
                after = canon.of(move.state)
                known = after in came
                wrong = move.wrong or ("" if known else _wrong(book, after))
                if wrong:
                    way = (*_way(came, state), move.label)
                    return result(wrong, way, complete=False)
                if not known:
                    came[after] = (state, move.label)
                    following.append(after)
                    if len(came) % PROGRESS_EVERY == 0:
                        progress(len(came), len(following))
            if len(came) > scope.states_max:
                return result("", (), complete=False)
        level, depth = following, depth + 1
    return result("", (), complete=True)


def _wrong(rules: Rules, state: State) -> str:
    reports = rules.foreign_reports(state.cluster)
    if reports:
        return f"a report of {reports[0]} counts"
    return _double_run(state)


def _double_run(state: State) -> str:
    """Return a text if the instance runs twice on hosts that are not frozen."""
    running = [
        node.process is not None and node.process.state == "running" and node.mode != "frozen"
        for node in state.nodes
    ]
    return "the instance runs twice" if all(running) else ""


def _way(came: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    labels = []
    step = came[state]
    while step is not None:
        labels.append(step[1])
        step = came[step[0]]
    return tuple(reversed(labels))


# Nothing but the guard has to move: a paused daemon, a cut link and a lost message are in every
# scope, as those orders in which somebody does not move. "From silence" begins after the lease of
# the first node ended, just before the leader notices.
SMALL = (
    Scope(name="leader changes, all in time", timely=True, budget=Budget(elections=1)),
    Scope(name="any delay, pause, partition; nobody lost", swift=1, budget=Budget(fencings=0)),
)

FULL = (
    Scope(name="any delay, pause, partition", swift=1, budget=Budget(fencings=1)),
    Scope(name="the same with a leader change, from silence", swift=1, silent=True,
          budget=Budget(elections=1, fencings=1)),
    Scope(name="the same with unknown outcomes, from silence", swift=1, silent=True,
          budget=Budget(unknowns=2, fencings=1)),
    Scope(name="the same with a restart, from silence", swift=1, silent=True,
          states_max=BOUNDED,
          budget=Budget(restarts=1, fencings=1)),
    Scope(name="the same with a frozen host", swift=1, states_max=BOUNDED,
          budget=Budget(freezes=1, fencings=1)),
    Scope(name="leader changes, all in time", timely=True, budget=Budget(elections=3)),
    Scope(name="a leader paused and changed, all else in time", timely=True, swift=1,
          budget=Budget(elections=1, leader_pauses=1)),
)  # fmt: skip
