"""One thread's descriptors, and output that must not block it."""

from __future__ import annotations

import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Loop:
    """Descriptors and what to do when they are ready."""

    def __init__(self) -> None:
        self.poll = select.poll()
        self.callbacks: dict[int, Callable[[int], None]] = {}

    def watch(self, descriptor: int, events: int, callback: Callable[[int], None]) -> None:
        """Call *callback* with the events that came."""
        self.callbacks[descriptor] = callback
        self.poll.register(descriptor, events)

    def unwatch(self, descriptor: int) -> None:
        """Look no longer; a descriptor that is not watched is fine."""
        if self.callbacks.pop(descriptor, None) is not None:
            self.poll.unregister(descriptor)

    def run_once(self, timeout_s: float) -> None:
        """Wait and call."""
        for descriptor, events in self.poll.poll(timeout_s * 1000):
            callback = self.callbacks.get(descriptor)
            if callback is not None:
                callback(events)


class Outlet:
    """Writes to a descriptor that may be slow; what does not fit into *limit* is lost."""

    def __init__(self, loop: Loop, descriptor: int, limit: int) -> None:
        self.loop = loop
        self.descriptor = descriptor
        self.limit = limit
        self.waiting = b""
        self.lost = 0

    def write(self, data: bytes) -> None:
        """Write now or later."""
        if len(self.waiting) + len(data) > self.limit:
            self.lost += len(data)
            return
        if self.lost:
            data = f"blixard-agent: {self.lost} bytes of output are lost\n".encode() + data
            self.lost = 0
        self.waiting += data
        self.flush()

    def flush(self, _events: int = 0) -> None:
        """Write what the descriptor takes."""
        try:
            while self.waiting:
                self.waiting = self.waiting[os.write(self.descriptor, self.waiting) :]
        except BlockingIOError:
            self.loop.watch(self.descriptor, select.POLLOUT, self.flush)
            return
        except OSError:
            self.waiting = b""
        self.loop.unwatch(self.descriptor)


def say(console: Outlet, text: str) -> None:
    """Write a line to the console."""
    console.write(f"blixard-agent: {text}\n".encode())


def drain(descriptor: int) -> None:
    """Read all that is there."""
    try:
        while os.read(descriptor, 4096):
            pass
    except BlockingIOError:
        return
