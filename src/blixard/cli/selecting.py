"""Which rows the user wants: labels (``-l``) and column values (``--filter``)."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from blixard.base.errors import BlixardError


class Condition(NamedTuple):
    """``key = value`` or ``key != value``; no value: the key must (or must not) be there."""

    key: str
    value: str | None
    negated: bool


def parse_conditions(texts: tuple[str, ...]) -> list[Condition]:
    """Return the conditions of ``k=v``, ``k!=v``, ``k`` and ``!k``.

    Raises:
        BlixardError: BAD_REQUEST, if a key is empty.
    """
    return [_condition(text.strip()) for text in texts if text.strip()]


def _condition(text: str) -> Condition:
    for sign in ("!=", "==", "="):
        key, found, value = text.partition(sign)
        if found:
            return _checked(text, Condition(key.strip(), value.strip(), sign == "!="))
    return _checked(text, Condition(text.removeprefix("!"), None, text.startswith("!")))


def _checked(text: str, condition: Condition) -> Condition:
    if not condition.key:
        raise BlixardError(
            "BAD_REQUEST", f"{text!r} has no key", hint="write key=value or key!=value"
        )
    return condition


def parse_labels(text: str) -> list[Condition]:
    """Return the conditions of a comma-separated label selector."""
    return parse_conditions(tuple(text.split(",")))


def holds(condition: Condition, value: Any | None) -> bool:
    """Tell whether *value* (None: absent) fulfils the condition; ``*`` in it matches anything."""
    if condition.value is None:
        return (value is not None) != condition.negated
    same = value is not None and fnmatchcase(str(value).lower(), condition.value.lower())
    return same != condition.negated


def has_labels(resource: dict[str, Any], conditions: list[Condition]) -> bool:
    """Tell whether the object's labels fulfil all *conditions*."""
    labels = resource.get("metadata", {}).get("labels", {})
    return all(holds(c, labels.get(c.key)) for c in conditions)
