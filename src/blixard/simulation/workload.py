"""Clients that write and read single-writer keys through any node, and check every answer.

A key has one writer, which writes 1, 2, 3 ... and leaves the key for ever once an outcome is
unknown. So linearizability of the key needs no search: a read must not return less than what was
acknowledged, or returned by another read, before it began, nor more than what was asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from blixard.base.errors import BlixardError
from blixard.simulation.environment import SimEnvironment

WRITE, READ, APPLY = "sim.write", "sim.read", "sim.apply"
_TIMEOUT_S = 1.5
_MEAN_GAP_S = 0.4
_SCALE_GAP_S = 15.0
_DECLARE_RETRY_S = 0.5
_FAILED = ("NOT_LEADER", "NO_QUORUM", "OVERLOADED", "DISK_FULL", "CONFLICT")


class Write(msgspec.Struct, frozen=True, array_like=True):
    """Set *key* to *value*."""

    key: str
    value: int

    @property
    def text(self) -> str:
        """What is stored: unique among all writes, and easy to find on a disk."""
        return f"<{self.key}={self.value}>"


class Declare(msgspec.Struct, frozen=True, array_like=True):
    """Want a VM with so many replicas."""

    name: str
    replicas: int
    on_partition: str = ""


def value_of(text: str) -> int:
    """Return the number in a stored text; 0 for nothing."""
    return int(text[text.index("=") + 1 : -1]) if text else 0


class KeyHistory(msgspec.Struct):
    """What is known of one key."""

    asked: int = 0
    acknowledged: int = 0
    seen: int = 0

    @property
    def least(self) -> int:
        """What a read that begins now may return at least."""
        return max(self.acknowledged, self.seen)


class History(msgspec.Struct):
    """All keys and counters; shared by the clients."""

    keys: dict[str, KeyHistory] = {}
    writes: int = 0
    reads: int = 0
    unknown: int = 0
    refused: int = 0
    last_write_ns: int = 0


class Asking:
    """Asks one node, follows it once to the leader that it names."""

    def __init__(self, env: SimEnvironment, nodes: list[str], favourite: int) -> None:
        self._env = env
        self._nodes = nodes
        self._favourite = nodes[favourite % len(nodes)]

    async def ask(self, method: str, payload: bytes) -> bytes:
        """Ask the favourite node, now and then another; change the favourite after a failure."""
        node = self._favourite
        if self._env.random.random() < 0.2:
            node = self._env.random.choice(self._nodes)
        try:
            return await self._request(node, method, payload)
        except BlixardError as error:
            leader = str(error.details.get("leader", ""))
            if error.code != "NOT_LEADER" or not leader or leader == node:
                self._favourite = self._env.random.choice(self._nodes)
                raise
            self._favourite = leader
            return await self._request(leader, method, payload)

    async def _request(self, node: str, method: str, payload: bytes) -> bytes:
        return await self._env.transport.request(node, method, payload, timeout_s=_TIMEOUT_S)


class Operator:
    """Wants VMs, and changes how many replicas it wants."""

    def __init__(self, env: SimEnvironment, nodes: list[str]) -> None:
        self._env = env
        self._asking = Asking(env, nodes, 0)
        self.stopped = False

    async def run(self) -> None:
        """Declare a few VMs, then scale them now and then."""
        for name, on_partition in (("web", ""), ("single", "fence"), ("kept", "keep")):
            await self._declare(Declare(name, 1 if name == "single" else 2, on_partition))
        while not self.stopped:
            await asyncio.sleep(self._env.random.expovariate(1 / _SCALE_GAP_S))
            await self._declare(Declare("web", self._env.random.randint(1, 3)))

    async def _declare(self, wanted: Declare) -> None:
        while not self.stopped:
            try:
                await self._asking.ask(APPLY, msgspec.msgpack.encode(wanted))
                return
            except BlixardError as error:
                self._env.log("info", "declaration_repeated", code=error.code)
                await asyncio.sleep(_DECLARE_RETRY_S)


class Client:
    """One client with its own keys."""

    def __init__(
        self,
        env: SimEnvironment,
        number: int,
        nodes: list[str],
        history: History,
        fail: Callable[[str, str], None],
    ) -> None:
        self._env = env
        self._number = number
        self._asking = Asking(env, nodes, number)
        self._history = history
        self._fail = fail
        self._generation = 0
        self._key = ""
        self.stopped = False
        self.successes = 0

    async def run(self) -> None:
        """Work until stopped."""
        draw = self._env.random
        while not self.stopped:
            await asyncio.sleep(draw.expovariate(1 / _MEAN_GAP_S))
            if draw.random() < 0.6:
                await self._write()
            else:
                await self._read()

    async def _write(self) -> None:
        if not self._key:
            self._generation += 1
            self._key = f"c{self._number}g{self._generation}"
            self._history.keys[self._key] = KeyHistory()
        known = self._history.keys[self._key]
        known.asked += 1
        write = Write(self._key, known.asked)
        try:
            await self._asking.ask(WRITE, msgspec.msgpack.encode(write))
        except BlixardError as error:
            if error.code in _FAILED:
                known.asked -= 1
                self._history.refused += 1
            else:
                self._key = ""
                self._history.unknown += 1
            return
        known.acknowledged = write.value
        self._history.writes += 1
        self.successes += 1

    async def _read(self) -> None:
        if not self._history.keys:
            return
        key = self._env.random.choice(list(self._history.keys))
        known = self._history.keys[key]
        least = known.least
        try:
            answer = await self._asking.ask(READ, key.encode())
        except BlixardError:
            return
        value = value_of(answer.decode())
        self._history.reads += 1
        if not least <= value <= known.asked:
            self._fail(
                "linearizability",
                f"client {self._number} reads {key} = {value}, it must be in "
                f"[{least}, {known.asked}]",
            )
        known.seen = max(known.seen, value)


def check_final(
    history: History, values: dict[str, str], fail: Callable[[str, str], None], where: str
) -> None:
    """Every acknowledged write is still there."""
    for key in sorted(history.keys):
        known = history.keys[key]
        value = value_of(values.get(key, ""))
        if not known.least <= value <= known.asked:
            fail(
                "acknowledged writes",
                f"{key} = {value} {where}, it must be in [{known.least}, {known.asked}]",
            )
