"""Makes what the engine hands out durable: one record and one sync for all that waits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import msgspec

from blixard._raft import RawRaft
from blixard.base.errors import BlixardError
from blixard.consensus.config import RaftConfig
from blixard.consensus.log import Log
from blixard.consensus.room import Room, is_full
from blixard.ports.environment import Environment

Frames = list[tuple[int, bytes]]


class Save(msgspec.Struct):
    """One ready: its group (may be empty), and what leaves once all before it is durable."""

    number: int
    group: bytes
    last_index: int
    install: tuple[int, int] | None
    frames: Frames


class Saver:
    """The queue in front of the log."""

    def __init__(
        self,
        env: Environment,
        log: Log,
        core: RawRaft,
        *,
        config: RaftConfig,
        room: Room,
        saved: Callable[[list[Save]], None],
    ) -> None:
        self._env = env
        self._log = log
        self._core = core
        self._config = config
        self._room = room
        self._saved = saved
        self._queue: deque[Save] = deque()
        self._idling: asyncio.Future[None] | None = None  # run waits for it; cheaper than an Event
        self._busy = False
        self.since: float | None = None
        self.last_sync_s = 0.0

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is being written."""
        return not self._busy and not self._queue

    def add(self, save: Save) -> None:
        """Queue one ready, in order."""
        self._queue.append(save)
        if self._idling is not None and not self._idling.done():
            self._idling.set_result(None)

    def pending_s(self, now: float) -> float:
        """Return for how long the current write has not become durable."""
        return 0.0 if self.since is None else now - self.since

    async def run(self) -> None:
        """Write what is queued until cancelled; an error of the disk stops the process."""
        self._loop = asyncio.get_running_loop()
        while True:
            if not self._queue:
                self._idling = self._loop.create_future()
                await self._idling
            await self._save_some()

    async def _save_some(self) -> None:
        batch = self._take_batch()
        self._busy = True
        payload = b"".join([save.group for save in batch])
        if payload:
            await self._make_durable(payload, max(save.last_index for save in batch))
        self._busy = False
        self._saved(batch)

    def _take_batch(self) -> list[Save]:
        """Return what goes into one record; an installed snapshot stands alone."""
        batch = [self._queue.popleft()]
        size = len(batch[0].group)
        while self._queue and batch[-1].install is None and self._queue[0].install is None:
            size += len(self._queue[0].group)
            if size > self._config.save_bytes:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _make_durable(self, payload: bytes, last_index: int) -> None:
        time = self._loop.time
        self.since = time()
        try:
            while not await self._write(payload, last_index):
                await asyncio.sleep(self._config.tick_s)
            started = time()
            await self._log.sync()
            self.last_sync_s = time() - started
        except OSError as error:
            self._env.fatal(f"the log could not be written: {error}")
        except BlixardError as error:
            self._env.fatal(error.message)
        self.since = None

    async def _write(self, payload: bytes, last_index: int) -> bool:
        """Write the record; False: there was no room, and nothing of it stays."""
        try:
            if self._log.full:
                await self._log.start_segment(self._core.state_group())
            self._log.write(payload, last_index)
        except OSError as error:
            if not is_full(error):
                raise
            self._room.ran_out()
            return False
        return True
