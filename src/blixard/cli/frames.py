"""Frames of ``exec``: one byte says what the rest is. Consoles and logs are raw bytes."""

from __future__ import annotations

import json
from typing import NamedTuple

from blixard.base.errors import CODES, BlixardError

STDIN, STDOUT, STDERR, EXIT, RESIZE, ERROR = (bytes([n]) for n in range(6))
_KINDS = {STDOUT: "stdout", STDERR: "stderr"}


class Frame(NamedTuple):
    """A decoded frame: ``stdout``, ``stderr``, ``exit`` or ``other``."""

    what: str
    data: bytes = b""
    code: int = 0


def decode(frame: bytes) -> Frame:
    """Return what a frame from the server says. Raises BlixardError for the guest's own error."""
    head, rest = frame[:1], frame[1:]
    if head in _KINDS:
        return Frame(_KINDS[head], rest)
    if head == EXIT:
        return Frame("exit", code=exit_code(rest))
    if head == ERROR:
        raise _error(rest)
    return Frame("other", rest)


def decode_raw(frame: bytes) -> Frame:
    """Return a frame of a console: all of it is output."""
    return Frame("stdout", frame)


def exit_code(data: bytes) -> int:
    """Return the exit code; a command that a signal ended counts as shells do (128 + signal)."""
    value = json.loads(data or b"0")
    if isinstance(value, dict):
        value = next((value[k] for k in ("exitCode", "code", "exit_code") if k in value), 0)
    code = int(value)
    return code if code >= 0 else 128 - code


def _error(data: bytes) -> BlixardError:
    try:
        value = json.loads(data)
    except ValueError:
        value = data.decode("utf-8", "replace")
    if not isinstance(value, dict):
        return BlixardError("GUEST_UNREACHABLE", str(value))
    code = value.get("code", "")
    message = str(value.get("detail") or value.get("message") or "")
    return BlixardError(code if code in CODES else "GUEST_UNREACHABLE", message)


def stdin(data: bytes) -> bytes:
    """Return the frame of typed bytes."""
    return STDIN + data


def resize(rows: int, columns: int) -> bytes:
    """Return the frame of a new terminal size."""
    return RESIZE + json.dumps({"rows": rows, "columns": columns}).encode()
