"""What the clients asked for on a few contended keys, what became of it, and the judgement.

A key lives for a bounded number of requests and is judged when all of them are over; then only its
last value is kept. What the simulator knows makes the judgement sharp, and the search short: a
request without an answer that was applied had happened by then; one that was not applied by the
time of the judgement cannot explain anything that any client has seen before.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from blixard.simulation.linearizability import check
from blixard.simulation.models import UNKNOWN, Kind, Operation

SLOTS = 3
REQUESTS_PER_KEY = 150
MAX_REMEMBERED = 20_000
MAX_SOURCES = 1_000

Fail = Callable[[str, str], None]


class Request(msgspec.Struct):
    """One request; ``index`` is where it was applied first, 0 if it was not.

    ``changed``: its command was carried out there; otherwise the state machine refused it, for
    what the key held or for its request id, and it has not happened.
    """

    id: str
    client: int
    kind: Kind
    key: str
    text: str
    expected: str
    called: int
    index: int = 0
    applied: int = 0
    changed: bool = False
    state: str = "open"
    forgotten: bool = False  # too long ago: whether it was applied is not known

    def operation(self, ended: int | None, result: object) -> Operation:
        """Return it as the checker sees it."""
        return Operation(
            client=self.client, kind=self.kind, key=self.key, called=self.called, ended=ended,
            value=self.text or None, expected=self.expected or None, result=result,  # type: ignore[arg-type]
        )  # fmt: skip


class KeyHistory(msgspec.Struct):
    """One key: its requests, and the values that it had with the index of each."""

    asked: int = 0
    open: int = 0
    done: list[Operation] = []
    lost: list[Request] = []
    versions: list[tuple[int, str]] = []

    def at(self, index: int) -> str:
        """Return the value after *index* was applied."""
        for since, text in reversed(self.versions):
            if since <= index:
                return text
        return ""


class History:
    """All keys and requests of a run, and the counters."""

    def __init__(
        self,
        fail: Fail,
        now_ns: Callable[[], int],
        *,
        happened: Callable[[str], None] = lambda _what: None,
    ) -> None:
        self._fail = fail
        self._happened = happened
        self._stale: dict[tuple[int, str], int] = {}  # client, incarnation -> index seen there
        self._now_ns = now_ns
        self._requests: dict[str, Request] = {}
        self._generations = [0] * SLOTS
        self._keys = [f"k{slot}g0" for slot in range(SLOTS)]
        self._texts = 0
        self.keys: dict[str, KeyHistory] = {}
        self.values: dict[str, str] = {}
        self.last_index = 0
        self.writes = self.reads = self.unknown = self.refused = self.stale_reads = 0
        self.cas_done = self.checked_keys = self.checked = self.steps = 0
        self.repeated = 0

    # asking

    def begin(self, request_id: str, client: int, kind: Kind, slot: int, expected: str) -> Request:
        """Note a request that is about to be sent."""
        key = self._keys[slot]
        known = self.keys.get(key)
        if known is not None and known.asked >= REQUESTS_PER_KEY:
            if not known.open:
                self._judge(key, known)
            self._generations[slot] += 1
            key = self._keys[slot] = f"k{slot}g{self._generations[slot]}"
            known, expected = None, ""
        if known is None:
            known = self.keys[key] = KeyHistory()
        if kind == "cas" and not expected:
            kind = "write"
        known.asked += 1
        known.open += 1
        text = ""
        if kind in ("write", "cas"):
            self._texts += 1
            text = f"<{key}={self._texts}>"
        request = Request(request_id, client, kind, key, text, expected, self._now_ns())
        if kind != "read":
            self._remember(request)
        return request

    def _remember(self, request: Request) -> None:
        self._requests[request.id] = request
        if len(self._requests) > MAX_REMEMBERED:
            self._requests.pop(next(iter(self._requests))).forgotten = True

    def key_of(self, slot: int) -> str:
        """Return the key that a slot means now."""
        return self._keys[slot]

    # what became of it

    def applied(self, request_id: str, index: int, *, key: str, text: str, changed: bool) -> None:
        """A node is the first to apply the entry at *index*."""
        self.last_index = index
        request = self._requests.get(request_id)
        if request is not None:
            if request.state == "refused" and changed:
                self._fail("refused", f"{request.kind} of {key} was refused, and is applied")
            if request.changed or (request.index and not changed):
                self.repeated += 1
                self._happened("request repeated after an unknown outcome")
                return  # a repetition: it changes nothing
            request.index, request.applied = index, self._now_ns()
            request.changed = changed
        if changed:
            self.values[key] = text
            self.keys.setdefault(key, KeyHistory()).versions.append((index, text))

    def index_of(self, request_id: str) -> int:
        """Return where a request was applied first; 0: nowhere, or long ago."""
        request = self._requests.get(request_id)
        return request.index if request is not None else 0

    def in_doubt(self, key: str) -> set[str]:
        """Return the texts that requests without an answer would leave, if applied after all."""
        return {
            "" if request.kind == "delete" else request.text
            for request in self._requests.values()
            if request.key == key and request.state in ("open", "lost") and not request.index
        }

    def answered(self, request: Request, result: str | bool | None) -> None:
        """The client has its answer."""
        if request.kind == "read":
            self.reads += 1
            result = result or None
        else:
            self.writes += 1
            self.cas_done += request.kind == "cas" and result is True
            if not request.index and result is not False:
                self._fail("acknowledgement", f"{request.kind} of {request.key} was never applied")
        request.state = "answered"
        self._close(request, request.operation(self._now_ns(), result))

    def refuse(self, request: Request) -> None:
        """The client was told that nothing happened."""
        self.refused += 1
        if request.changed:
            self._fail("refused", f"{request.kind} of {request.key} was applied, and is refused")
        request.state = "refused"
        self._close(request, None)

    def lose(self, request: Request) -> None:
        """The client will never know."""
        self.unknown += 1
        request.state = "lost"
        if request.kind != "read":
            self.keys[request.key].lost.append(request)
        self._close(request, None)

    def _close(self, request: Request, operation: Operation | None) -> None:
        known = self.keys[request.key]
        known.open -= 1
        if operation is not None:
            known.done.append(operation)
        if not known.open and request.key not in self._keys:
            self._judge(request.key, known)

    @property
    def waiting(self) -> int:
        """How many requests on the keys of now have no answer yet."""
        return sum(self.keys[key].open for key in self._keys if key in self.keys)

    def stale_read(self, client: int, source: str, key: str, index: int, text: str) -> None:
        """A read without a barrier tells the value as it was after some index.

        *source* is the incarnation of the node that answered: there a client never goes back.
        """
        self.stale_reads += 1
        seen = self._stale.get((client, source), 0)
        if index < seen:
            self._fail(
                "stale read", f"client {client} reads {key} at {index} on {source} after {seen}"
            )
        self._stale[client, source] = max(index, seen)
        if len(self._stale) > MAX_SOURCES:
            del self._stale[next(iter(self._stale))]
        known = self.keys.get(key)
        if known is not None and known.at(index) != text:
            self._fail("stale read", f"{key} = {text!r}, it was {known.at(index)!r} after {index}")

    # judging

    def finish(self) -> None:
        """Judge all keys that are left; who still waits for an answer will get none."""
        for request in self._requests.values():
            if request.state == "open" and request.key in self.keys:
                self.keys[request.key].lost.append(request)
        for key in sorted(self.keys):
            self._judge(key, self.keys[key])

    def _judge(self, key: str, known: KeyHistory) -> None:
        """Check one key, with all that its clients have seen."""
        operations = list(known.done)
        for request in known.lost:
            if request.changed:
                operations.append(request.operation(request.applied, True))
            elif request.forgotten:
                operations.append(request.operation(None, UNKNOWN))
        verdict = check(operations)
        self.checked_keys += 1
        self.checked += len(operations)
        self.steps += verdict.steps
        if verdict.bad:
            self._fail("linearizability", f"{key}: {verdict.explain()}")
        elif not verdict.good:
            self._fail("undecided", f"{key}: no verdict after {verdict.steps} steps")
        del self.keys[key]


def check_final(history: History, values: dict[str, str], fail: Fail, where: str) -> None:
    """Every node holds, key by key, what was applied last, or what still may be applied."""
    for key in sorted(history.values):
        value = values.get(key, "")
        if value != history.values[key] and value not in history.in_doubt(key):
            fail(
                "acknowledged writes",
                f"{key} = {value!r} {where}, it must be {history.values[key]!r}",
            )
