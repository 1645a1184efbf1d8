"""Bugs of consensus, each one rule of a Raft host left out; an oracle must object."""

import asyncio
from contextlib import ExitStack, contextmanager

from tests.simulation.mutants import patched

from blixard.base.errors import BlixardError
from blixard.consensus import log, proposals, recovery, snapshots
from blixard.consensus.clock import Ticker
from blixard.consensus.log import Log
from blixard.consensus.node import RaftNode
from blixard.consensus.peers import Peers
from blixard.consensus.proposals import Proposals
from blixard.consensus.reads import Reads
from blixard.consensus.saving import Saver
from blixard.consensus.snapshots import SnapshotMeta
from blixard.simulation import disk


@contextmanager
def all_of(*plants):
    """Plant several at once: one bug that is written in several places."""
    with ExitStack() as stack:
        for plant in plants:
            stack.enter_context(plant)
        yield


async def nothing(*_args, **_named):
    """Do nothing where something was to be awaited."""
    await asyncio.sleep(0)


def answers_before_sync():
    """What a follower says leaves before the write under it is durable."""
    handle = RaftNode._handle

    def eager(node, ready):
        node._send(ready[5])
        handle(node, (*ready[:5], [], *ready[6:]))

    return patched(RaftNode, "_handle", eager)


def failed_sync_is_forgotten():
    """After a failed sync the node goes on as if the record stood on the disk."""
    sync = Log.sync

    async def careless(self):
        try:
            await sync(self)
        except BlixardError:
            await asyncio.sleep(0)

    return patched(Log, "sync", careless)


def short_writes_count_as_whole():
    """Of a write that moved fewer bytes than it was asked for the rest is never written."""
    return patched(disk, "write_whole", lambda write, data, at: write(memoryview(data), at))


def names_are_not_synced():
    """New files are synced, their names are not."""
    return all_of(*(patched(m, "sync_directory", nothing) for m in (log, snapshots, recovery)))


def checksums_are_not_checked():
    """A damaged record is read as it stands."""

    def trusting(data, offset, limit):
        start = offset + log.HEADER_BYTES
        if start > len(data):
            return None
        magic, previous, length, kind, index = log._HEADER.unpack_from(data, offset)
        if magic != log.MAGIC or length > limit or start + length > len(data):
            return None
        (checksum,) = log._CHECK.unpack_from(data, offset + log._HEADER.size)
        return previous, kind, index, data[start : start + length], checksum

    return patched(log, "decode_record", trusting)


def damage_is_cut_off():
    """A damaged record inside the log counts as a torn tail."""
    return patched(Log, "_judge_tail", lambda *_args, **_named: None)


def snapshot_of_an_older_index():
    """A snapshot says that it is of the entry before."""
    meta = RaftNode._snapshot_meta

    def older(node):
        found = meta(node)
        return SnapshotMeta(
            found.cluster_id, found.index - 1, found.term, found.conf, found.members, found.removed
        )

    return patched(RaftNode, "_snapshot_meta", older)


def acknowledged_when_appended():
    """A client has its answer as soon as its entry stands in the leader's log."""
    flush = Proposals.flush

    def hasty(self, engine):
        tokens = [token for token, _ in self.queue]
        flush(self, engine)
        for token in tokens:
            self.done(token, True)

    return patched(Proposals, "flush", hasty)


def unknown_is_called_failed():
    """When leadership is lost, a client is told that its write failed."""
    return patched(proposals, "_unknown", lambda why: BlixardError("NOT_LEADER", why))


def snapshot_is_not_synced():
    """A snapshot gets its name before it is durable, and the log is cut after it."""
    return patched(snapshots, "sync_file", nothing)


def snapshot_is_never_reported():
    """The engine never hears how the sending of a snapshot ended."""
    return patched(RaftNode, "_report_snapshot", lambda _node, _to, _finished: None)


def read_before_applied():
    """A read is answered before its index is applied here."""
    resolve = Reads.resolve
    return patched(Reads, "resolve", lambda reads, _applied: resolve(reads, 1 << 62))


def read_joins_an_older_round():
    """A read joins a round that is under way: its index may be older than the read."""
    add = Reads.add

    def joining(reads, waiter, *, always=False):
        add(reads, waiter, always=always)
        if reads.rounds:
            reads.waiting.remove(waiter)
            reads.rounds[0].waiters.append(waiter)

    return patched(Reads, "add", joining)


def snapshot_loses_a_member():
    """A snapshot's members are those of before, without the vote of the newest."""
    meta = RaftNode._snapshot_meta

    def lossy(node):
        found = meta(node)
        voters = found.conf[0]
        if len(voters) < 3:
            return found
        conf = (voters[:-1], [*found.conf[1], voters[-1]], *found.conf[2:])
        return SnapshotMeta(
            found.cluster_id, found.index, found.term, conf, found.members, found.removed
        )

    return patched(RaftNode, "_snapshot_meta", lossy)


def all_may_speak():
    """What removed members say counts."""
    may_speak = Peers.may_speak

    def patient(peers, uid, hello):
        return may_speak(peers, uid, hello) or hello.raft_id in peers._membership().removed

    return patched(Peers, "may_speak", patient)


def ticks_of_the_wall_clock():
    """Ticks are counted on the wall clock."""

    def fire(self):
        tick_ms = self._config.tick_s * 1000
        now_ms = self._env.wall_time_ms()
        last_ms = self.__dict__.setdefault("wall_ms", now_ms - tick_ms)
        passed = int((now_ms - last_ms) // tick_ms)
        self._last = self._loop.time()
        self._wait()
        if passed > 0:
            self.wall_ms = last_ms + int(passed * tick_ms)
            self._on_ticks(min(passed, self._config.max_ticks_after_gap), slept=False)

    return patched(Ticker, "_fire", fire)


def leads_with_a_stalled_disk():
    """A leader does not notice that its disk hangs."""
    return patched(Saver, "pending_s", lambda _saver, _now: 0.0)


def leads_with_a_full_disk():
    """A leader without room does not hand on."""
    return patched(RaftNode, "prefer_another_leader", nothing)


def proposals_without_bound():
    """Any number of proposals may wait."""
    add = Proposals.add

    def generous(self, data, future, deadline):
        self._max_pending = 1 << 40
        add(self, data, future, deadline)

    return patched(Proposals, "add", generous)


def log_is_never_cut():
    """Segments stay for ever."""

    async def keep(_log, _index):
        return 0

    return patched(Log, "remove_before", keep)
