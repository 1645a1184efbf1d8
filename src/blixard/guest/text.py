"""JSON with CPython's own scanner and encoder: importing ``json`` takes an emulated guest 0.3 s."""

from __future__ import annotations

from _json import encode_basestring_ascii, make_encoder, make_scanner

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


_scan = make_scanner(_Rules())  # type: ignore[arg-type]


def decode(data: bytes) -> Any:
    """Return what the JSON text says. Raises ValueError."""
    text = data.decode().strip(" \t\n\r")
    try:
        value, end = _scan(text, 0)
    except StopIteration as error:
        raise ValueError("no JSON") from error
    if end != len(text):
        raise ValueError("more than one JSON value")
    return value


def encode(value: Any) -> bytes:
    """Return a value as JSON, as ``json.dumps`` does. Raises TypeError, ValueError, RecursionError.

    NaN and infinities are no JSON: they are refused.
    """
    return "".join(_encoder(value, 0)).encode()


def _refuse(value: object) -> Any:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


# Circular references end as RecursionError; no indent, no sorting, no skipped keys, no NaN.
_encoder = make_encoder(
    None, _refuse, encode_basestring_ascii, None, ": ", ", ", False, False, False
)
