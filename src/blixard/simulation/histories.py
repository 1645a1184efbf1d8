"""Histories to judge the judge: all small ones, random ones, and ones right by construction."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

import msgspec

from blixard.simulation.models import REFUSED, UNKNOWN, Operation, Register, State, Value

Form = tuple[str, Value, Value, "Value | bool"]  # kind, value, expected, result

FORMS: tuple[Form, ...] = (
    ("read", None, None, None),
    ("read", None, None, 1),
    ("read", None, None, 2),
    ("write", 1, None, True),
    ("write", 2, None, True),
    ("cas", 2, 1, True),
    ("cas", 2, 1, False),
    ("delete", None, None, True),
    ("delete", None, None, False),
)


def judge_by_force(history: Sequence[Operation], initial: Value = None) -> bool:
    """Tell whether a history of one register is linearizable by trying every order."""
    register = Register(initial)

    def search(state: State, left: tuple[Operation, ...]) -> bool:
        ends = [operation.ended for operation in left if operation.ended is not None]
        if not ends:
            return True
        for place, operation in enumerate(left):
            if operation.called <= min(ends):
                after = register.step(state, operation)
                if after is not REFUSED and search(after, left[:place] + left[place + 1 :]):
                    return True
        return False

    return search(initial, tuple(history))


def small_histories(operations: int) -> Iterator[list[Operation]]:
    """Yield every history of so many operations of FORMS, each answered or left unknown."""
    for times in _intervals(operations):
        for forms in itertools.product(FORMS, repeat=operations):
            for known in itertools.product((True, False), repeat=operations):
                yield [
                    _operation(client, form, called, ended if answered else None)
                    for client, (form, (called, ended), answered) in enumerate(
                        zip(forms, times, known, strict=True)
                    )
                ]


def _intervals(count: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Yield each way to place *count* intervals on distinct points, up to their names."""
    if count == 0:
        yield ()
        return
    for rest in _intervals(count - 1):
        points = 2 * (count - 1)
        for end in range(points + 1):
            # The new interval begins first; what stands at or after its end moves on.
            moved = [tuple(p + 1 + (p >= end) for p in interval) for interval in rest]
            yield ((0, end + 1), *[(begin, stop) for begin, stop in moved])


def _operation(client: int, form: Form, called: int, ended: int | None) -> Operation:
    kind, value, expected, result = form
    return Operation(
        client=client, kind=kind, called=called, ended=ended, value=value, expected=expected,  # type: ignore[arg-type]
        result=UNKNOWN if ended is None else result,
    )  # fmt: skip


def random_history(draw: random.Random, operations: int) -> list[Operation]:
    """Return any history: most of more than a few operations are bad."""
    points = list(range(2 * operations))
    draw.shuffle(points)
    return [
        _operation(
            number, draw.choice(FORMS), *sorted(points[2 * number : 2 * number + 2])
            if draw.random() < 0.8 else (points[2 * number], None),
        )
        for number in range(operations)
    ]  # fmt: skip


def good_history(
    draw: random.Random, operations: int, *, clients: int, unknown: float = 0.0
) -> list[Operation]:
    """Return a history of one register that is linearizable, with values that are unique.

    Every operation takes effect at one point between its call and its return, in the order of
    these points. Share *unknown* of them has no answer; half of those never happens.
    """
    register, state = Register(), None
    free_at = [0] * clients
    history: list[Operation] = []
    for number in range(operations):
        client = min(range(clients), key=lambda c: (free_at[c], c))
        point = 100 * (number + 1)
        called = max(free_at[client], point - draw.randint(1, 60 * clients))
        ended: int | None = point + draw.randint(1, 60 * clients)
        form = draw.choice(("read", "read", "write", "cas", "delete"))
        expected = state if draw.random() < 0.7 and state is not None else -1
        value = number + 1 if form in ("write", "cas") else None
        made = _operation(client, (form, value, expected if form == "cas" else None, None),
                          called, ended)  # fmt: skip
        made, after = _answered(register, state, made)
        if draw.random() < unknown:
            after = after if draw.random() < 0.5 else state
            made = msgspec.structs.replace(made, ended=None, result=UNKNOWN)
        history.append(made)
        state = after
        # A client whose request never ends stays occupied for a while: few are pending at once.
        free_at[client] = ended + 1 if ended is not None else called + 1
    return history


def _answered(register: Register, state: State, operation: Operation) -> tuple[Operation, Value]:
    result: Value | bool
    if operation.kind == "read":
        assert state is None or isinstance(state, int | str)
        result = state
    elif operation.kind == "delete":
        result = state is not None
    else:
        result = operation.kind == "write" or state == operation.expected
    answered = msgspec.structs.replace(operation, result=result)
    after = register.step(state, answered)
    assert after is None or isinstance(after, int | str)
    return answered, after
