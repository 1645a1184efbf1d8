"""What clients of a real cluster saw, recorded and judged by the simulator's checker.

    python bench/history.py FILE

judges a history that ``bench/chaos.py`` kept. One operation a line: client, kind, key, call and
return in monotonic nanoseconds, values, and whether the outcome is unknown. Every written value is
written once, so that a revision stands for a value: a write under ``ifRevision`` is a cas that
expects the value that was read with that revision. What was surely not done is not in the history:
a value of such a write that is read all the same fits no order.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import random
import ssl
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from cluster import Client, Node, report

from blixard.simulation.linearizability import MAX_STEPS, check_keys
from blixard.simulation.models import UNKNOWN, Kind, Operation

SLOTS = 3
OPERATIONS_PER_KEY, UNKNOWNS_PER_KEY = 300, 10
TIMEOUT_S = 3.0
MEAN_GAP_S = 0.05
LOYALTY, LOOK_AT_ONCE = 0.7, 0.3
PREFIX = "chaos"
# The server's word that nothing was done, and never will be.
NOT_DONE = frozenset({"NOT_LEADER", "NO_QUORUM", "OVERLOADED", "DISK_FULL", "QUARANTINED"})
MAYBE_DONE = frozenset({"OUTCOME_UNKNOWN", "TIMEOUT", "DISK_FAILED", "REQUEST_ID_EXPIRED"})
TROUBLE = (OSError, http.client.HTTPException, ValueError)


class Keys:
    """The contended keys of this moment; one that got too many unknown outcomes is left behind.

    The search for an order is exponential in open outcomes, so no key may collect many of them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._generations = [0] * SLOTS
        self._operations: Counter[str] = Counter()
        self._unknown: Counter[str] = Counter()
        self._number = 0

    def draw(self, source: random.Random) -> str:
        """Return one of the keys in use."""
        with self._lock:
            slot = source.randrange(SLOTS)
            key = f"{PREFIX}/k{slot}g{self._generations[slot]}"
            self._operations[key] += 1
            worn = self._unknown[key] >= UNKNOWNS_PER_KEY
            if worn or self._operations[key] >= OPERATIONS_PER_KEY:
                self._generations[slot] += 1
            return key

    def value(self) -> int:
        """Return a value that no other write has."""
        with self._lock:
            self._number += 1
            return self._number

    def missed(self, key: str) -> None:
        """Count an unknown outcome."""
        with self._lock:
            self._unknown[key] += 1


