"""Is a history linearizable? The search of Wing and Gong with the memory of Lowe.

The search tries at each point every operation that was called before the first return still ahead;
what it has tried is remembered as (operations done, state). Two rules make it short: an operation
that only looks, and fits, is taken at once and never reconsidered, for taking it later cannot help;
an unknown one that only looks says nothing and is left out. The bound is a number of steps, not a
time, so that the same history always gets the same verdict.

Sources: Wing and Gong, "Testing and Verifying Concurrent Objects" (1993); Lowe, "Testing for
Linearizability" (2017); partitioning by key: Horn and Kroening (2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from blixard.simulation.models import REFUSED, UNKNOWN, Model, Operation, Register, State, by_key

MAX_STEPS = 5_000_000
_MAX_SHOWN = 12
_MAX_DROPPED = 50
_EXPLAIN_STEPS = 20_000


class Verdict(msgspec.Struct, frozen=True):
    """What the search found.

    ``order`` is a linearization, or the longest one of a part. Of a bad history, ``stuck`` is the
    operation before whose end no order gets; ``prefix`` is what had been called by then, bad by
    itself, without those of the last reads that do not matter.
    """

    answer: Literal["linearizable", "not linearizable", "undecided"]
    steps: int
    order: tuple[Operation, ...] = ()
    prefix: tuple[Operation, ...] = ()
    stuck: Operation | None = None

    @property
    def good(self) -> bool:
        """Whether a linearization exists."""
        return self.answer == "linearizable"

    @property
    def bad(self) -> bool:
        """Whether none exists."""
        return self.answer == "not linearizable"

    def explain(self) -> str:
        """Return why not, in the last operations that matter."""
        lines = [str(operation) for operation in self.prefix[-_MAX_SHOWN:]]
        left_out = len(self.prefix) - len(lines)
        head = [f"{left_out} operations before"] if left_out else []
        done = "; ".join(f"{o.kind} {o.value if o.kind != 'read' else o.result} by {o.client}"
                         for o in self.order[-3:])  # fmt: skip
        foot = [f"no order gets past {self.stuck}", f"the longest one ends: {done}"]
        return "\n  ".join(["no order explains", *head, *lines, *foot])


class _Search:
    """The events in a linked list; operations are taken out when tried, put back when given up.

    Event 0 is the head, the last one the end. ``mate`` of a call is its return (0: none), of a
    return 0, so that what is a call is told by ``operation_at``.
    """

    def __init__(self, history: Sequence[Operation], model: Model) -> None:
        self.operations = [
            o for o in history if not (o.result is UNKNOWN and model.only_looks(o))
        ]  # fmt: skip
        self._model = model
        events = []
        for number, operation in enumerate(self.operations):
            events.append((operation.called, 0, number))
            if operation.ended is not None:
                events.append((operation.ended, 1, number))
        events.sort()
        size = len(events) + 2
        self.after = [*range(1, size), 0]
        self.before = [0, *range(size - 1)]
        self.operation_at = [-1] * size
        self.mate = [0] * size
        self.returning: dict[int, Operation] = {}
        calls: dict[int, int] = {}
        for place, (_, returns, number) in enumerate(events, 1):
            if returns:
                self.mate[calls[number]] = place
                self.returning[place] = self.operations[number]
            else:
                calls[number], self.operation_at[place] = place, number
        self.looks = [model.only_looks(operation) for operation in self.operations]
        self.best: list[int] = []
        self.steps = self.furthest = 0

    def run(self, max_steps: int) -> Literal["linearizable", "not linearizable", "undecided"]:
        """Search until an order is found, all are tried, or the steps are used up."""
        operations, step, after = self.operations, self._model.step, self.after
        operation_at, mate, looks = self.operation_at, self.mate, self.looks
        state: State = self._model.initial
        open_count = sum(operation.ended is not None for operation in operations)
        done = steps = 0
        tried: set[tuple[int, State]] = set()
        taken: list[tuple[int, State]] = []
        event = after[0]
        while open_count:
            number = operation_at[event]
            if number >= 0:
                steps += 1
                following = step(state, operations[number])
                if following is not REFUSED:
                    made = done | 1 << number
                    key = (made, following)
                    if key not in tried:
                        tried.add(key)
                        taken.append((event, state))
                        done, state = made, following
                        self._lift(event)
                        open_count -= mate[event] != 0
                        event = after[0]
                        continue
                event = after[event]
                continue
            if event > self.furthest:
                self.furthest = event
                self.best = [operation_at[taken_event] for taken_event, _ in taken]
            while taken:
                event, state = taken.pop()
                number = operation_at[event]
                done ^= 1 << number
                self._put_back(event)
                open_count += mate[event] != 0
                if not looks[number]:
                    break
            else:
                self.steps = steps
                return "not linearizable"
            if steps > max_steps:
                self.steps = steps
                return "undecided"
            event = after[event]
        self.steps = steps
        self.best = [operation_at[event] for event, _ in taken]
        return "linearizable"

    def _lift(self, event: int) -> None:
        after, before = self.after, self.before
        after[before[event]], before[after[event]] = after[event], before[event]
        mate = self.mate[event]
        if mate:
            after[before[mate]], before[after[mate]] = after[mate], before[mate]

    def _put_back(self, event: int) -> None:
        after, before = self.after, self.before
        mate = self.mate[event]
        if mate:
            after[before[mate]] = before[after[mate]] = mate
        after[before[event]] = before[after[event]] = event


def check(
    history: Sequence[Operation], model: Model | None = None, *, max_steps: int = MAX_STEPS
) -> Verdict:
    """Judge the history of one object; of a bad one, find the part that shows it."""
    model = model or Register()
    search = _Search(history, model)
    answer = search.run(max_steps)
    order = tuple(search.operations[number] for number in search.best)
    if answer != "not linearizable":
        return Verdict(answer, search.steps, order)
    return _explained(search, model)


def check_keys(history: Sequence[Operation], *, max_steps: int = MAX_STEPS) -> dict[str, Verdict]:
    """Judge each key by itself."""
    return {key: check(part, max_steps=max_steps) for key, part in by_key(history).items()}


def _explained(search: _Search, model: Model) -> Verdict:
    """Keep what was called before the return that no order passes, without idle reads."""
    stuck = search.returning[search.furthest]
    assert stuck.ended is not None
    order = tuple(search.operations[number] for number in search.best)
    shown = [o for o in search.operations if o.called <= stuck.ended]
    for operation in [o for o in shown if model.only_looks(o) and o is not stuck][-_MAX_DROPPED:]:
        fewer = [other for other in shown if other is not operation]
        if _Search(fewer, model).run(_EXPLAIN_STEPS) == "not linearizable":
            shown = fewer
    return Verdict("not linearizable", search.steps, order, tuple(shown), stuck)
