"""Plain tables: aligned columns, shrunk to the terminal, exact in a pipe."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

GAP = "   "
MIN_SHRUNK = 8


def clean(text: str) -> str:
    """Return *text* on one line without control characters: names and messages come from others."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else " " if c in "\n\t\r" else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )


def width(text: str) -> int:
    """Return the terminal cells that *text* takes."""
    if text.isascii():
        return len(text)
    return sum(_cells(char) for char in text)


def _cells(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, cells: int) -> str:
    """Return *text* within *cells*, ended by ``…`` if something is missing."""
    if width(text) <= cells:
        return text
    kept = ""
    for char in text:
        if width(kept) + _cells(char) > cells - 1:
            break
        kept += char
    return kept.rstrip() + "…"


def render(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    cells: int | None,
    heading: bool = True,
) -> str:
    """Return the table; *cells* is the terminal's width, or None for a pipe."""
    body = [[clean(cell) for cell in row] for row in rows]
    lines = [list(headers), *body] if heading else body
    if not lines:
        return ""
    widths = [max(width(line[i]) for line in lines) for i in range(len(headers))]
    if cells is not None:
        widths = _fit(widths, [width(h) for h in headers], cells)
    return "".join(_line(line, widths) + "\n" for line in lines)


def _line(line: Sequence[str], widths: Sequence[int]) -> str:
    fitted = [cut(cell, cells) for cell, cells in zip(line, widths, strict=True)]
    padded = [
        cell + " " * (cells - width(cell)) for cell, cells in zip(fitted, widths, strict=True)
    ]
    return GAP.join(padded).rstrip()


def _fit(widths: list[int], headers: list[int], cells: int) -> list[int]:
    """Take cells from the widest column again and again, never below its heading."""
    room = cells - len(GAP) * (len(widths) - 1)
    floors = [max(MIN_SHRUNK, header) for header in headers]
    fitted = list(widths)
    while sum(fitted) > room:
        candidates = [i for i in range(len(fitted)) if fitted[i] > floors[i]]
        if not candidates:
            break
        widest = max(candidates, key=lambda i: (fitted[i], i))
        fitted[widest] -= 1
    return fitted
