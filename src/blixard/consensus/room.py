"""Room on the disk: writes are refused before it runs out, a reserve lets begun ones finish."""

from __future__ import annotations

from blixard.consensus.config import RaftConfig
from blixard.consensus.log import NO_ROOM
from blixard.ports.environment import Environment

_CHECK_EVERY_TICKS = 10


def is_full(error: OSError) -> bool:
    """Tell whether the error means that the disk has no room."""
    return error.errno in NO_ROOM


class Room:
    """Watches the free bytes and keeps a reserve file."""

    def __init__(self, env: Environment, directory: str, config: RaftConfig) -> None:
        self._env = env
        self._path = f"{directory}/reserve"
        self._config = config
        self._ticks = 0
        self.full = False

    def start(self) -> None:
        """Look once, and take the reserve if there is room for it."""
        self._look()

    def tick(self) -> None:
        """Look again now and then."""
        self._ticks += 1
        if self._ticks % _CHECK_EVERY_TICKS == 0:
            self._look()

    def _look(self) -> None:
        free = self._env.disk.free_bytes()
        needed = self._config.min_free_bytes
        if self.full:
            # Writes return only when there is room for the reserve too: no flapping at the limit.
            needed += 2 * self._config.reserve_bytes
        full = free < needed
        if not full and not self._env.disk.exists(self._path):
            full = not self._take_reserve()
        self._set(full, free)

    def _set(self, full: bool, free: int) -> None:
        if full != self.full:
            event = "disk_full" if full else "disk_has_room"
            self._env.log("error" if full else "info", event, free_bytes=free)
        self.full = full

    def _take_reserve(self) -> bool:
        if not self._config.reserve_bytes:
            return True
        try:
            self._write_reserve()
        except OSError as error:
            if not is_full(error):
                self._env.fatal(f"the reserve could not be written: {error}")
            self._env.disk.unlink(self._path)
            return False
        return True

    def _write_reserve(self) -> None:
        file = self._env.disk.open(self._path, create=True)
        try:
            file.pwrite(0, bytes(self._config.reserve_bytes))
        finally:
            file.close()

    def ran_out(self) -> None:
        """A write failed for want of room: give the reserve back and refuse new writes."""
        self._env.disk.unlink(self._path)
        self._set(True, self._env.disk.free_bytes())
