"""Phases parse and validate of the write path: bytes to an operation, or all problems at once."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import msgspec

from blixard.base.errors import BlixardError, Problem
from blixard.base.schema import collect_problems
from blixard.cluster.kind import NAME_PATTERN, Kind, KindTable
from blixard.cluster.resources import API_VERSION, Put

DOCUMENTS_MAX = 500
LABELS_MAX = 64
_NAMESPACE = re.compile(NAME_PATTERN)
_LABEL_KEY = re.compile(
    r"([a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,200})"
)
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]?[-A-Za-z0-9_.:@+/]{0,200}")
_TOP = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})
_META_KEPT = frozenset({"name", "namespace", "labels"})
_META_IGNORED = frozenset({"uid", "owner", "revision", "generation", "createdAtMs", "updatedAtMs"})
_JSON = msgspec.json.Decoder()


class Place(msgspec.Struct, frozen=True):
    """Where an object goes, as far as the path says; an empty name is taken from the document."""

    kind: Kind
    namespace: str = ""
    name: str = ""


def parse_json(body: bytes) -> Any:
    """Return the JSON value of *body*. Raises BlixardError BAD_REQUEST."""
    try:
        return _JSON.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BlixardError("BAD_REQUEST", f"the body is not JSON: {error}") from error


def parse_mapping(body: bytes) -> dict[str, Any]:
    """Return the JSON object of *body*, empty for no body. Raises BlixardError BAD_REQUEST."""
    value = parse_json(body) if body else {}
    if not isinstance(value, dict):
        raise BlixardError("BAD_REQUEST", "the body must be a JSON object")
    return value


def read_put(document: Any, place: Place, *, expect: int = -1) -> tuple[Put | None, list[Problem]]:
    """Return the operation that *document* asks for at *place*, or all that is wrong with it."""
    if not isinstance(document, dict):
        return None, [Problem("", "must be a mapping with kind, metadata and spec")]
    problems: list[Problem] = []
    metadata = document.get("metadata", {})
    spec = document.get("spec", {})
    _check_top(document, place.kind, problems)
    if not isinstance(metadata, dict):
        return None, [*problems, Problem("/metadata", "must be a mapping")]
    name = _name(metadata, place, problems)
    namespace = _namespace(metadata, place, problems)
    labels = _labels(metadata.get("labels", {}), problems)
    problems += check_spec(place.kind, spec)
    if problems:
        return None, problems
    put = Put(
        kind=place.kind.name,
        namespace=namespace,
        name=name,
        spec=spec,
        labels=labels,
        expect=expect,
    )
    return put, []


def check_spec(kind: Kind, spec: Any) -> list[Problem]:
    """Return every problem of a spec: types first, then what types cannot say."""
    if not isinstance(spec, dict):
        return [Problem("/spec", "must be a mapping")]
    if kind.spec is None:
        return []
    try:
        value = msgspec.convert(spec, kind.spec)
    except (msgspec.ValidationError, RecursionError) as error:
        found = collect_problems(kind.spec, spec, pointer="/spec")
        return [*found, *_of_the_rest(kind, spec, found)] or [Problem("/spec", str(error))]
    return kind.validate(value) if kind.validate is not None else []


def _of_the_rest(kind: Kind, spec: Any, found: list[Problem]) -> list[Problem]:
    """Return what types cannot say about a spec without the places that are wrong already."""
    wrong = {problem.pointer for problem in found}
    try:
        value = msgspec.convert(_without(spec, "/spec", wrong), kind.spec)
    except (msgspec.ValidationError, RecursionError):
        # What is missing or damaged is needed: the rest cannot be judged yet.
        return []
    said = kind.validate(value) if kind.validate is not None else []
    return [problem for problem in said if problem.pointer not in wrong]


def _without(value: Any, pointer: str, wrong: set[str]) -> Any:
    """Return a copy of *value* without the members of mappings that *wrong* points at."""
    if isinstance(value, list):
        return [_without(item, f"{pointer}/{n}", wrong) for n, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    places = {key: f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}" for key in value}
    return {
        key: _without(item, places[key], wrong)
        for key, item in value.items()
        if places[key] not in wrong
    }


def invalid(problems: list[Problem]) -> BlixardError:
    """Return the error that names all problems."""
    first = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    where = f"{first.pointer}: " if first.pointer else ""
    return BlixardError("INVALID", f"{where}{first.message}{more}", problems=tuple(problems))


def read_documents(values: Any, kinds: KindTable, *, namespace: str) -> list[tuple[Kind, Put]]:
    """Return the operations of a list of documents.

    Raises:
        BlixardError: INVALID with the problems of all documents (``/0/spec/...``), TOO_LARGE.
    """
    if isinstance(values, dict):
        values = values.get("items", [values])
    if not isinstance(values, list) or not values:
        raise BlixardError("BAD_REQUEST", "give a list of documents")
    if len(values) > DOCUMENTS_MAX:
        raise BlixardError("TOO_LARGE", f"{len(values)} documents; at most {DOCUMENTS_MAX}")
    found: list[tuple[Kind, Put]] = []
    problems: list[Problem] = []
    for number, document in enumerate(values):
        kind, put, wrong = _read_any(document, kinds, namespace)
        problems += [msgspec.structs.replace(p, pointer=f"/{number}{p.pointer}") for p in wrong]
        if kind is not None and put is not None:
            found.append((kind, put))
    problems += _repeated([put for _, put in found])
    if problems:
        raise invalid(problems)
    return found


def _read_any(
    document: Any, kinds: KindTable, namespace: str
) -> tuple[Kind | None, Put | None, list[Problem]]:
    name = document.get("kind") if isinstance(document, dict) else None
    kind = kinds.by_name.get(name) if isinstance(name, str) else None
    if kind is None:
        known = tuple(sorted(k.name for k in kinds.kinds if not k.internal))
        return None, None, [Problem("/kind", f"{name!r} is no kind", known)]
    if kind.internal:
        known = tuple(sorted(k.name for k in kinds.kinds if not k.internal))
        message = f"{kind.name} is written by the cluster itself"
        return kind, None, [Problem("/kind", message, known)]
    metadata = document.get("metadata")
    named = metadata.get("namespace") if isinstance(metadata, dict) else None
    scope = (named if isinstance(named, str) and named else namespace) if kind.namespaced else ""
    put, problems = read_put(document, Place(kind, scope))
    return kind, put, problems


def _repeated(puts: list[Put]) -> list[Problem]:
    seen: set[tuple[str, str, str]] = set()
    problems = []
    for number, put in enumerate(puts):
        key = (put.kind, put.namespace, put.name)
        if key in seen:
            problems.append(Problem(f"/{number}/metadata/name", f"{put.name!r} is declared twice"))
        seen.add(key)
    return problems


def _check_top(document: dict[str, Any], kind: Kind, problems: list[Problem]) -> None:
    unknown = [key for key in document if key not in _TOP]
    problems.extend(Problem(f"/{key}", "unknown field", tuple(sorted(_TOP))) for key in unknown)
    if document.get("apiVersion", API_VERSION) != API_VERSION:
        problems.append(Problem("/apiVersion", "another version", (API_VERSION,)))
    if document.get("kind", kind.name) != kind.name:
        problems.append(Problem("/kind", f"the path is of {kind.name}", (kind.name,)))


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)


def _name(metadata: dict[str, Any], place: Place, problems: list[Problem]) -> str:
    for key in metadata:
        if key not in _META_KEPT and key not in _META_IGNORED:
            accepted = tuple(sorted(_META_KEPT))
            problems.append(Problem(f"/metadata/{key}", "unknown field", accepted))
    given = metadata.get("name", place.name)
    if place.name and given != place.name:
        problems.append(Problem("/metadata/name", f"the path says {place.name!r}", (place.name,)))
    if not isinstance(given, str) or not _pattern(place.kind.name_pattern).fullmatch(given):
        accepted = (place.kind.name_pattern,)
        problems.append(Problem("/metadata/name", f"{given!r} is no name", accepted))
        return ""
    return given


def _namespace(metadata: dict[str, Any], place: Place, problems: list[Problem]) -> str:
    given = metadata.get("namespace", "")
    if not place.kind.namespaced:
        if given:
            message = f"{place.kind.name} is in no namespace"
            problems.append(Problem("/metadata/namespace", message))
        return ""
    if given and given != place.namespace:
        message = f"the path says {place.namespace!r}"
        problems.append(Problem("/metadata/namespace", message, (place.namespace,)))
    if not _NAMESPACE.fullmatch(place.namespace):
        message = f"{place.namespace!r} is no namespace"
        problems.append(Problem("/metadata/namespace", message, (NAME_PATTERN,)))
    return place.namespace


def _labels(labels: Any, problems: list[Problem]) -> dict[str, str]:
    if not isinstance(labels, dict):
        problems.append(Problem("/metadata/labels", "must be a mapping"))
        return {}
    if len(labels) > LABELS_MAX:
        problems.append(Problem("/metadata/labels", f"at most {LABELS_MAX} labels"))
    for key, value in labels.items():
        pointer = f"/metadata/labels/{key.replace('~', '~0').replace('/', '~1')}"
        if not _LABEL_KEY.fullmatch(key):
            problems.append(Problem(pointer, "no label key", (_LABEL_KEY.pattern,)))
        if not isinstance(value, str) or not _LABEL_VALUE.fullmatch(value):
            problems.append(Problem(pointer, "no label value", (_LABEL_VALUE.pattern,)))
    return labels
