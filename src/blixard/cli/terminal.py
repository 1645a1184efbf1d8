"""A terminal joined to a stream: raw mode, window size, a key to leave."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from blixard.cli import frames
from blixard.cli.wire import ByteStream

LEAVE = b"\x1d"  # Ctrl-]
CHUNK = 65536


@contextmanager
def raw_mode(descriptor: int) -> Iterator[None]:
    """Pass every key on; the old mode comes back whatever happens."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


class Join:
    """Joins standard input and output to a stream until one of them ends.

    A thread reads the stream; the main thread waits for keys, signals and the thread's end.
    """

    def __init__(self, stream: ByteStream, *, console: bool) -> None:
        """*console*: raw bytes both ways, left with Ctrl-]; else the frames of ``exec``."""
        self._stream = stream
        self._console = console
        self._code: int | None = None
        self._error: BaseException | None = None
        self._wake_read, self._wake_write = os.pipe()

    def run(self, *, stdin: int | None, interactive: bool) -> int:
        """Return the exit code that the other side gave; 0 if it gave none.

        *stdin* None: nothing is typed. *interactive*: raw mode and window size.
        """
        reader = threading.Thread(target=self._read, name="stream", daemon=True)
        reader.start()
        try:
            if interactive and stdin is not None:
                with raw_mode(stdin), _on_resize(self._send_size):
                    self._send_size()
                    self._write(stdin)
            else:
                self._write(stdin)
        finally:
            self._stream.close()
        reader.join(timeout=2)
        if self._error is not None:
            raise self._error
        return self._code or 0

    def _send_size(self) -> None:
        if self._console:
            return
        size = os.get_terminal_size(sys.stdout.fileno())
        self._stream.send(frames.resize(size.lines, size.columns))

    def _write(self, stdin: int | None) -> None:
        waiting = [self._wake_read] + ([stdin] if stdin is not None else [])
        while True:
            ready, _, _ = select.select(waiting, [], [])
            if self._wake_read in ready:
                return
            data = os.read(waiting[1], CHUNK)
            if not data:
                self._stream.end()
                waiting = [self._wake_read]
            elif self._console and LEAVE in data:
                return
            else:
                self._stream.send(data if self._console else frames.stdin(data))

    def _read(self) -> None:
        decode = frames.decode_raw if self._console else frames.decode
        try:
            for frame in iter(self._stream.receive, None):
                if self._take(decode(frame)):
                    break
        except BaseException as error:
            # Handed to the main thread, which raises it.
            self._error = error
        finally:
            os.write(self._wake_write, b"x")

    def _take(self, frame: frames.Frame) -> bool:
        if frame.what == "exit":
            self._code = frame.code
            return True
        target: Any = sys.stderr if frame.what == "stderr" else sys.stdout
        target.buffer.write(frame.data)
        target.buffer.flush()
        return False


@contextmanager
def _on_resize(callback: Callable[[], None]) -> Iterator[None]:
    before = signal.signal(signal.SIGWINCH, lambda *_: callback())
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
