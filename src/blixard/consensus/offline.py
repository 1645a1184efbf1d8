"""Work on a raft directory whose node does not run: what the log holds, and a log made anew.

A group that has lost its majority for good goes on as a group of one: the state that all entries
of the longest log lead to, committed or not, becomes the first snapshot of a new log.
"""

from __future__ import annotations

import msgspec

from blixard.base.errors import BlixardError
from blixard.consensus.config import Member, RaftConfig, StateMachine
from blixard.consensus.log import sync_directory
from blixard.consensus.membership import Membership
from blixard.consensus.recovery import Identity, recover, write_first_state
from blixard.consensus.snapshots import SnapshotMeta
from blixard.ports.environment import Environment

_ASIDE = ".recovered"


class FoundLog(msgspec.Struct, frozen=True):
    """What a raft directory holds; ``entries`` are (index, data) after the snapshot.

    ``members`` are those at the end of the log, changes that are not committed included.
    """

    identity: Identity
    term: int
    commit_index: int
    last_index: int
    last_term: int
    members: tuple[Member, ...]
    removed: tuple[int, ...]
    entries: list[tuple[int, int, bytes]]
    meta: SnapshotMeta
    payload: bytes

    @property
    def position(self) -> tuple[int, int]:
        """What decides which of two logs is longer: the last entry's term, then its index."""
        return self.last_term, self.last_index

    @property
    def uncommitted(self) -> int:
        """How many entries at the end are not known to be committed."""
        return self.last_index - self.commit_index


async def read_log(env: Environment, directory: str, config: RaftConfig) -> FoundLog:
    """Return what the directory holds; a torn tail is cut off, as at a start.

    Raises:
        BlixardError: LOG_CORRUPT naming file and offset; NOT_FOUND; QUARANTINED.
    """
    if env.disk.exists(f"{directory}/quarantine"):
        raise BlixardError("QUARANTINED", f"{directory}: the state here cannot be trusted")
    found = await recover(env, directory, config, uid="")
    found.log.close()
    _, term, _, commit_index, last_index, *_ = found.core.state()
    membership = Membership(found.meta.conf, found.meta.members, found.meta.removed)
    entries: list[tuple[int, int, bytes]] = []
    last_term = found.meta.term
    for index, entry_term, change, data in found.core.log_entries():
        if index <= found.meta.index:
            continue
        last_term = entry_term
        if change:
            membership.apply(*found.core.apply_change(data))
        elif data:
            entries.append((index, entry_term, data))
    return FoundLog(
        identity=found.identity,
        term=term,
        commit_index=commit_index,
        last_index=last_index,
        last_term=last_term,
        members=membership.listed(),
        removed=membership.removed,
        entries=entries,
        meta=found.meta,
        payload=found.payload,
    )


def replay(found: FoundLog, machine: StateMachine) -> None:
    """Bring an empty *machine* to the state after the last entry."""
    if not found.meta.genesis:
        machine.restore(found.payload)
    for index, term, data in found.entries:
        machine.apply(index, term, data)


async def start_over(
    env: Environment, directory: str, found: FoundLog, *, cluster_id: str, payload: bytes
) -> str:
    """Replace the log by one of a group of this member alone; return where the old one stands.

    *payload* is the state at the index after the last entry. The new log stands whole beside the
    old one before either gets another name.
    """
    own = msgspec.structs.replace(found.identity.member, learner=False)
    others = [m.raft_id for m in found.members if m.raft_id != own.raft_id]
    first = SnapshotMeta(
        cluster_id=cluster_id,
        index=found.last_index + 1,
        term=found.term + 1,
        conf=([own.raft_id], [], [], [], False),
        members=(own,),
        removed=tuple(sorted({*found.removed, *others})),
    )
    aside, kept = directory + _ASIDE, f"{directory}.of-{found.identity.cluster_id.lower()}"
    disk = env.disk
    if disk.exists(f"{aside}/identity"):  # of an attempt that did not come to its end
        disk.unlink(f"{aside}/identity")
    await write_first_state(env, aside, Identity(cluster_id, own), first=first, payload=payload)
    disk.rename(directory, kept)
    disk.rename(aside, directory)
    await sync_directory(disk, "")
    return kept
