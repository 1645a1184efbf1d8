"""The global flags: accepted before and after every command, each with an environment variable.

Precedence: flag, then environment, then context file, then configuration file, then default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

FORMATS = ("table", "wide", "json", "yaml", "name")

# name, spellings, help, kind of value ("flag", "text", "repeat", "format")
_ROWS: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    ("format", ("--format", "-o"), "table, wide, json, yaml, name or path=EXPR.", "format"),
    (
        "columns",
        ("--columns",),
        "Show these columns: NAME,PHASE or NAME,NODE=spec.nodeName.",
        "text",
    ),
    (
        "filter",
        ("--filter",),
        "Keep rows where COLUMN=VALUE or COLUMN!=VALUE (* matches any).",
        "repeat",
    ),
    ("selector", ("--selector", "-l"), "Keep objects with these labels: k=v,k2!=v2,k3.", "text"),
    ("no_headers", ("--no-headers",), "Leave out the heading of tables.", "flag"),
    ("quiet", ("--quiet", "-q"), "Print names alone.", "flag"),
    (
        "verbose",
        ("--verbose", "-v"),
        "Say more; show the traceback of an unexpected error.",
        "flag",
    ),
    ("watch", ("--watch", "-w"), "Go on printing changes.", "flag"),
    ("no_color", ("--no-color",), "No colour (also: NO_COLOR).", "flag"),
    ("no_input", ("--no-input",), "Never ask; fail where an answer is needed.", "flag"),
    ("yes", ("--yes", "-y"), "Answer yes to every question.", "flag"),
    ("dry_run", ("--dry-run",), "Check on the server, change nothing.", "flag"),
    ("detach", ("--detach",), "Do not wait until the work is done.", "flag"),
    ("timeout", ("--timeout",), "Give up after this time (30s, 5m).", "text"),
    (
        "stale",
        ("--stale",),
        "Read what the asked node has, without a majority: it may be old.",
        "flag",
    ),
    ("request_id", ("--request-id",), "Repeat a request under its id.", "text"),
    ("namespace", ("--namespace", "-n"), "Work in this namespace.", "text"),
    ("all_namespaces", ("--all-namespaces", "-A"), "List all namespaces.", "flag"),
    ("address", ("--address",), "HOST:PORT, https://HOST:PORT or the path of a socket.", "text"),
    ("context", ("--context",), "Use this entry of the context file.", "text"),
    ("key_file", ("--key-file",), "Read the API key from a file (- is standard input).", "text"),
    ("config_file", ("--config-file",), "Configuration of this node.", "text"),
)
NAMES = tuple(row[0] for row in _ROWS)
_FLAGS = frozenset(row[0] for row in _ROWS if row[3] == "flag")


class FormatType(click.ParamType[str]):
    """One of the formats, or ``path=EXPR``."""

    name = "FORMAT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return *value* if it is a format."""
        if value in FORMATS or str(value).startswith("path="):
            return str(value)
        return self.fail(
            f"{value!r} is no format; choose {', '.join(FORMATS)} or path=EXPR", param, ctx
        )


def _store(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value not in (None, False, ()) and param.name is not None:
        flags: Flags = ctx.find_root().obj
        flags.given[param.name] = value


def _option(name: str, spellings: tuple[str, ...], text: str, kind: str) -> click.Option:
    more: dict[str, Any] = {"flag": {"is_flag": True}, "repeat": {"multiple": True}}.get(kind, {})
    if kind == "format":
        more = {"type": FormatType()}
    return click.Option([*spellings, name], help=text, expose_value=False, callback=_store, **more)


_made: list[click.Option] = []


def options() -> list[click.Option]:
    """Return the global options, made once."""
    if not _made:
        _made.extend(_option(*row) for row in _ROWS)
    return _made


def variable(name: str) -> str:
    """Return the environment variable of a flag."""
    return f"BLIXARD_{name.upper()}"


class Flags:
    """What the user gave, by flag or by environment.

    *api*, *now_ms* and *outside* replace connection, clocks and entropy, for callers that bring
    their own.
    """

    def __init__(
        self, environ: Mapping[str, str], *, api: Any = None, now_ms: int = 0, outside: Any = None
    ) -> None:
        self.environ = environ
        self.api = api
        self.now_ms = now_ms
        self.outside = outside
        self.given: dict[str, Any] = {}

    def text(self, name: str) -> str:
        """Return the value of a flag; empty if nobody gave it."""
        value = self.given.get(name)
        return str(value) if value is not None else self.environ.get(variable(name), "")

    def on(self, name: str) -> bool:
        """Tell whether a switch is on."""
        return bool(self.given.get(name)) or _truthy(self.environ.get(variable(name), ""))

    def source(self, name: str) -> str:
        """Return where the value of a flag comes from: flag, environment or nothing."""
        if name in self.given:
            return "flag"
        return "environment" if self.environ.get(variable(name)) else ""

    @property
    def filters(self) -> tuple[str, ...]:
        """The filters, from the flag or comma-separated from the environment."""
        given: tuple[str, ...] | None = self.given.get("filter")
        if given is not None:
            return given
        text = self.environ.get(variable("filter"), "")
        return tuple(part for part in text.split(",") if part)

    @property
    def format(self) -> str:
        """The output format; ``-q`` is ``name`` without the kind."""
        text = self.text("format") or "table"
        if text in FORMATS or text.startswith("path="):
            return text
        raise click.UsageError(
            f"BLIXARD_FORMAT: {text!r} is no format; choose {', '.join(FORMATS)}"
        )


def _truthy(text: str) -> bool:
    return text.lower() in ("1", "true", "yes", "on")
