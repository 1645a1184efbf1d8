"""ULIDs: 48 bits of milliseconds, 80 random bits, 26 characters, sortable
(github.com/ulid/spec).
"""

from __future__ import annotations

import re
from functools import lru_cache

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_TO_PYTHON = str.maketrans(_ALPHABET, "0123456789ABCDEFGHIJKLMNOPQRSTUV")
_HALF = (1 << 70) - 1
_REMEMBERED = 256  # a request's id is looked at in each of its stages
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


def ulid(time_ms: int, random_bits: int) -> str:
    """Return the ULID of *time_ms* (Unix milliseconds) and 80 *random_bits*."""
    assert 0 <= time_ms < 1 << 48
    value = (time_ms << 80) | (random_bits & ((1 << 80) - 1))
    high, low, pair = value >> 70, value & _HALF, _PAIRS
    # Written out, in halves: each request has a new id, and a loop takes 1.7 times as long.
    return (
        f"{pair[high >> 50]}{pair[high >> 40 & 1023]}{pair[high >> 30 & 1023]}"
        f"{pair[high >> 20 & 1023]}{pair[high >> 10 & 1023]}{pair[high & 1023]}"
        f"{pair[low >> 60]}{pair[low >> 50 & 1023]}{pair[low >> 40 & 1023]}"
        f"{pair[low >> 30 & 1023]}{pair[low >> 20 & 1023]}{pair[low >> 10 & 1023]}"
        f"{pair[low & 1023]}"
    )


@lru_cache(_REMEMBERED)
def is_ulid(text: str) -> bool:
    """Tell whether *text* is a canonical ULID."""
    return _ULID.fullmatch(text) is not None


@lru_cache(_REMEMBERED)
def ulid_time_ms(text: str) -> int:
    """Return the Unix milliseconds inside a ULID."""
    return int(text[:10].translate(_TO_PYTHON), 32)
