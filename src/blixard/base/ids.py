"""ULIDs: 48 bits of milliseconds, 80 random bits, 26 characters, sortable
(github.com/ulid/spec).
"""

from __future__ import annotations

import re
from functools import lru_cache

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_TO_PYTHON = str.maketrans(_ALPHABET, "0123456789ABCDEFGHIJKLMNOPQRSTUV")
_SHIFTS = range(120, -1, -10)
_REMEMBERED = 256  # a request's id is looked at in each of its stages
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


def ulid(time_ms: int, random_bits: int) -> str:
    """Return the ULID of *time_ms* (Unix milliseconds) and 80 *random_bits*."""
    assert 0 <= time_ms < 1 << 48
    value = (time_ms << 80) | (random_bits & ((1 << 80) - 1))
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in _SHIFTS])


@lru_cache(_REMEMBERED)
def is_ulid(text: str) -> bool:
    """Tell whether *text* is a canonical ULID."""
    return _ULID.fullmatch(text) is not None


@lru_cache(_REMEMBERED)
def ulid_time_ms(text: str) -> int:
    """Return the Unix milliseconds inside a ULID."""
    return int(text[:10].translate(_TO_PYTHON), 32)
