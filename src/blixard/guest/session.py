"""One exec: a process in the guest joined to a stream of the channel, windows both ways."""

from __future__ import annotations

import fcntl
import os
import select
import struct

from blixard.guest.loop import Loop
from blixard.guest.protocol import EXIT, HEADER, STDERR, STDOUT, WINDOW, WINDOW_BYTES
from blixard.guest.services import CHUNK
from blixard.guest.spawn import HOME, PATH, Child, joined, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Channel(Protocol):
        """What a session needs of the agent."""

        loop: Loop
        sessions: dict[int, Session]
        ending: list[Child]

        def send(self, kind: int, stream: int, payload: bytes = b"") -> None:
            """Queue a frame for the host."""


TIOCSWINSZ = 0x5414  # asm-generic/ioctls.h
SIGKILL = 9


class Session:
    """One exec: a process with pipes or a terminal, joined to a stream of the channel."""

    def __init__(self, agent: Channel, stream: int, command: list[str], *, tty: bool) -> None:
        self.agent = agent
        self.stream = stream
        self.tty = tty
        self.code: int | None = None
        self.credit = WINDOW_BYTES
        self.input: list[bytes] = []
        self.input_ends = False
        self.consumed = 0
        self.readers: dict[int, int] = {}
        self.process, self.stdin = self.start(command)
        for descriptor in (self.stdin, *self.readers):
            os.set_blocking(descriptor, False)
        self.watch_readers()

    def start(self, command: list[str]) -> tuple[Child, int]:
        """Start the process; return it with the descriptor of its input."""
        environment = {"PATH": PATH, "HOME": HOME, "TERM": "xterm-256color"}
        if self.tty:
            master, slave = os.openpty()
            try:
                # A session without a terminal gets the one that it opens as its own.
                opened = (os.POSIX_SPAWN_OPEN, 0, os.ttyname(slave), os.O_RDWR, 0)
                process = spawn(command, environment, [opened, *joined(0, 0)], HOME)
            except (OSError, ValueError):
                os.close(master)
                raise
            finally:
                os.close(slave)
            self.readers = {master: STDOUT}
            return process, master
        (stdin, give), (take, stdout), (take_errors, stderr) = [
            os.pipe2(os.O_CLOEXEC) for _ in range(3)
        ]
        try:
            actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), *joined(stdout, stderr)]
            process = spawn(command, environment, actions, HOME)
        except (OSError, ValueError):
            for descriptor in (give, take, take_errors):
                os.close(descriptor)
            raise
        finally:
            for descriptor in (stdin, stdout, stderr):
                os.close(descriptor)
        self.readers = {take: STDOUT, take_errors: STDERR}
        return process, give

    # -- output --

    def watch_readers(self) -> None:
        """Look at the outputs."""
        for descriptor, kind in self.readers.items():
            self.agent.loop.watch(descriptor, select.POLLIN, self.pump(descriptor, kind))

    def pump(self, descriptor: int, kind: int) -> Callable[[int], None]:
        """Return what passes a descriptor's output on."""

        def ready(_events: int) -> None:
            self.read(descriptor, kind)

        return ready

    def read(self, descriptor: int, kind: int) -> bool:
        """Pass a piece on; return whether there may be more now."""
        if self.credit <= 2 * HEADER.size:
            self.agent.loop.unwatch(descriptor)
            return False
        try:
            data = os.read(descriptor, min(CHUNK, self.credit - HEADER.size))
        except BlockingIOError:
            # The process is gone; whoever else holds the pipe is none of the client's business.
            if self.code is not None:
                self.drop_reader(descriptor)
            return False
        except OSError:
            data = b""
        if not data:
            self.drop_reader(descriptor)
            return False
        if self.tty and self.input:
            self.feed()
        self.credit -= HEADER.size + len(data)
        self.agent.send(kind, self.stream, data)
        return True

    def drop_reader(self, descriptor: int) -> None:
        """An output ended."""
        self.agent.loop.unwatch(descriptor)
        del self.readers[descriptor]
        if descriptor != self.stdin:
            os.close(descriptor)
        self.finish()

    def grant(self, count: int) -> None:
        """The host has read so much more."""
        self.credit = min(WINDOW_BYTES, self.credit + max(0, count))
        self.watch_readers()
        if self.code is not None:
            self.drain()

    def exited(self, code: int) -> None:
        """The process ended: pass on what it left."""
        self.process.returncode = code
        self.code = code if code >= 0 else 128 - code
        self.drain()
        self.finish()

    def drain(self) -> None:
        """Read what is there."""
        for descriptor, kind in list(self.readers.items()):
            while self.read(descriptor, kind):
                pass

    def finish(self) -> None:
        """Send the exit code once the process ended and its output was read."""
        if self.code is not None and not self.readers and self.stream in self.agent.sessions:
            self.agent.send(EXIT, self.stream, str(self.code).encode())
            self.close()

    # -- input --

    def write(self, data: bytes) -> None:
        """Take input; an empty piece is its end."""
        if not data:
            self.input_ends = True
        elif sum(map(len, self.input)) + len(data) <= WINDOW_BYTES:
            self.input.append(data)
        self.feed()

    def feed(self, _events: int = 0) -> None:
        """Give the process what it takes."""
        if self.stdin < 0:
            return
        try:
            while self.input:
                written = os.write(self.stdin, self.input[0])
                self.consumed += written
                self.input[0] = self.input[0][written:]
                if not self.input[0]:
                    self.consumed += HEADER.size
                    del self.input[0]
        except BlockingIOError:
            if not self.tty:
                self.agent.loop.watch(self.stdin, select.POLLOUT, self.feed)
        except OSError:
            self.consumed += sum(len(piece) + HEADER.size for piece in self.input)
            self.input.clear()
        if self.consumed >= WINDOW_BYTES // 4:
            self.agent.send(WINDOW, self.stream, str(self.consumed).encode())
            self.consumed = 0
        if not self.input:
            self.fed()

    def fed(self) -> None:
        """All input was given; pass its end on."""
        if self.tty:
            if self.input_ends:
                self.input_ends = False
                try:
                    os.write(self.stdin, b"\x04")
                except OSError:
                    pass  # the process is gone: its end is told by its exit
            return
        self.agent.loop.unwatch(self.stdin)
        if self.input_ends:
            os.close(self.stdin)
            self.stdin = -1

    def resize(self, payload: bytes) -> None:
        """Set the terminal's size from ``COLSxROWS``."""
        if self.tty:
            try:
                columns, rows = (int(part) for part in payload.decode().split("x"))
                fcntl.ioctl(self.stdin, TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
            except (ValueError, OSError, struct.error):
                pass  # no size: the terminal keeps the one it has

    def close(self) -> None:
        """Release descriptors and kill what is left."""
        if self.agent.sessions.pop(self.stream, None) is None:
            return
        if self.process.returncode is None:
            try:
                os.killpg(self.process.pid, SIGKILL)
            except ProcessLookupError:
                pass
            self.agent.ending.append(self.process)
        for descriptor in {self.stdin, *self.readers} - {-1}:
            self.agent.loop.unwatch(descriptor)
            os.close(descriptor)
        self.readers = {}
        self.stdin = -1
