"""What the checked objects are: operations with their times, and how a register answers them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal, Protocol

import msgspec

Kind = Literal["read", "write", "cas", "delete"]
Value = str | int | None


class Unset(msgspec.Struct, frozen=True):
    """The result of an operation that never answered: it may have happened or not."""

    def __repr__(self) -> str:
        return "?"


class Refused(msgspec.Struct, frozen=True):
    """What a model answers when an operation cannot have had its result in a state."""


UNKNOWN: Final = Unset()
REFUSED: Final = Refused()
State = object


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a client, from *called* to *ended* in any unit that is ordered.

    ``value`` is what a write or cas sets, ``expected`` what a cas compares with; ``result`` is the
    value of a read, whether a cas or a delete did something, True for a write. Without an end the
    operation may happen at any time after its call, or never. With an end and an unknown result
    it happened before the end, and nobody knows what it answered.
    """

    client: int
    kind: Kind
    called: int
    ended: int | None = None
    key: str = ""
    value: Value = None
    expected: Value = None
    result: Value | bool | Unset = UNKNOWN

    def __str__(self) -> str:
        what = {
            "read": "",
            "delete": "",
            "write": f" {self.value}",
            "cas": f" {self.expected} -> {self.value}",
        }[self.kind]
        end = "..." if self.ended is None else self.ended
        return f"[{self.called}, {end}] client {self.client}: {self.kind}{what} = {self.result}"


class Model(Protocol):
    """A sequential object."""

    @property
    def initial(self) -> State:
        """Its state before all operations; hashable like every state."""

    def step(self, state: State, operation: Operation) -> State:
        """Return the state after *operation*, or REFUSED if its result does not fit."""

    def only_looks(self, operation: Operation) -> bool:
        """Tell whether it cannot have changed any state in which its result fits."""


class Register:
    """One value, None when absent: what a key of a key-value store is."""

    def __init__(self, initial: Value = None) -> None:
        self.initial = initial

    def step(self, state: State, operation: Operation) -> State:
        """Return the value after *operation*, or REFUSED."""
        kind, result = operation.kind, operation.result
        if kind == "read":
            return state if result is UNKNOWN or result == state else REFUSED
        if kind == "write":
            return operation.value
        if kind == "cas":
            did = state == operation.expected
            after: State = operation.value if did else state
        else:
            did = state is not None
            after = None
        return after if result is UNKNOWN or result is did else REFUSED

    def only_looks(self, operation: Operation) -> bool:
        """Reads look; so does what answered that it did nothing."""
        return operation.kind == "read" or operation.result is False


class KeyValue:
    """Many registers as one object: what the keys are apart, without partitioning."""

    initial: State = ()

    def __init__(self) -> None:
        self._register = Register()

    def step(self, state: State, operation: Operation) -> State:
        """Return the sorted pairs after *operation*, or REFUSED."""
        assert isinstance(state, tuple)
        values = dict(state)
        after = self._register.step(values.get(operation.key), operation)
        if after is REFUSED:
            return REFUSED
        if after is None:
            values.pop(operation.key, None)
        else:
            values[operation.key] = after
        return tuple(sorted(values.items()))

    def only_looks(self, operation: Operation) -> bool:
        """Like the register of its key."""
        return self._register.only_looks(operation)


def by_key(history: Iterable[Operation]) -> dict[str, list[Operation]]:
    """Return the operations of each key: a history is linearizable if each of its keys is."""
    keys: dict[str, list[Operation]] = {}
    for operation in history:
        keys.setdefault(operation.key, []).append(operation)
    return dict(sorted(keys.items()))


_LINE = re.compile(r"\s(\d+)\s+:(invoke|ok|fail|info)\s+:(read|write|cas)\s+(.*?)\s*$")


def parse_jepsen(text: str) -> list[Operation]:
    """Return the history in a log of Jepsen's register test; times are line numbers.

    A failed cas did not match. Another operation that failed or has no certain end stays unknown.
    """
    begun: dict[int, Operation] = {}
    history: list[Operation] = []
    for number, line in enumerate(text.splitlines()):
        found = _LINE.search(line)
        if found is None:
            continue
        client, event, kind, argument = int(found[1]), found[2], found[3], found[4]
        if event == "invoke":
            begun[client] = _invoked(client, kind, argument, number)
            continue
        operation = begun.pop(client)
        if event == "ok":
            result: Value | bool = _value(argument) if kind == "read" else True
            operation = msgspec.structs.replace(operation, ended=number, result=result)
        elif event == "fail" and kind == "cas" and argument.startswith("["):
            operation = msgspec.structs.replace(operation, ended=number, result=False)
        history.append(operation)
    return history + [begun[client] for client in sorted(begun)]


def _invoked(client: int, kind: str, argument: str, called: int) -> Operation:
    if kind == "cas":
        old, new = argument.strip("[]").split()
        return Operation(
            client=client, kind="cas", called=called, value=_value(new), expected=_value(old)
        )
    if kind == "write":
        return Operation(client=client, kind="write", called=called, value=_value(argument))
    return Operation(client=client, kind="read", called=called)


def _value(text: str) -> Value:
    return None if text == "nil" else int(text)
