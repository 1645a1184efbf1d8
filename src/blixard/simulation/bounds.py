"""Nothing that waits, and nothing on disk, grows beyond its configured bound."""

from __future__ import annotations

from operator import le
from typing import Any

from blixard.consensus.config import RaftConfig
from blixard.consensus.node import RaftNode
from blixard.consensus.outputs import Outlook
from blixard.consensus.snapshots import KEPT
from blixard.simulation.oracles import Oracles

EVERY = 8  # changes of what a node's engine tells
_ENTRY_BYTES = 32  # less than a command of a client counts against the bound
_SLACK_BYTES = 512
_SLACK_ENTRIES = 200  # what may be written while a snapshot is
_OWN_READS = 4  # the node's own barriers are never refused
_SNAPSHOTS = KEPT + 1  # one more has its name before the oldest goes


def watch_bounds(raft: RaftNode, host: int, oracles: Oracles) -> None:
    """Tell the oracles how much waits and is kept: at each proposal and each 8th change."""
    propose, refresh, passes = raft.propose, raft._refresh, 0
    most = _most(raft._config)

    async def proposed(data: bytes, *, timeout_s: float) -> Any:
        _check_queues(raft, host, oracles, most)
        return await propose(data, timeout_s=timeout_s)

    def refreshed(news: Outlook | None) -> None:
        nonlocal passes
        refresh(news)
        passes += 1
        if passes == EVERY:
            passes = 0
            _check_queues(raft, host, oracles, most)
            _check_disk(raft, host, oracles)

    raft.propose = proposed  # type: ignore[method-assign]
    raft._refresh = refreshed  # type: ignore[method-assign]


_QUEUES = (
    "uncommitted bytes", "waiting proposals", "queued bytes", "waiting reads", "rounds of reads",
    "bytes of inbox",
)  # fmt: skip


def _most(config: RaftConfig) -> tuple[int, ...]:
    """Return the bound of each of the queues."""
    return (
        # A new leader does not count what it found in its log: as much again may stand there.
        2 * config.max_uncommitted_bytes + _SLACK_BYTES,
        # A change of the members waits beside what clients proposed.
        config.max_pending_proposals + 1,
        config.max_uncommitted_bytes + config.max_entry_bytes,
        config.max_pending_reads + _OWN_READS,
        config.max_read_rounds,
        config.max_inbox_bytes,
    )


def _check_queues(raft: RaftNode, host: int, oracles: Oracles, most: tuple[int, ...]) -> None:
    proposals, reads = raft._proposals, raft._reads
    waiting, held = len(proposals.pending), len(reads.waiting) + len(reads.confirmed)
    for round_ in reads.rounds:
        held += len(round_.waiters)
    sizes = (
        (raft.last_index - raft.commit_index) * _ENTRY_BYTES,
        waiting,
        proposals._queued_bytes,
        held,
        len(reads.rounds),
        raft._peers._inbox_bytes,
    )
    if not all(map(le, sizes, most)):
        for what, size, bound in zip(_QUEUES, sizes, most, strict=True):
            oracles.bounded(host, what, size, bound)
    oracles.bounded(host, "queued proposals", len(proposals.queue), waiting)
    # Both kept snapshots are of the past: the log holds what came since the older one.
    oracles.bounded(host, "bytes of log", raft._log.size, _log_bytes(raft, oracles))


def _log_bytes(raft: RaftNode, oracles: Oracles) -> int:
    config = raft._config
    kept = 3 * config.snapshot_entries + config.trailing_entries + _SLACK_ENTRIES
    return kept * (2 * oracles.mean_entry_bytes + 128) + 2 * config.segment_bytes


def _check_disk(raft: RaftNode, host: int, oracles: Oracles) -> None:
    segments = _log_bytes(raft, oracles) // raft._config.segment_bytes + 2
    oracles.bounded(host, "segments of log", len(raft._log.segments), segments)
    oracles.bounded(host, "snapshots", len(raft._store.paths()), _SNAPSHOTS)
