"""Clients that write, compare, delete and read a few contended keys through any node."""

from __future__ import annotations

import asyncio
import random

import msgspec

from blixard.base.errors import BlixardError
from blixard.base.ids import ulid
from blixard.simulation.contention import SLOTS, History, Request
from blixard.simulation.environment import SimEnvironment
from blixard.simulation.models import Kind
from blixard.simulation.nap import Nap

ASK, APPLY, MOVE = "sim.ask", "sim.apply", "sim.move"
_TIMEOUT_S = 1.5
_MEAN_GAP_S = 0.17
_SCALE_GAP_S = 15.0
_SWITCH_GAP_S = 5.0
_MOVE_GAP_S = 8.0
_DECLARE_RETRY_S = 0.5
_ATTEMPTS = 3
_FAILED = ("NOT_LEADER", "NO_QUORUM", "OVERLOADED", "DISK_FULL")
_MIX: tuple[Kind, ...] = ("read",) * 9 + ("write",) * 5 + ("cas",) * 5 + ("delete",)
_STALE = 0.1


class Ask(msgspec.Struct, frozen=True, array_like=True):
    """One request to a node; ``stale``: answer from what is applied there."""

    id: str
    kind: Kind
    key: str
    text: str = ""
    expected: str = ""
    stale: bool = False


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """A text for a read, otherwise whether something changed; the index read at, and on whom.

    ``source`` names the incarnation of the node that answered a read.
    """

    result: str | bool
    index: int = 0
    source: str = ""


class Declare(msgspec.Struct, frozen=True, array_like=True):
    """Want a VM with so many replicas."""

    name: str
    replicas: int
    on_partition: str = ""


_DECODE = msgspec.msgpack.Decoder(Answer).decode
_ENCODE = msgspec.msgpack.Encoder().encode


class Wish(msgspec.Struct, frozen=True, array_like=True):
    """Have some instance that runs moved to another node; *number* says which."""

    number: int


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
    """Wants VMs, changes how many replicas it wants and what a cut-off node does with them."""

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

    async def switch(self) -> None:
        """Change what a cut-off node does with running VMs, now and then."""
        draw = self._env.random
        while not self.stopped:
            await asyncio.sleep(draw.expovariate(1 / _SWITCH_GAP_S))
            name, replicas = draw.choice((("single", 1), ("kept", 2)))
            await self._declare(Declare(name, replicas, draw.choice(("fence", "keep"))))

    async def migrate(self, draw: random.Random) -> None:
        """Have an instance moved, now and then; one that cannot be moved now stays."""
        while not self.stopped:
            await asyncio.sleep(draw.expovariate(1 / _MOVE_GAP_S))
            wish = Wish(draw.getrandbits(20))
            try:
                await self._asking.ask(MOVE, msgspec.msgpack.encode(wish))
            except BlixardError as error:
                self._env.log("info", "migration_not_begun", code=error.code)

    async def _declare(self, wanted: Declare) -> None:
        while not self.stopped:
            try:
                await self._asking.ask(APPLY, msgspec.msgpack.encode(wanted))
                return
            except BlixardError as error:
                self._env.log("info", "declaration_repeated", code=error.code)
                await asyncio.sleep(_DECLARE_RETRY_S)


class Client:
    """One client; it asks one thing after the other, at least five in a healthy second."""

    def __init__(
        self, env: SimEnvironment, number: int, nodes: list[str], history: History
    ) -> None:
        self._env = env
        self._number = number
        self._asking = Asking(env, nodes, number)
        self._history = history
        self._seen: dict[str, str] = {}
        self._ahead_ms = 0
        self.stopped = False
        self.successes = 0

    async def run(self) -> None:
        """Work until stopped."""
        draw = self._env.random
        while not self.stopped:
            await Nap(self._env.process, draw.expovariate(1 / _MEAN_GAP_S))
            slot = draw.randrange(SLOTS)
            if draw.random() < _STALE:
                await self._read_stale(self._history.key_of(slot))
            else:
                await self._ask(draw.choice(_MIX), slot)

    async def _ask(self, kind: Kind, slot: int) -> None:
        """Send one request, again with its id while nobody knows what became of it."""
        expected = self._seen.get(self._history.key_of(slot), "") if kind == "cas" else ""
        request = self._history.begin(self._new_id(), self._number, kind, slot, expected)
        ask = Ask(request.id, request.kind, request.key, request.text, request.expected)
        unknown = False
        for attempt in range(_ATTEMPTS):
            try:
                answer = _DECODE(await self._asking.ask(ASK, _ENCODE(ask)))
            except BlixardError as error:
                self._date(error)
                unknown = unknown or error.code not in _FAILED
                if not unknown or (attempt and self._env.random.random() < 0.5):
                    break
                continue
            self._answered(request, answer)
            return
        if unknown or kind == "read":
            self._history.lose(request)
        else:
            self._history.refuse(request)

    def _new_id(self) -> str:
        """Return a request id, dated by the cluster's clock once that is known to differ."""
        time_ms = self._env.wall_time_ms() + self._ahead_ms
        return ulid(time_ms, self._env.random.getrandbits(80))

    def _date(self, error: BlixardError) -> None:
        """Take the time from an answer that says that an id was of a wrong one."""
        time_ms = error.details.get("timeMs")
        if isinstance(time_ms, int):
            self._ahead_ms = time_ms - self._env.wall_time_ms()

    def _answered(self, request: Request, answer: Answer) -> None:
        self._history.answered(request, answer.result)
        self.successes += request.kind != "read"
        if isinstance(answer.result, str):
            self._see(request.key, answer.result)
        elif answer.result:
            self._see(request.key, request.text)

    def _see(self, key: str, text: str) -> None:
        if len(self._seen) > 2 * SLOTS:
            self._seen.clear()
        self._seen[key] = text

    async def _read_stale(self, key: str) -> None:
        ask = Ask("", "read", key, stale=True)
        try:
            answer = _DECODE(await self._asking.ask(ASK, _ENCODE(ask)))
        except BlixardError:
            return
        text = str(answer.result)
        self._history.stale_read(self._number, answer.source, key, answer.index, text)
