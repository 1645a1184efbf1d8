"""The guard's main loop: single-threaded, bounded, deadline-driven.

It listens on a Unix socket. The daemon comes and goes; the instances and their deadlines stay.
Deadlines are CLOCK_BOOTTIME nanoseconds: they count through a suspend. It ends by itself when it
has had neither instance nor client for a while.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import signal
import sys
import time
from typing import Any

from blixard.base.priority import come_first, join_daemons, leave_daemons
from blixard.hypervisors.guard import launch
from blixard.hypervisors.guard.cgroups import Cgroups
from blixard.hypervisors.guard.door import Door
from blixard.hypervisors.guard.instances import Instances
from blixard.hypervisors.guard.timer import BootTimer

SOCKET, LOCK = "guard.sock", "guard.lock"
IDLE_EXIT_S = 30.0
POLL_S = 1.0
_NICE = -10
_OOM_SCORE = -900


class Guard:
    """Holds the instances; every step returns without blocking."""

    def __init__(
        self,
        state_dir: str,
        name: str,
        binaries: tuple[str, ...] = launch.BINARIES,
        idle_exit_s: float = IDLE_EXIT_S,
    ) -> None:
        self._idle_exit_s = idle_exit_s
        self._selector = selectors.DefaultSelector()
        self._cgroups = Cgroups(name)
        self._instances = Instances(state_dir, self._cgroups, binaries)
        self._timer = BootTimer()
        self._busy_s = time.monotonic()
        self._door = Door(self._selector, os.path.join(state_dir, SOCKET), self._instances.do)

    def run(self) -> None:
        """Serve until idle."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        # Whoever stops the daemon's whole group must not stop the guests with it.
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        self._selector.register(wake_read, selectors.EVENT_READ, _drain)
        self._selector.register(
            self._timer.descriptor, selectors.EVENT_READ, lambda _timer: self._timer.drain()
        )
        while not self._idle():
            for key, _ in self._selector.select(POLL_S):
                key.data(key.fileobj)
            self._instances.reap(self._door.tell_all)
            self._instances.enforce()
            self._timer.set(self._instances.next_deadline_ns())
            self._cgroups.sweep()
        self._door.close()
        self._cgroups.close()

    def _idle(self) -> bool:
        if len(self._instances) or self._door.in_use:
            self._busy_s = time.monotonic()
        return time.monotonic() - self._busy_s > self._idle_exit_s


def _drain(descriptor: Any) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(descriptor, 4096):
            pass


def _come_first() -> None:
    """Ask for the CPU before others, and to be spared when memory is short; both may be refused."""
    come_first(_NICE)
    join_daemons()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(_OOM_SCORE))


def main(arguments: list[str], idle_exit_s: float = IDLE_EXIT_S) -> int:
    """Run a guard: ``STATE_DIR NAME [BINARY...]``; a second one for it leaves at once."""
    state_dir, name = arguments[0], arguments[1]
    binaries = tuple(arguments[2:]) or launch.BINARIES
    lock = os.open(os.path.join(state_dir, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    _come_first()
    try:
        Guard(state_dir, name, binaries, idle_exit_s).run()
    finally:
        leave_daemons()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
