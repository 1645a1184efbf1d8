"""Reads the votes in the frames that a Raft node sends."""

from __future__ import annotations

import struct
from collections.abc import Iterator

GRANT = b"\x08\x06\x10"  # field 1, message type: answer to a vote request; then field 2
_LENGTH = struct.Struct("<I")
_TO, _TERM, _REJECT = 2, 4, 10


def votes_in(payload: bytes) -> Iterator[tuple[int, int]]:
    """Yield (term, candidate's raft id) of every vote granted in a payload."""
    start = payload.find(GRANT)
    while start >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(payload, start - _LENGTH.size)
        fields = _fields(payload[start : start + length])
        if fields and not fields.get(_REJECT) and _TERM in fields:
            yield fields[_TERM], fields[_TO]
        start = payload.find(GRANT, start + 1)


def _fields(message: bytes) -> dict[int, int]:
    """Return the whole-number fields of a message that has no others; empty if it has."""
    fields: dict[int, int] = {}
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        if tag & 7 or position >= len(message):
            return {}
        fields[tag >> 3], position = _varint(message, position)
    return fields


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data):
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    return value, position
