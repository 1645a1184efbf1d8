"""Members compare their states at one index, and tell each other how they are.

Every member asks all others for their state's hash at what it has applied itself. It judges only
itself: when a majority agrees on another hash than its own, it is quarantined. It then follows and
votes, but answers no reads and never leads, also after a restart: its log is right, its state is
not. Where no majority agrees, all who differ are shown and nobody is quarantined.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

from blixard.base.errors import BlixardError
from blixard.consensus.config import MemberHealth, RaftConfig
from blixard.consensus.log import read_file, sync_directory, sync_file
from blixard.consensus.membership import Membership
from blixard.consensus.wire import Hello
from blixard.ports.environment import Environment

COMPARE_METHOD = "raft.compare"
ANSWER_WITHIN_S = 1.0
_KEPT = 4_096
_FILE = "quarantine"


class Question(msgspec.Struct, frozen=True, array_like=True):
    """Who asks, and at which applied index the state is compared (0: it is not)."""

    hello: Hello
    index: int


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """How a member is; ``hash`` is empty if it does not know the index (any more)."""

    hash: bytes
    last_index: int
    disk_full: bool
    quarantined: bool
    wall_time_ms: int
    waited: bool = False


class Quarantine(msgspec.Struct, frozen=True):
    """Why a member's state is not to be trusted; kept in its raft directory."""

    index: int
    own_hash: str
    majority_hash: str
    majority: tuple[str, ...]
    at_ms: int

    def text(self) -> str:
        """Say it."""
        others = ", ".join(self.majority)
        return f"its state at index {self.index} differs from that of a majority ({others})"


class Verdict(msgspec.Struct, frozen=True):
    """What the hashes at one index say about the node that compares them.

    ``minority``: a majority agrees on another state; ``undecided``: states differ and no majority
    agrees. ``differing`` are the members with another state than one's own.
    """

    kind: Literal["agree", "minority", "undecided"]
    differing: tuple[int, ...] = ()


def judge(own_id: int, hashes: Mapping[int, bytes], voters: list[int]) -> Verdict:
    """Judge one's own state by the *hashes* of all who answered, one's own among them.

    A majority is more than half of all voters, and two members at least.
    """
    own = hashes[own_id]
    differing = tuple(sorted(i for i, found in hashes.items() if found != own))
    if not differing:
        return Verdict("agree")
    for candidate in sorted(set(hashes.values())):
        holders = [i for i, found in hashes.items() if found == candidate]
        votes = sum(1 for i in holders if i in voters)
        if 2 * votes > len(voters) and len(holders) > 1:
            return Verdict("agree" if candidate == own else "minority", differing)
    return Verdict("undecided", differing)


class RecentStates:
    """The hashes after the last applied entries; entries are applied without gaps."""

    def __init__(self) -> None:
        self._hashes: deque[bytes] = deque(maxlen=_KEPT)
        self._last = 0

    def restart(self, index: int, state_hash: bytes) -> None:
        """Begin at a snapshot."""
        self._hashes.clear()
        self.add(index, state_hash)

    def add(self, index: int, state_hash: bytes) -> None:
        """Keep the hash after one more entry."""
        self._hashes.append(state_hash)
        self._last = index

    def at(self, index: int) -> bytes:
        """Return the hash after an entry; empty if it is not known."""
        back = self._last - index
        return self._hashes[-1 - back] if 0 <= back < len(self._hashes) else b""


class Compared(Protocol):
    """What the comparison needs of its node."""

    applied_index: int

    @property
    def membership(self) -> Membership:
        """The members as applied."""

    @property
    def disk_full(self) -> bool:
        """Whether the data directory has no room."""

    @property
    def last_index(self) -> int:
        """The last entry of the log."""

    def may_speak(self, uid: str, hello: Hello) -> bool:
        """Tell whether a node may speak as the member that it names."""

    def quarantined(self) -> None:
        """The state turned out to be wrong: serve and lead no longer."""

    async def prefer_another_leader(self) -> None:
        """Hand leadership on if this node leads and should not."""


