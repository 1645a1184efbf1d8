"""Frames of the streams of ``exec``, ``console`` and ``logs``: one byte says what the rest is."""

from __future__ import annotations

import json
from typing import NamedTuple

STDIN, STDOUT, STDERR, EXIT, RESIZE, END = b"\x00", b"\x01", b"\x02", b"\x03", b"\x04", b"\x05"


class Frame(NamedTuple):
    """A decoded frame: ``stdout``, ``stderr``, ``exit`` or ``other``."""

    what: str
    data: bytes = b""
    code: int = 0


_KINDS = {STDOUT: "stdout", STDERR: "stderr"}


def decode(frame: bytes) -> Frame:
    """Return what a frame from the server says."""
    head, rest = frame[:1], frame[1:]
    if head in _KINDS:
        return Frame(_KINDS[head], rest)
    if head == EXIT:
        return Frame("exit", code=_exit_code(rest))
    return Frame("other", rest)


def _exit_code(data: bytes) -> int:
    value = json.loads(data or b"0")
    code = value.get("exitCode", 0) if isinstance(value, dict) else value
    return int(code)


def stdin(data: bytes) -> bytes:
    """Return the frame of typed bytes."""
    return STDIN + data


def resize(rows: int, columns: int) -> bytes:
    """Return the frame of a new terminal size."""
    return RESIZE + json.dumps({"rows": rows, "columns": columns}).encode()
