"""The vocabulary of consensus: members, bounds, status, and what the state machine must offer."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import msgspec

KIB, MIB = 1 << 10, 1 << 20


class Member(msgspec.Struct, frozen=True):
    """One node of the Raft group; ``raft_id`` is never used again after a removal."""

    raft_id: int
    uid: str
    address: str
    learner: bool = False


class RaftConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Times and bounds. Election time-outs are drawn from [election_ticks, 2 x election_ticks)."""

    tick_s: float = 0.05
    heartbeat_ticks: int = 2
    election_ticks: int = 10
    max_ticks_after_gap: int = 3
    snapshot_entries: int = 10_000
    snapshot_log_bytes: int = 64 * MIB
    trailing_entries: int = 1_000
    snapshot_chunk_bytes: int = 512 * KIB
    snapshot_request_s: float = 10.0
    segment_bytes: int = 16 * MIB
    record_bytes: int = 256 * MIB
    save_bytes: int = 8 * MIB
    max_entry_bytes: int = 1 * MIB
    max_batch_entries: int = 1_024
    max_message_bytes: int = 512 * KIB
    max_inflight_messages: int = 128
    max_uncommitted_bytes: int = 32 * MIB
    max_apply_bytes: int = 1 * MIB
    max_inbox_bytes: int = 128 * MIB
    max_pending_proposals: int = 8_192
    max_pending_reads: int = 8_192
    max_read_rounds: int = 16
    reserve_bytes: int = 1 * MIB
    min_free_bytes: int = 16 * MIB
    catch_up_entries: int = 100
    compare_s: float = 2.0
    max_members: int = 64

    @property
    def election_s(self) -> float:
        """The shortest election time-out."""
        return self.tick_s * self.election_ticks


class PeerStatus(msgspec.Struct, frozen=True, rename="camel"):
    """One member as the leader sees it."""

    raft_id: int
    uid: str
    address: str
    learner: bool
    matched: int
    state: str
    active: bool


class MemberHealth(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """How another member was when it was asked last; ``clock_offset_ms`` > 0: its clock is ahead.

    ``state``: whether its state was the same at the same index.
    """

    raft_id: int
    uid: str
    answered: bool
    state: Literal["same", "differs", "unknown"]
    disk_full: bool
    quarantined: bool
    clock_offset_ms: float
    last_index: int


class RaftStatus(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """All that ``cluster status --verbose`` shows of one node."""

    uid: str
    raft_id: int
    role: str
    term: int
    leader_uid: str
    is_leader: bool
    suspended: bool
    commit_index: int
    applied_index: int
    last_index: int
    snapshot_index: int
    log_bytes: int
    log_segments: int
    last_sync_ms: float
    disk_full: bool
    pending_proposals: int
    refused_messages: int
    state_hash: str
    members: tuple[Member, ...]
    peers: tuple[PeerStatus, ...] = ()
    health: tuple[MemberHealth, ...] = ()
    quarantine: str = ""


class StateMachine(Protocol):
    """What consensus replicates. Every method is deterministic and does no IO."""

    def apply(self, index: int, term: int, data: bytes) -> Any:
        """Apply one command; a bad one gives a result that says so, never an exception."""

    def freeze(self) -> Any:
        """Return a handle of the state now, in constant time."""

    def encode(self, handle: Any) -> bytes:
        """Return the bytes of a frozen state."""

    def restore(self, data: bytes) -> None:
        """Replace the state."""

    def state_hash(self) -> bytes:
        """Return the hash chained over entries and results."""
