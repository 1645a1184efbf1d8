"""YAML and JSON documents from strangers, read within bounds and with the place of every value.

Values are built straight from the parser's events: the composer of the C library recurses and
crashes the process on deep input, the event parser does not. Only what JSON can say gets through:
no aliases, anchors, tags, duplicate keys or values outside JSON's types (``no`` is text).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml as pyyaml
from yaml import events

from blixard.base.errors import BlixardError, Problem

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_NODES = 100_000
MAX_PROBLEMS = 100

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {
    "": None,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}
_INT64 = 1 << 63
_Loader: Any = getattr(pyyaml, "CSafeLoader", pyyaml.SafeLoader)


class Mark(NamedTuple):
    """Where a value stands, and its key (both from 1; the key's place is the value's in lists)."""

    line: int
    column: int
    key_line: int
    key_column: int


class Document(NamedTuple):
    """One document: its JSON value and the mark of every JSON pointer in it."""

    value: Any
    marks: dict[str, Mark]

    def locate(self, problem: Problem) -> Problem:
        """Return *problem* with line and column: its value's, its key's or the nearest parent's."""
        mark = self.marks.get(problem.pointer)
        if mark is not None:
            by_key = problem.message.startswith("unknown") or "unknown field" in problem.message
            place = (mark.key_line, mark.key_column) if by_key else (mark.line, mark.column)
            return _placed(problem, *place)
        pointer = problem.pointer
        while pointer and pointer not in self.marks:
            pointer = pointer.rpartition("/")[0]
        mark = self.marks.get(pointer, Mark(1, 1, 1, 1))
        return _placed(problem, mark.key_line, mark.key_column)


def _placed(problem: Problem, line: int, column: int) -> Problem:
    return Problem(problem.pointer, problem.message, problem.accepted, line, column)


def escape(token: str) -> str:
    """Return *token* as a part of a JSON pointer."""
    return token.replace("~", "~0").replace("/", "~1")


def read_documents(data: bytes | str, *, name: str = "document") -> list[Document]:
    """Return all documents of a YAML stream or a JSON text; empty documents are left out.

    Raises:
        BlixardError: TOO_LARGE; INVALID with every problem found, each with line and column.
    """
    text = _decode(data, name)
    if text.lstrip()[:1] in ("{", "["):
        # Outside strings JSON allows tabs and YAML does not; inside strings JSON forbids them.
        text = text.replace("\t", " ")
    builder = _Builder()
    try:
        documents = builder.documents(pyyaml.parse(text, Loader=_Loader))
    except pyyaml.MarkedYAMLError as error:
        builder.problems.append(_syntax_problem(error))
    except pyyaml.YAMLError as error:
        builder.problems.append(Problem("", f"not readable: {error}", (), 1, 1))
    if builder.problems:
        raise BlixardError(
            "INVALID", f"{name} cannot be read", problems=tuple(builder.problems[:MAX_PROBLEMS])
        )
    return [d for d in documents if d.value is not None]


def _decode(data: bytes | str, name: str) -> str:
    if len(data) > MAX_BYTES:
        raise BlixardError("TOO_LARGE", f"{name} is larger than {MAX_BYTES >> 20} MiB")
    if isinstance(data, str):
        return data
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = Problem("", "not UTF-8 text", (), line, 1)
        raise BlixardError("INVALID", f"{name} cannot be read", problems=(problem,)) from error