class Comparison:
    """Asks and answers; holds what is known of the other members."""

    def __init__(
        self,
        env: Environment,
        hello: Hello,
        config: RaftConfig,
        *,
        directory: str,
        states: RecentStates,
        node: Compared,
    ) -> None:
        self._env = env
        self._hello = hello
        self._config = config
        self._directory = directory
        self._states = states
        self._node = node
        self._health: dict[int, MemberHealth] = {}
        self._said: tuple[int, ...] = ()
        self.quarantine = self._stored()

    # what is known

    def health(self) -> tuple[MemberHealth, ...]:
        """Return how the other members were when they were asked last, in order of id."""
        known = self._node.membership.members
        return tuple(self._health[i] for i in sorted(self._health) if i in known)

    def unfit(self) -> set[int]:
        """Return the members that should not lead: quarantined, without room, or silent."""
        return {h.raft_id for h in self.health() if h.quarantined or h.disk_full or not h.answered}

    # asking

    async def run(self) -> None:
        """Compare again and again."""
        while True:
            await asyncio.sleep(self._config.compare_s)
            await self.compare()
            await self._node.prefer_another_leader()

    async def compare(self) -> None:
        """One round: ask everybody, then judge."""
        index = self._node.applied_index
        own = self._states.at(index)
        voters = self._node.membership.voters()
        own_id = self._hello.raft_id
        others = [m for m in self._node.membership.listed() if m.raft_id != own_id]
        question = msgspec.msgpack.encode(Question(self._hello, index))
        answers = await asyncio.gather(*[self._ask(m.uid, question) for m in others])
        hashes = {own_id: own}
        for member, found in zip(others, answers, strict=True):
            answer = found[0] if found is not None else None
            if answer is not None and answer.hash:
                hashes[member.raft_id] = answer.hash
            before = self._health.get(member.raft_id)
            self._health[member.raft_id] = MemberHealth(
                raft_id=member.raft_id,
                uid=member.uid,
                answered=answer is not None,
                state=_compared(own, answer, before),
                disk_full=answer.disk_full if answer else False,
                quarantined=answer.quarantined if answer else bool(before and before.quarantined),
                clock_offset_ms=_offset(found, before),
                last_index=answer.last_index if answer else 0,
            )
        if own and self.quarantine is None:
            await self._act(index, judge(own_id, hashes, voters), hashes)

    async def _ask(self, uid: str, question: bytes) -> tuple[Answer, float] | None:
        """Return the answer and how far that clock is ahead (ms); None without an answer."""
        loop, began_ms = asyncio.get_running_loop(), self._env.wall_time_ms()
        began = loop.time()
        try:
            data = await self._env.transport.request(
                uid, COMPARE_METHOD, question, timeout_s=2 * ANSWER_WITHIN_S
            )
            answer = msgspec.msgpack.decode(data, type=Answer)
        except (BlixardError, msgspec.MsgspecError):
            return None  # shown as not answered
        middle_ms = began_ms + (loop.time() - began) * 500
        return answer, answer.wall_time_ms - middle_ms

    async def _act(self, index: int, verdict: Verdict, hashes: dict[int, bytes]) -> None:
        if verdict.differing != self._said:
            self._said = verdict.differing
            names = [self._uid(raft_id) for raft_id in verdict.differing]
            level = "error" if verdict.differing else "info"
            self._env.log(
                level, "state_compared", index=index, verdict=verdict.kind, differing=names
            )
        if verdict.kind != "minority":
            return
        right = hashes[verdict.differing[0]]
        majority = [i for i in verdict.differing if hashes[i] == right]
        self.quarantine = Quarantine(
            index=index,
            own_hash=hashes[self._hello.raft_id].hex(),
            majority_hash=right.hex(),
            majority=tuple(self._uid(i) for i in majority),
            at_ms=self._env.wall_time_ms(),
        )
        self._env.log("critical", "state_quarantined", detail=self.quarantine.text())
        self._node.quarantined()
        try:
            await self._store(self.quarantine)
        except (BlixardError, OSError) as error:
            self._env.log("error", "quarantine_not_stored", detail=str(error))

    def _uid(self, raft_id: int) -> str:
        member = self._node.membership.members.get(raft_id)
        return member.uid if member is not None else str(raft_id)

    # answering

    async def answer(self, uid: str, payload: bytes) -> bytes:
        """Tell the hash at an index, after a short wait if it is not applied yet."""
        try:
            question = msgspec.msgpack.decode(payload, type=Question)
        except msgspec.MsgspecError as error:
            raise BlixardError("BAD_REQUEST", f"question: {error}") from error
        if not self._node.may_speak(uid, question.hello):
            raise BlixardError("FORBIDDEN", "only members compare their states")
        waited = await self._reached(question.index)
        return msgspec.msgpack.encode(
            Answer(
                hash=self._states.at(question.index),
                last_index=self._node.last_index,
                disk_full=self._node.disk_full,
                quarantined=self.quarantine is not None,
                wall_time_ms=self._env.wall_time_ms(),
                waited=waited,
            )
        )

    async def _reached(self, index: int) -> bool:
        """Wait until *index* is applied, not for long; tell whether there was a wait."""
        loop = asyncio.get_running_loop()
        end = loop.time() + ANSWER_WITHIN_S
        waited = False
        while self._node.applied_index < index and loop.time() < end:
            waited = True
            await asyncio.sleep(self._config.tick_s)
        return waited

    # over restarts

    def _stored(self) -> Quarantine | None:
        path, disk = f"{self._directory}/{_FILE}", self._env.disk
        if not disk.exists(path):
            return None
        file = disk.open(path)
        try:
            return msgspec.json.decode(read_file(file), type=Quarantine)
        except msgspec.MsgspecError:
            # Written partly when the power went: that it was begun is what counts.
            return Quarantine(0, "", "", (), 0)
        finally:
            file.close()

    async def _store(self, quarantine: Quarantine) -> None:
        path, disk = f"{self._directory}/{_FILE}", self._env.disk
        file = disk.open(path, create=True)
        try:
            file.pwrite(0, msgspec.json.encode(quarantine))
            await sync_file(file, path)
        finally:
            file.close()
        await sync_directory(disk, self._directory)


def _compared(
    own: bytes, answer: Answer | None, before: MemberHealth | None
) -> Literal["same", "differs", "unknown"]:
    """Return how a member's state compares; what once differed stays so while it is silent."""
    if answer is None or not answer.hash or not own:
        return "differs" if before is not None and before.state == "differs" else "unknown"
    return "same" if answer.hash == own else "differs"


def _offset(found: tuple[Answer, float] | None, before: MemberHealth | None) -> float:
    """Return how far a member's clock is ahead; an answer that had to wait says nothing new."""
    if found is None or found[0].waited:
        return before.clock_offset_ms if before is not None else 0.0
    return round(found[1], 1)


__all__ = ["COMPARE_METHOD", "Answer", "Comparison", "Quarantine", "Question", "RecentStates",
           "Verdict", "judge"]  # fmt: skip
