"""JSON with CPython's own scanner: importing ``json`` takes an emulated guest 0.3 s."""

from __future__ import annotations

from _json import encode_basestring_ascii, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Rules:
    """What the scanner asks for."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


def decode(data: bytes) -> Any:
    """Return what the JSON text says. Raises ValueError."""
    text = data.decode().strip(" \t\n\r")
    try:
        value, end = make_scanner(_Rules())(text, 0)  # type: ignore[arg-type]
    except StopIteration as error:
        raise ValueError("no JSON") from error
    if end != len(text):
        raise ValueError("more than one JSON value")
    return value


def encode(value: Any) -> bytes:
    """Return text, numbers, booleans, lists and dictionaries as JSON."""
    return _encoded(value).encode()


def _encoded(value: Any) -> str:
    if isinstance(value, str):
        return str(encode_basestring_ascii(value))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        pairs = (f"{_encoded(str(k))}: {_encoded(v)}" for k, v in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_encoded(v) for v in value) + "]"
    return "null" if value is None else repr(value)
