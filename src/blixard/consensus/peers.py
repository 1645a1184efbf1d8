"""Frames to and from the other members: who is who, and what is dropped."""

from __future__ import annotations

from collections.abc import Callable

from blixard.base.errors import BlixardError
from blixard.consensus.config import RaftConfig
from blixard.consensus.membership import Membership
from blixard.consensus.saving import Frames
from blixard.consensus.wire import CHANNEL, Hello, encode_hello, split_frame
from blixard.ports.environment import Environment

_MAX_STRANGERS = 64


class Peers:
    """The way to the other members, and their frames that wait for the next pass."""

    def __init__(
        self,
        env: Environment,
        hello: Hello,
        config: RaftConfig,
        membership: Callable[[], Membership],
        wake: Callable[[], None],
    ) -> None:
        self._env = env
        self._hello = hello
        self._greeting = encode_hello(hello)
        self._config = config
        self._membership = membership
        self._wake = wake
        self._heads: dict[str, bytes] = {}
        self._strangers: dict[int, str] = {}
        self._refused: dict[str, str] = {}
        self._inbox: list[bytes] = []
        self._inbox_bytes = 0
        self._uids: dict[int, str] = {}

    def learn(self, membership: Membership) -> None:
        """Follow the members' addresses."""
        self._uids = {m.raft_id: m.uid for m in membership.listed()}
        self._heads.clear()
        for member in membership.listed():
            if member.raft_id != self._hello.raft_id:
                self._env.transport.set_peer(member.uid, member.address)

    def uid_of(self, raft_id: int) -> str:
        """Return the node uid of a member, or of a stranger that spoke; else empty."""
        return self._uids.get(raft_id) or self._strangers.get(raft_id, "")

    def take(self) -> list[bytes]:
        """Return the frames that came since the last call."""
        if not self._inbox:
            return self._inbox
        frames, self._inbox, self._inbox_bytes = self._inbox, [], 0
        return frames

    def send(self, frames: Frames) -> list[int]:
        """Send; returns the members that could not be reached, each once."""
        lost: list[int] = []
        send, greeting, uids = self._env.transport.send, self._greeting, self._uids
        for raft_id, frame in frames:
            uid = uids.get(raft_id) or self._strangers.get(raft_id, "")
            if (not uid or not send(uid, CHANNEL, greeting + frame)) and raft_id not in lost:
                lost.append(raft_id)
        return lost

    def on_message(self, uid: str, payload: bytes) -> None:
        """Take a frame; the transport vouches for *uid*."""
        head = self._heads.get(uid)
        if head is None or not payload.startswith(head):
            head = self._check(uid, payload)
            if head is None:
                return
        size = self._inbox_bytes + len(payload)
        if size > self._config.max_inbox_bytes:
            return
        self._inbox.append(payload[len(head) :])
        self._inbox_bytes = size
        self._wake()

    def _check(self, uid: str, payload: bytes) -> bytes | None:
        """Return the greeting's bytes if the sender may speak as the member it names."""
        try:
            head, hello = split_frame(payload)
        except BlixardError as error:
            self._refuse(uid, error.message)
            return None
        if not self.may_speak(uid, hello):
            self._refuse(uid, f"cluster {hello.cluster_id}, raft id {hello.raft_id}")
            return None
        self._heads[uid] = head
        return head

    def _refuse(self, uid: str, message: str) -> None:
        """Say it once for each peer: a removed node goes on for long."""
        if uid in self._refused or len(self._refused) >= _MAX_STRANGERS:
            return
        self._refused[uid] = message
        self._env.log("warning", "raft_peer_refused", peer=uid, message=message)

    def may_speak(self, uid: str, hello: Hello) -> bool:
        """Tell whether the node *uid* may speak as the member that it names."""
        membership = self._membership()
        known = membership.members.get(hello.raft_id)
        if hello.cluster_id != self._hello.cluster_id or hello.raft_id in membership.removed:
            return False
        if known is not None:
            return known.uid == uid
        if membership.by_uid(uid) is not None:
            return False
        # A joiner does not know its leader yet; it answers to the address that the leader names.
        if len(self._strangers) >= _MAX_STRANGERS:
            self._strangers.pop(next(iter(self._strangers)))
        self._strangers[hello.raft_id] = uid
        self._env.transport.set_peer(uid, hello.address)
        return True
