"""The serial console as a bounded log: QEMU appends, the daemon cuts, readers get clean text."""

from __future__ import annotations

import os
import re

LOG_BYTES_MAX = 1 << 20
KEEP_BYTES = 256 * 1024
# CSI, OSC and other escape sequences (ECMA-48), and control characters but newline and tab.
_ESCAPES = re.compile(
    rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-_]|[\x00-\x08\x0b-\x1f\x7f]"
)

# Terminals take these as escape sequences too, also when they come as UTF-8.
_C1 = re.compile("[\x80-\x9f]")


def clean(data: bytes) -> str:
    """Return text without escape sequences: a guest's output must not drive a terminal."""
    text = _ESCAPES.sub(b"", data).decode("utf-8", "replace")
    return _C1.sub("", text)


def trim(path: str) -> None:
    """Cut a log that has grown too large to its last part; QEMU appends to what is left.

    The middle of a line may be lost, and what QEMU writes between the read and the cut.
    """
    try:
        if os.path.getsize(path) <= LOG_BYTES_MAX:
            return
        with open(path, "r+b") as file:
            file.seek(-KEEP_BYTES, os.SEEK_END)
            kept = file.read()
            file.seek(0)
            file.write(kept)
            file.truncate()
    except FileNotFoundError:
        return


def tail(path: str, lines: int) -> list[str]:
    """Return the last lines; none if there is no log."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - KEEP_BYTES))
            data = file.read()
    except FileNotFoundError:
        return []
    text = [line for line in clean(data).split("\n") if line.strip()]
    return text[-lines:] if lines > 0 else []


class Follower:
    """Reads what was appended since the last call; starts anew after a cut."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._offset = 0
        self._partial = b""
        self._skip_to_end()

    def _skip_to_end(self) -> None:
        try:
            self._offset = os.path.getsize(self._path)
        except FileNotFoundError:
            self._offset = 0

    def new_lines(self) -> list[str]:
        """Return complete new lines."""
        try:
            size = os.path.getsize(self._path)
            if size < self._offset:
                self._offset, self._partial = 0, b""
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                data = file.read(LOG_BYTES_MAX)
        except FileNotFoundError:
            return []
        self._offset += len(data)
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._partial = self._partial[-65_536:]
        return [clean(line) for line in lines]
