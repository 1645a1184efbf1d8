"""The messages of ``proto/blixard/v1/node.proto`` as bytes.

Five messages of strings and bytes do not need a protobuf runtime in every daemon (import time and
memory); the tests compare each with the bytes of the reference implementation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from blixard.base.errors import BlixardError, ErrorBody, from_body, to_body

SERVICE = "blixard.v1.Node"
RECEIPT = b""
FrameKind = Literal["opening", "data", "error"]
_FRAME_NUMBERS: dict[FrameKind, int] = {"opening": 1, "data": 2, "error": 3}
_FRAME_KINDS: dict[int, FrameKind] = {number: kind for kind, number in _FRAME_NUMBERS.items()}
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_NAME_BYTES_MAX = 128
_ERROR = msgspec.json.Decoder(ErrorBody)


def encode_batch(messages: Iterable[tuple[str, bytes]]) -> bytes:
    """Return a MessageBatch of (channel, payload) pairs."""
    parts: list[bytes] = []
    for channel, payload in messages:
        name = channel.encode()
        head = b"\x0a" + _varint(len(name)) + name + b"\x12" + _varint(len(payload))
        parts += (b"\x0a", _varint(len(head) + len(payload)), head, payload)
    return b"".join(parts)


def decode_batch(data: bytes) -> list[tuple[str, bytes]]:
    """Return the (channel, payload) pairs. Raises BlixardError BAD_REQUEST."""
    return [_decode_pair(value) for number, value in _fields(data) if number == 1]


def encode_call(method: str, payload: bytes) -> bytes:
    """Return a CallRequest."""
    return _field(1, method.encode()) + _field(2, payload)


def decode_call(data: bytes) -> tuple[str, bytes]:
    """Return method and payload. Raises BlixardError BAD_REQUEST."""
    return _decode_pair(data)


def encode_answer(payload: bytes) -> bytes:
    """Return a CallAnswer that carries a result; a member of a oneof is written even if empty."""
    return b"\x0a" + _varint(len(payload)) + payload


def encode_refusal(error: BlixardError) -> bytes:
    """Return a CallAnswer that carries an error."""
    body = encode_error(error)
    return b"\x12" + _varint(len(body)) + body


def decode_answer(data: bytes) -> bytes:
    """Return the result of a CallAnswer, or raise the BlixardError in it."""
    result: bytes | None = None
    for number, value in _fields(data):
        if number == 2:
            raise decode_error(value)
        if number == 1:
            result = value
    if result is None:
        raise _damaged()
    return result


def encode_frame(kind: FrameKind, payload: bytes) -> bytes:
    """Return a StreamFrame; the payload of ``opening`` is a CallRequest."""
    return bytes((_FRAME_NUMBERS[kind] << 3 | _LENGTH,)) + _varint(len(payload)) + payload


def decode_frame(data: bytes) -> tuple[FrameKind, bytes]:
    """Return kind and payload of a StreamFrame. Raises BlixardError BAD_REQUEST."""
    for number, value in _fields(data):
        if number in _FRAME_KINDS:
            return _FRAME_KINDS[number], value
    raise _damaged()


def encode_error(error: BlixardError) -> bytes:
    """Return the problem document of an error."""
    return msgspec.json.encode(to_body(error))


def decode_error(data: bytes) -> BlixardError:
    """Return the error in a problem document; a damaged one is an error itself."""
    try:
        return from_body(_ERROR.decode(data))
    except msgspec.MsgspecError:
        return _damaged()


def _decode_pair(data: bytes) -> tuple[str, bytes]:
    name, payload = b"", b""
    for number, value in _fields(data):
        if number == 1:
            name = value
        elif number == 2:
            payload = value
    if not 0 < len(name) <= _NAME_BYTES_MAX:
        raise _damaged()
    try:
        return name.decode(), payload
    except UnicodeDecodeError as error:
        raise _damaged() from error


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the length-delimited fields; others, which newer versions may add, are skipped."""
    offset, end = 0, len(data)
    while offset < end:
        tag, offset = _read_varint(data, offset)
        kind = tag & 7
        if kind == _LENGTH:
            length, offset = _read_varint(data, offset)
            if length > end - offset:
                raise _damaged()
            yield tag >> 3, data[offset : offset + length]
            offset += length
        elif kind == _VARINT:
            _value, offset = _read_varint(data, offset)
        elif kind in (_FIXED64, _FIXED32):
            offset += 8 if kind == _FIXED64 else 4
        else:
            raise _damaged()
    if offset != end:
        raise _damaged()


def _field(number: int, value: bytes) -> bytes:
    if not value:
        return b""
    return bytes((number << 3 | _LENGTH,)) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while offset < len(data) and shift < 64:
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
        shift += 7
    raise _damaged()


def _damaged() -> BlixardError:
    return BlixardError("BAD_REQUEST", "a message between nodes could not be parsed")
