"""Sizes and durations as people write them (decisions.md, "sizes")."""

from __future__ import annotations

import re

from blixard.base.errors import BlixardError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTP]?)(?:i?B)?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", re.IGNORECASE)
_POWER = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size_bytes(text: str | int, *, bare_unit: str) -> int:
    """Return bytes; a bare number is counted in *bare_unit* (``M`` for memory, ``G`` for disks).

    ``128``, ``128M``, ``128MB`` and ``128MiB`` are one size: all units are powers of 2.

    Raises:
        BlixardError: INVALID, if *text* is no size.
    """
    if isinstance(text, int) or text.isdigit():
        return int(text) << _POWER[bare_unit]
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise BlixardError("INVALID", f"{text!r} is no size; write 512M, 10GiB or a bare number")
    unit = match.group(2).upper()
    return int(float(match.group(1)) * (1 << _POWER[unit]))


def parse_memory_mib(text: str | int) -> int:
    """Return MiB; a bare number is MB."""
    return parse_size_bytes(text, bare_unit="M") >> 20


def parse_duration_s(text: str | float) -> float:
    """Return seconds of ``30s``, ``5m``, ``1h``, ``500ms``, ``30d``; a bare number is seconds.

    Raises:
        BlixardError: INVALID, if *text* is no duration.
    """
    if isinstance(text, int | float):
        return float(text)
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        if re.fullmatch(r"\d+(\.\d+)?", text.strip()):
            return float(text)
        raise BlixardError("INVALID", f"{text!r} is no duration; write 500ms, 30s, 5m, 1h or 30d")
    return float(match.group(1)) * _SECONDS[match.group(2).lower()]


def format_duration(seconds: float) -> str:
    """Return a short human form: ``350ms``, ``4.2s``, ``3m10s``, ``2h5m``, ``4d3h``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"
    whole = int(seconds)
    for size, unit, small, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // small}{small_unit}"
    return f"{whole // 60}m{whole % 60}s"


def format_bytes(count: int) -> str:
    """Return a short human form with binary units: ``512MiB``, ``1.5GiB``."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f}{unit}" if value == int(value) else f"{value:.1f}{unit}"
