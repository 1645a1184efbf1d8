"""Path expressions: ``spec.node``, ``items[0]``, ``labels['a.b']``, ``instances[*].ip``."""

from __future__ import annotations

import json
import re
from typing import Any

from blixard.base.errors import BlixardError

_PART = re.compile(r"\.?([A-Za-z0-9_-]+)|\[(\d+|-\d+|\*)\]|\[(?:'([^']*)'|\"([^\"]*)\")\]")
Part = str | int | None  # a name, an index, or None for all


def parse(expression: str) -> list[Part]:
    """Return the parts of *expression*; the empty one means the whole object.

    Raises:
        BlixardError: BAD_REQUEST, naming the place that is not understood.
    """
    text = expression.strip().strip("{}").removeprefix("$").removeprefix(".")
    parts: list[Part] = []
    at = 0
    while at < len(text):
        match = _PART.match(text, at)
        if match is None:
            raise BlixardError(
                "BAD_REQUEST",
                f"path {expression!r} is not understood at {text[at:]!r}",
                hint="write spec.replicas, status.instances[0].ip or metadata.labels['a/b']",
            )
        name, index, single, double = match.groups()
        parts.append(_part(name, index, single if single is not None else double))
        at = match.end()
    return parts


def _part(name: str | None, index: str | None, quoted: str | None) -> Part:
    if index == "*":
        return None
    return int(index) if index is not None else name if name is not None else quoted


def find(value: Any, parts: list[Part]) -> list[Any]:
    """Return all values that *parts* lead to; what is absent is left out."""
    values = [value]
    for part in parts:
        values = [child for item in values for child in _children(item, part)]
    return values


def _children(value: Any, part: Part) -> list[Any]:
    if part is None:
        return (
            list(value.values())
            if isinstance(value, dict)
            else list(value)
            if isinstance(value, list)
            else []
        )
    if isinstance(value, dict):
        return [value[str(part)]] if str(part) in value else []
    if isinstance(value, list) and isinstance(part, int) and -len(value) <= part < len(value):
        return [value[part]]
    return []


def text(value: Any) -> str:
    """Return a value as text: strings as they are, the rest as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def get(value: Any, expression: str) -> Any:
    """Return the first value of *expression*, or None."""
    found = find(value, parse(expression))
    return found[0] if found else None
