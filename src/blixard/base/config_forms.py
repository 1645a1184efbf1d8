"""How configuration values are written: a form turns what a file says into a value, or refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from blixard.base.errors import BlixardError
from blixard.base.units import parse_duration_s

Form = Callable[[Any], Any]


class WrongForm(Exception):
    """A value is not written as its key wants; the text says how it should be."""


_NAME = re.compile(r"[A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?")
_HOST = re.compile(r"[A-Za-z0-9]([-.A-Za-z0-9]*[A-Za-z0-9])?\.?")
_INTERFACE = re.compile(r"[A-Za-z0-9][-_.A-Za-z0-9]{0,14}")


def text(value: Any) -> str:
    """Any text."""
    if not isinstance(value, str):
        raise WrongForm(f"must be text, not {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a table",
    }
    return names.get(type(value), type(value).__name__)


def name(value: Any) -> str:
    """A name: letters, digits, ``-``, ``_``, ``.``; may be empty."""
    return _matching(
        value, _NAME, "must be letters, digits, - _ or . and at most 63 characters", 63
    )


def interface(value: Any) -> str:
    """A network interface: at most 15 characters."""
    return _matching(value, _INTERFACE, "must be an interface name of at most 15 characters", 15)


def _matching(value: Any, pattern: re.Pattern[str], rule: str, limit: int) -> str:
    said = text(value)
    if said and (len(said) > limit or not pattern.fullmatch(said)):
        raise WrongForm(rule)
    return said


def host(value: Any) -> str:
    """An IP address or a host name without a port; may be empty."""
    said = text(value)
    if not said or _HOST.fullmatch(said):
        return said
    try:
        return ip(said)
    except WrongForm:
        raise WrongForm("must be an IP address or a host name, without a port") from None


def absolute_path(value: Any) -> str:
    """A path that starts with ``/``; may be empty."""
    said = text(value)
    if said and (not said.startswith("/") or "\0" in said):
        raise WrongForm("must be an absolute path")
    return said


def one_of(accepted: tuple[str, ...]) -> Form:
    """One of the words."""

    def form(value: Any) -> str:
        said = text(value)
        if said not in accepted:
            raise WrongForm(f"{said!r} is not accepted")
        return said

    return form


def integer(low: int, high: int) -> Form:
    """A whole number within bounds; digits as text too, as the environment gives them."""

    def form(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise WrongForm(f"must be a whole number, not {_kind(value)}")
        if not low <= value <= high:
            raise WrongForm(f"must be between {low} and {high}, not {value}")
        return value

    return form


port: Form = integer(1, 65535)


def boolean(value: Any) -> bool:
    """True or false; as words too, as the environment gives them."""
    words = {
        "true": True,
        "1": True,
        "yes": True,
        "on": True,
        "false": False,
        "0": False,
        "no": False,
        "off": False,
    }
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    if not isinstance(value, bool):
        raise WrongForm("must be true or false")
    return value


def duration(low_s: float, high_s: float) -> Form:
    """A duration (``500ms``, ``5s``; a bare number is seconds) within bounds."""

    def form(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise WrongForm(f"must be a duration such as 500ms or 5s, not {_kind(value)}")
        try:
            seconds = parse_duration_s(value)
        except BlixardError as error:
            raise WrongForm(error.message) from error
        if not low_s <= seconds <= high_s:
            raise WrongForm(f"must be between {low_s:g}s and {high_s:g}s")
        return seconds

    return form


def _listed(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list):
        raise WrongForm(f"must be a list, not {_kind(value)}")
    return value


def names(value: Any) -> tuple[str, ...]:
    """A list of names; comma-separated text too."""
    return tuple(name(item) for item in _listed(value))


def addresses(value: Any) -> tuple[str, ...]:
    """A list of ``HOST`` or ``HOST:PORT``."""
    return tuple(_address(item) for item in _listed(value))


def _address(value: Any) -> str:
    said = text(value)
    head, sign, tail = said.rpartition(":")
    if sign and tail.isdigit() and ("]" in head or ":" not in head):
        port(tail)
        host(head.strip("[]"))
    else:
        host(said.strip("[]"))
    return said


def labels(value: Any) -> dict[str, str]:
    """A table of text; ``k=v,k2=v2`` too."""
    if isinstance(value, str):
        pairs = [part.partition("=") for part in _listed(value)]
        return {key.strip(): found.strip() for key, _, found in pairs}
    if not isinstance(value, dict):
        raise WrongForm(f"must be a table of text, not {_kind(value)}")
    return {str(key): text(found) for key, found in value.items()}


def ip(value: Any) -> str:
    """An IP address; may be empty."""
    import ipaddress

    said = text(value)
    if said:
        try:
            ipaddress.ip_address(said)
        except ValueError:
            raise WrongForm(f"{said!r} is no IP address") from None
    return said


def cidr(value: Any) -> str:
    """A network such as ``10.0.1.0/24``; may be empty."""
    import ipaddress

    said = text(value)
    if said:
        try:
            ipaddress.ip_network(said)
        except ValueError as error:
            raise WrongForm(f"{said!r} is no network: {error}") from None
    return said


def number_range(low: int, high: int) -> Form:
    """``FIRST-LAST`` within bounds; may be empty."""

    def form(value: Any) -> str:
        said = text(value)
        match = re.fullmatch(r"(\d{1,9})-(\d{1,9})", said)
        if said and (match is None or not low <= int(match[1]) <= int(match[2]) <= high):
            raise WrongForm(f"must be FIRST-LAST within {low}-{high}")
        return said

    return form