def _syntax_problem(error: pyyaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    text = " ".join(str(part) for part in (error.problem, error.context) if part)
    return Problem("", f"not valid YAML: {text}", (), line, column)


class _Stop(Exception):
    """A bound was passed: reading any further is pointless."""


class _Builder:
    """Builds values from events; recursion is bounded by MAX_DEPTH."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._nodes = 0
        self._marks: dict[str, Mark] = {}

    def documents(self, stream: Iterator[Any]) -> list[Document]:
        """Return the documents of an event stream."""
        found = []
        try:
            for event in stream:
                if isinstance(event, events.DocumentStartEvent):
                    self._marks = {}
                    value = self._value(next(stream), stream, "", 0, None)
                    found.append(Document(value, self._marks))
        except _Stop:
            return []
        return found

    def _problem(self, event: Any, pointer: str, message: str) -> None:
        mark = event.start_mark
        self.problems.append(Problem(pointer, message, (), mark.line + 1, mark.column + 1))

    def _stop(self, event: Any, pointer: str, message: str) -> _Stop:
        self._problem(event, pointer, message)
        return _Stop()

    def _value(
        self, event: Any, stream: Iterator[Any], pointer: str, depth: int, key: Any | None
    ) -> Any:
        self._check(event, pointer, depth)
        mark = event.start_mark
        key_mark = mark if key is None else key.start_mark
        self._marks[pointer] = Mark(
            mark.line + 1, mark.column + 1, key_mark.line + 1, key_mark.column + 1
        )
        if isinstance(event, events.MappingStartEvent):
            return self._mapping(stream, pointer, depth)
        if isinstance(event, events.SequenceStartEvent):
            return self._sequence(stream, pointer, depth)
        if isinstance(event, events.ScalarEvent):
            return self._scalar(event, pointer)
        return None

    def _check(self, event: Any, pointer: str, depth: int) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._stop(event, pointer, f"more than {MAX_NODES:,} values")
        if depth > MAX_DEPTH:
            raise self._stop(event, pointer, f"nested deeper than {MAX_DEPTH}")
        if isinstance(event, events.AliasEvent):
            self._problem(event, pointer, "aliases (*name) are not accepted: write the value out")
        elif getattr(event, "anchor", None):
            self._problem(event, pointer, "anchors (&name) are not accepted: write the value out")
        if getattr(event, "tag", None):
            self._problem(event, pointer, f"tags ({event.tag}) are not accepted")

    def _mapping(self, stream: Iterator[Any], pointer: str, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key in stream:
            if isinstance(key, events.MappingEndEvent):
                break
            self._check(key, pointer, depth + 1)
            name = (
                key.value
                if isinstance(key, events.ScalarEvent)
                else self._bad_key(key, stream, pointer, depth)
            )
            child = f"{pointer}/{escape(name)}"
            if name in lines:
                self._problem(key, child, f"duplicate key {name!r} (first on line {lines[name]})")
            lines.setdefault(name, key.start_mark.line + 1)
            result[name] = self._value(next(stream), stream, child, depth + 1, key)
        return result

    def _bad_key(self, event: Any, stream: Iterator[Any], pointer: str, depth: int) -> str:
        if not isinstance(event, events.AliasEvent):
            self._problem(event, pointer, "keys must be text")
            self._value(event, stream, pointer, depth + 1, None)
        return ""

    def _sequence(self, stream: Iterator[Any], pointer: str, depth: int) -> list[Any]:
        result: list[Any] = []
        for event in stream:
            if isinstance(event, events.SequenceEndEvent):
                break
            result.append(self._value(event, stream, f"{pointer}/{len(result)}", depth + 1, None))
        return result

    def _scalar(self, event: Any, pointer: str) -> Any:
        if not event.implicit[0]:
            return event.value
        try:
            return plain_value(event.value)
        except ValueError as error:
            self._problem(event, pointer, str(error))
            return None


def plain_value(text: str) -> Any:
    """Return the JSON value that unquoted *text* stands for.

    Raises:
        ValueError: if it is a number that JSON readers do not agree on.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        number = int(text) if len(text) < 21 else _INT64
        if not -_INT64 <= number < _INT64:
            raise ValueError(f"the number {text[:24]} is out of range; quote it if it is text")
        return number
    if _FLOAT.fullmatch(text):
        real = float(text)
        if real in (float("inf"), float("-inf")):
            raise ValueError(f"the number {text[:24]} is out of range; quote it if it is text")
        return real
    return text


class _Dumper(pyyaml.SafeDumper):
    """Quotes what any reader, ours or a YAML 1.1 one, could take for another type."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the base class names it
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 - see above
        return super().increase_indent(flow, False)


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


def _represent_text(dumper: _Dumper, text: str) -> pyyaml.ScalarNode:
    style = "|" if "\n" in text and not text.startswith((" ", "\n")) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def write_documents(values: list[Any]) -> str:
    """Return *values* as a YAML stream that :func:`read_documents` reads back unchanged."""
    texts = [
        pyyaml.dump(
            value,
            Dumper=_Dumper,
            sort_keys=False,
            allow_unicode=True,
            width=100,
            default_flow_style=False,
        )
        for value in values
    ]
    return "---\n".join(texts)
