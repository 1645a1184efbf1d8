"""TOML with the place of every key: ``tomllib`` reads the values, a line scanner finds the keys."""

from __future__ import annotations

import re
import tomllib
from typing import Any, NamedTuple

from blixard.base.errors import BlixardError, Problem

MAX_BYTES = 1 << 20
_BARE = r"[A-Za-z0-9_-]+"
_SIMPLE = rf"(?:{_BARE}|\"[^\"\n]*\"|'[^'\n]*')"
_DOTTED = rf"{_SIMPLE}(?:[ \t]*\.[ \t]*{_SIMPLE})*"
_HEADER = re.compile(rf"[ \t]*\[\[?[ \t]*({_DOTTED})[ \t]*\]\]?")
_KEY = re.compile(rf"[ \t]*({_DOTTED})[ \t]*=")
_PART = re.compile(_SIMPLE)
# What can stand in a value: strings of four kinds, brackets, comments.
_TOKEN = re.compile(
    r"\"\"\"(?:\\.|[^\\])*?\"\"\"|'''.*?'''|\"(?:\\.|[^\"\\\n])*\"|'[^'\n]*'|[\[\]{}]|#[^\n]*|\n",
    re.DOTALL,
)
_WHERE = re.compile(r"\(at (?:line (\d+), column (\d+)|end of document)\)")


class Place(NamedTuple):
    """Line and column, both from 1."""

    line: int
    column: int


def read_toml(text: str, *, name: str = "config.toml") -> tuple[dict[str, Any], dict[str, Place]]:
    """Return the values and the place of every dotted key and table.

    Raises:
        BlixardError: TOO_LARGE; INVALID with the place of the syntax error.
    """
    if len(text) > MAX_BYTES:
        raise BlixardError("TOO_LARGE", f"{name} is larger than {MAX_BYTES >> 20} MiB")
    text = text.replace("\r\n", "\n")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BlixardError(
            "INVALID", f"{name} cannot be read", problems=(_syntax(error, text),)
        ) from error
    except RecursionError as error:
        problem = Problem("", "nested too deeply", (), 1, 1)
        raise BlixardError("INVALID", f"{name} cannot be read", problems=(problem,)) from error
    return values, _places(text)


def _syntax(error: tomllib.TOMLDecodeError, text: str) -> Problem:
    message = str(error)
    match = _WHERE.search(message)
    if match is None or match[1] is None:
        line, column = text.count("\n") + 1, 1
    else:
        line, column = int(match[1]), int(match[2])
    return Problem("", f"not valid TOML: {_WHERE.sub('', message).strip()}", (), line, column)


def _names(dotted: str) -> list[str]:
    return [part.strip("\"'") if part[0] in "\"'" else part for part in _PART.findall(dotted)]


def _places(text: str) -> dict[str, Place]:
    """Walk over valid TOML statement by statement."""
    places: dict[str, Place] = {}
    table: list[str] = []
    at, line = 0, 1
    while at < len(text):
        header = _HEADER.match(text, at)
        key = None if header else _KEY.match(text, at)
        found = header or key
        if found is not None:
            place = Place(line, found.start(1) - at + 1)
            names = _names(found[1])
            table = names if header else table
            _note(places, names if header else [*table, *names], place)
        end = _end_of_statement(text, found.end() if found else at)
        line += text.count("\n", at, end)
        at = end
    return places


def _note(places: dict[str, Place], names: list[str], place: Place) -> None:
    for depth in range(1, len(names) + 1):
        places.setdefault(".".join(names[:depth]), place)
    places[".".join(names)] = place


def _end_of_statement(text: str, at: int) -> int:
    """Return the offset after the line end that closes the value starting at *at*."""
    depth = 0
    for token in _TOKEN.finditer(text, at):
        sign = token[0]
        if sign in ("[", "{"):
            depth += 1
        elif sign in ("]", "}"):
            depth -= 1
        elif sign == "\n" and depth <= 0:
            return token.end()
    return len(text)