class Recorder:
    """The history and its counters; shared by the clients."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.operations: list[Operation] = []
        self.added: dict[str, int] = {}
        self.outcomes: Counter[str] = Counter()
        self.strange: list[str] = []

    def keep(self, operation: Operation, outcome: str) -> None:
        """Add one operation."""
        with self._lock:
            self.operations.append(operation)
            self.outcomes[outcome] += 1

    def acknowledge(self, key: str, value: int) -> None:
        """Remember a key written once and acknowledged."""
        with self._lock:
            self.added[key] = value
            self.outcomes["ok"] += 1

    def count(self, outcome: str) -> None:
        """Count what is not in the history."""
        with self._lock:
            self.outcomes[outcome] += 1

    def wonder(self, text: str) -> None:
        """Remember an answer that nobody should get."""
        with self._lock:
            self.strange.append(text)


class Talker(threading.Thread):
    """One client: reads, writes, cas and adds; mostly at one node, now and then at another."""

    def __init__(
        self, number: int, seed: int, nodes: list[Node], access: tuple[ssl.SSLContext, str],
        shared: tuple[Keys, Recorder, threading.Event],
    ) -> None:  # fmt: skip
        super().__init__(daemon=True)
        self.number, self.nodes, self.access = number, nodes, access
        self.keys, self.recorder, self.stopped = shared
        self.random = random.Random(f"{seed}/{number}")
        self.node = nodes[number % len(nodes)]
        self.clients: dict[str, Client] = {}
        self.seen: dict[str, tuple[int | None, int]] = {}

    def run(self) -> None:
        while not self.stopped.wait(self.random.expovariate(1 / MEAN_GAP_S)):
            if self.random.random() < 0.15:
                self._add()
            else:
                self._one(self.keys.draw(self.random))
        for client in self.clients.values():
            client.close()

    def _ask(self, method: str, path: str, value: int | None = None) -> tuple[str, Any]:
        """Return outcome and body; the outcome is ok, unknown, or the code of a refusal."""
        node = self.node if self.random.random() < LOYALTY else self.random.choice(self.nodes)
        try:
            if node.name not in self.clients:
                context, key = self.access
                client = Client(node.url, context, key=key, timeout_s=TIMEOUT_S)
                client.connect()
                self.clients[node.name] = client
        except TROUBLE:
            self.node = self.random.choice(self.nodes)
            return "NOT_SENT", None
        body = None if value is None else json.dumps({"value": str(value)}).encode()
        try:
            status, answer = self.clients[node.name].ask(method, path, body)
        except TROUBLE:
            self.clients.pop(node.name).close()
            self.node = self.random.choice(self.nodes)
            return "unknown", None
        if status in {200, 201}:
            return "ok", answer
        code = str(answer.get("code", "")) if isinstance(answer, dict) else f"HTTP {status}"
        if code in NOT_DONE and self.random.random() < 0.3:
            self.node = self.random.choice(self.nodes)
        return "unknown" if code in MAYBE_DONE else code, answer

    def _add(self) -> None:
        """Write a key of its own, once."""
        value = self.keys.value()
        key = f"{PREFIX}/once/{value:08}"
        outcome, _ = self._ask("PUT", f"/v1/kv/{key}", value)
        if outcome == "ok":
            self.recorder.acknowledge(key, value)
        else:
            self._refused(outcome, f"add {key}")

    def _one(self, key: str) -> None:
        drawn = self.random.random()
        kind: Kind = "write" if drawn < 0.3 else "cas" if drawn < 0.6 else "read"
        if kind == "cas" and key not in self.seen:
            kind = "read"
        self._do(kind, key)
        if kind != "read" and self.random.random() < LOOK_AT_ONCE:
            self._do("read", key)

    def _do(self, kind: Kind, key: str) -> None:
        before = self.seen.get(key)
        value = None if kind == "read" else self.keys.value()
        path = f"/v1/kv/{key}"
        if kind == "cas":
            assert before is not None
            path += f"?ifRevision={before[1]}"
        called = time.monotonic_ns()
        outcome, answer = self._ask("GET" if kind == "read" else "PUT", path, value)
        operation = Operation(client=self.number, kind=kind, key=key, called=called, value=value,
                              expected=before[0] if before and kind == "cas" else None)  # fmt: skip
        self._judge(operation, outcome, answer)

    def _judge(self, operation: Operation, outcome: str, answer: Any) -> None:
        """Keep an operation as what its answer says of it."""
        key, kind, ended = operation.key, operation.kind, time.monotonic_ns()
        result: int | bool | None = True
        if outcome == "unknown":
            if kind != "read":
                self.keys.missed(key)
            self.recorder.keep(operation, outcome)
            return
        if outcome == "ok":
            value = int(answer["value"])
            result = value if kind == "read" else True
            self.seen[key] = (value, int(answer["revision"]))
        elif outcome == "NOT_FOUND" and kind == "read":
            result, self.seen[key] = None, (None, 0)
        elif outcome in {"CONFLICT", "ALREADY_EXISTS"} and kind == "cas":
            result = False
            self.seen.pop(key, None)
        else:
            self._refused(outcome, f"{kind} {key}")
            return
        done = msgspec.structs.replace(operation, ended=ended, result=result)
        self.recorder.keep(done, "ok")

    def _refused(self, outcome: str, what: str) -> None:
        known = outcome in NOT_DONE or outcome in {"NOT_SENT", "unknown"}
        if not known:
            self.recorder.wonder(f"client {self.number}: {what}: {outcome}")
        self.recorder.count(outcome if outcome == "unknown" else "refused")


def save(history: list[Operation], path: Path) -> None:
    """Write one JSON object a line."""
    with open(path, "wb") as file:
        for operation in history:
            row = {name: getattr(operation, name) for name in operation.__struct_fields__}
            row["unknown"] = row["result"] is UNKNOWN
            if row["unknown"]:
                row["result"] = None
            file.write(msgspec.json.encode(row) + b"\n")


def load(path: Path) -> list[Operation]:
    """Read what :func:`save` wrote."""
    history = []
    for line in path.read_bytes().splitlines():
        row = json.loads(line)
        if row.pop("unknown"):
            row["result"] = UNKNOWN
        history.append(Operation(**row))
    return history


def judge(
    history: list[Operation], *, max_steps: int = MAX_STEPS
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Return figures, and what is wrong by its name; a key without a verdict is wrong too."""
    verdicts = check_keys(history, max_steps=max_steps)
    bad = [f"{key}: {verdict.explain()}" for key, verdict in verdicts.items() if verdict.bad]
    undecided = [
        f"{key}: no verdict after {verdict.steps} steps"
        for key, verdict in verdicts.items()
        if not verdict.good and not verdict.bad
    ]
    writes = sorted(o.ended for o in history if o.ended is not None and o.kind == "write")
    gaps = [after - before for before, after in itertools.pairwise(writes)]
    figures = {
        "operations": len(history),
        "longest_gap_s": round(max(gaps, default=0) / 1e9, 1),
        "unknown": sum(o.result is UNKNOWN for o in history),
        "keys": len(verdicts),
        "steps": sum(verdict.steps for verdict in verdicts.values()),
        "not_linearizable": len(bad),
        "undecided": len(undecided),
    }
    return figures, {"not_linearizable": bad, "undecided": undecided}


def read_entries(node: Node, access: tuple[ssl.SSLContext, str], query: str = "") -> dict[str, int]:
    """Return all of the clients' keys as one node has them. Raises OSError, RuntimeError."""
    client = Client(node.url, access[0], key=access[1], timeout_s=10)
    found: dict[str, int] = {}
    after = ""
    with contextlib.closing(client):
        while True:
            path = f"/v1/kv?prefix={PREFIX}/&limit=1000&continue={after}{query}"
            status, answer = client.ask("GET", path)
            if status != 200:
                raise RuntimeError(f"{node.name} answers {status} {answer}")
            found.update({item["key"]: int(item["value"]) for item in answer["items"]})
            after = answer.get("continue", "")
            if not after:
                return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    figures, problems = judge(load(parser.parse_args().file))
    for name, texts in problems.items():
        for text in texts:
            print(f"{name}: {text}")
    bars = {"not_linearizable": 0, "undecided": 0}
    return report("history", figures, bars, ok=not any(problems.values()))


if __name__ == "__main__":
    sys.exit(main())
