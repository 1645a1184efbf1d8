"""Snapshots of the applied state, and what the log may forget after them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from blixard._raft import RawRaft
from blixard.base.errors import BlixardError
from blixard.consensus.config import RaftConfig, StateMachine
from blixard.consensus.log import Log
from blixard.consensus.room import Room, is_full
from blixard.consensus.snapshots import SnapshotMeta, SnapshotStore
from blixard.ports.environment import Environment

_RETRY_S = 5.0


class Compactor:
    """Takes at most one snapshot at a time."""

    def __init__(
        self,
        env: Environment,
        config: RaftConfig,
        *,
        core: RawRaft,
        log: Log,
        store: SnapshotStore,
        room: Room,
        machine: StateMachine,
    ) -> None:
        self._env = env
        self._config = config
        self._core = core
        self._log = log
        self._store = store
        self._room = room
        self._machine = machine
        self._not_before = 0.0
        self.task: asyncio.Task[None] | None = None
        self.index = 0

    @property
    def busy(self) -> bool:
        """Whether a snapshot is being written."""
        return self.task is not None and not self.task.done()

    def consider(self, applied: int, meta: Callable[[], SnapshotMeta], *, asked: bool) -> None:
        """Take a snapshot if the log has grown enough, or a peer asked and it is a newer one."""
        behind = applied - self.index
        due = behind >= self._config.snapshot_entries or (
            behind > 0 and self._log.size > 2 * self._config.snapshot_log_bytes
        )
        if due or (asked and behind > 0):
            self.renew(meta)

    def renew(self, meta: Callable[[], SnapshotMeta]) -> None:
        """Take a snapshot now, whatever the last one holds: it may be damaged on its disk."""
        if self.busy:
            return
        if asyncio.get_running_loop().time() < self._not_before:
            return
        work = self._take(meta(), self._machine.freeze())
        self.task = self._env.spawn(work, name="raft-take-snapshot")

    async def _take(self, meta: SnapshotMeta, handle: Any) -> None:
        try:
            await self._store.save(meta, self._machine.encode(handle))
            await self._compact(meta)
        except OSError as error:
            if not is_full(error):
                self._env.fatal(f"a snapshot could not be written: {error}")
            self._room.ran_out()
            self._not_before = asyncio.get_running_loop().time() + _RETRY_S
        except BlixardError as error:
            self._env.fatal(f"a snapshot could not be kept: {error.message}")

    async def _compact(self, meta: SnapshotMeta) -> None:
        """Forget entries that the snapshot holds; on disk, those that both kept ones hold."""
        self.index = max(self.index, meta.index)
        trailing = max(meta.index - self._config.trailing_entries, 0)
        self._core.compact(meta.index, meta.term, meta.conf, trailing)
        oldest = self._store.paths()[-1]
        await self._log.remove_before(self._store.index_of(oldest))
