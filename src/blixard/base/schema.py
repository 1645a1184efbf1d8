"""All problems of a document at once, with JSON pointers and accepted values.

``msgspec.convert`` stops at the first problem. This walks the same types and collects every one;
what it accepts, ``convert`` accepts, and the other way round (a property test holds them together).
"""

from __future__ import annotations

import difflib
import re
from typing import Any

import msgspec
from msgspec import inspect

from blixard.base.errors import Problem

PROBLEMS_MAX = 100


def collect_problems(spec_type: Any, value: Any, *, pointer: str = "") -> list[Problem]:
    """Return every problem of *value* as a *spec_type*, at most PROBLEMS_MAX; empty if it fits."""
    problems: list[Problem] = []
    _walk(_info(spec_type), value, pointer, problems)
    return problems[:PROBLEMS_MAX]


def json_schema(types: list[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return JSON Schemas of the types and their shared components, for OpenAPI 3.1."""
    schemas, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    return list(schemas), dict(components)


_INFO: dict[Any, inspect.Type] = {}


def _info(spec_type: Any) -> inspect.Type:
    found = _INFO.get(spec_type)
    if found is None:
        found = _INFO[spec_type] = inspect.type_info(spec_type)
    return found


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _add(problems: list[Problem], pointer: str, message: str, *accepted: str) -> None:
    problems.append(Problem(pointer=pointer, message=message, accepted=accepted))


def _walk(info: inspect.Type, value: Any, pointer: str, problems: list[Problem]) -> None:
    walker = _WALKERS.get(type(info))
    if walker is not None:
        walker(info, value, pointer, problems)


def _named(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "text"}
    return names.get(type(value), "a list" if isinstance(value, list | tuple) else "a mapping")


def _struct(info: Any, value: Any, pointer: str, problems: list[Problem]) -> None:
    if not isinstance(value, dict):
        _add(problems, pointer, f"must be a mapping, not {_named(value)}")
        return
    fields = {field.encode_name: field for field in info.fields}
    for key in value:
        if key not in fields and info.forbid_unknown_fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            meant = f"; did you mean {close[0]}?" if close else ""
            _add(
                problems, f"{pointer}/{_escape(str(key))}", f"unknown field{meant}", *sorted(fields)
            )
    for name, field in fields.items():
        if name in value:
            _walk(field.type, value[name], f"{pointer}/{_escape(name)}", problems)
        elif field.required:
            _add(problems, pointer, f"the field {name} is missing")


def _text(info: Any, value: Any, pointer: str, problems: list[Problem]) -> None:
    if not isinstance(value, str):
        _add(problems, pointer, f"must be text, not {_named(value)}")
        return
    if info.pattern is not None and re.search(info.pattern, value) is None:
        _add(problems, pointer, f"{value!r} does not match", info.pattern)
    _length(info, value, pointer, problems, "characters")


def _length(info: Any, value: Any, pointer: str, problems: list[Problem], unit: str) -> None:
    if info.max_length is not None and len(value) > info.max_length:
        _add(problems, pointer, f"has {len(value)} {unit}; at most {info.max_length}")
    if info.min_length is not None and len(value) < info.min_length:
        _add(problems, pointer, f"has {len(value)} {unit}; at least {info.min_length}")


def _number(info: Any, value: Any, pointer: str, problems: list[Problem]) -> None:
    whole = isinstance(info, inspect.IntType)
    fits = isinstance(value, int) or (
        isinstance(value, float) and (not whole or value.is_integer())
    )
    if isinstance(value, bool) or not fits:
        wanted = "a whole number" if whole else "a number"
        shown = str(value) if isinstance(value, float) else _named(value)
        _add(problems, pointer, f"must be {wanted}, not {shown}")
        return
    bounds = (
        (info.ge, value >= (info.ge or 0), "at least"),
        (info.gt, value > (info.gt or 0), "more than"),
        (info.le, value <= (info.le or 0), "at most"),
        (info.lt, value < (info.lt or 0), "less than"),
    )
    for bound, holds, words in bounds:
        if bound is not None and not holds:
            _add(problems, pointer, f"{value} is out of range", f"{words} {bound}")


def _bool(_info: Any, value: Any, pointer: str, problems: list[Problem]) -> None:
    if not isinstance(value, bool):
        _add(problems, pointer, f"must be true or false, not {_named(value)}", "true", "false")


def _null(_info: Any, value: Any, pointer: str, problems: list[Problem]) -> None:
    if value is not None:
        _add(problems, pointer, f"must be null, not {_named(value)}")


def _literal(info: Any, value: Any, pointer: str, problems: list[Problem]) -> None:
    if type(value) not in (int, str) or value not in info.values:
        accepted = [str(v) or '""' for v in info.values]
        close = difflib.get_close_matches(str(value), accepted, n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        _add(problems, pointer, f"{value!r} is not accepted{meant}", *accepted)


def _sequence(info: Any, value: Any, pointer: str, problems: list[Problem]) -> None:
    if not isinstance(value, list | tuple):
        _add(problems, pointer, f"must be a list, not {_named(value)}")
        return
    _length(info, value, pointer, problems, "entries")
    for number, entry in enumerate(value):
        _walk(info.item_type, entry, f"{pointer}/{number}", problems)


def _mapping(info: Any, value: Any, pointer: str, problems: list[Problem]) -> None:
    if not isinstance(value, dict):
        _add(problems, pointer, f"must be a mapping, not {_named(value)}")
        return
    _length(info, value, pointer, problems, "entries")
    for key, entry in value.items():
        place = f"{pointer}/{_escape(str(key))}"
        _walk(info.key_type, key, place, problems)
        _walk(info.value_type, entry, place, problems)


def _union(info: Any, value: Any, pointer: str, problems: list[Problem]) -> None:
    """Report the alternative that comes nearest: the one with the fewest problems."""
    best: list[Problem] | None = None
    for alternative in info.types:
        found: list[Problem] = []
        _walk(alternative, value, pointer, found)
        if not found:
            return
        deeper = any(problem.pointer != pointer for problem in found)
        if best is None or (deeper and all(p.pointer == pointer for p in best)):
            best = found
    if best is None:
        return
    if all(problem.pointer == pointer for problem in best) and value is not None:
        kinds = [_described(t) for t in info.types]
        if _described_value(value) not in kinds:
            _add(problems, pointer, f"must be {' or '.join(kinds)}, not {_named(value)}")
            return
        best = next(
            f
            for t in info.types
            if _described(t) == _described_value(value)
            for f in [_problems_of(t, value, pointer)]
        )
    problems.extend(best)


def _problems_of(info: inspect.Type, value: Any, pointer: str) -> list[Problem]:
    found: list[Problem] = []
    _walk(info, value, pointer, found)
    return found


def _described_value(value: Any) -> str:
    return _named(value)


def _described(info: inspect.Type) -> str:
    names: dict[type, str] = {
        inspect.StrType: "text",
        inspect.IntType: "a number",
        inspect.FloatType: "a number",
        inspect.BoolType: "a boolean",
        inspect.NoneType: "null",
        inspect.ListType: "a list",
        inspect.VarTupleType: "a list",
    }
    return names.get(type(info), "a mapping")


_WALKERS: dict[type, Any] = {
    inspect.StructType: _struct,
    inspect.StrType: _text,
    inspect.IntType: _number,
    inspect.FloatType: _number,
    inspect.BoolType: _bool,
    inspect.NoneType: _null,
    inspect.LiteralType: _literal,
    inspect.ListType: _sequence,
    inspect.VarTupleType: _sequence,
    inspect.DictType: _mapping,
    inspect.UnionType: _union,
}
