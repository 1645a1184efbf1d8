"""The node's configuration: TOML or YAML text and ``BLIXARD_*`` variables in, a checked value out.

All problems are found at once, with line and column. Keys of features that are not there yet give
a warning that names the feature.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from blixard.base.config_forms import WrongForm
from blixard.base.config_keys import KEYS, Config, ConsensusSection, Key
from blixard.base.errors import BlixardError, Problem
from blixard.base.toml_marks import Place, read_toml

_BY_PATH = {key.path: key for key in KEYS}
_SECTIONS = frozenset(
    ".".join(key.path.split(".")[:depth])
    for key in KEYS
    for depth in range(1, len(key.path.split(".")))
)
_VARIABLES = {key.variable: key for key in KEYS if "*" not in key.path}


class Origin(NamedTuple):
    """Where a value comes from: a file with line, a variable, or the default (empty)."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source or "default"


class Loaded(NamedTuple):
    """The configuration, where each value that was given comes from, and warnings."""

    config: Config
    origins: dict[str, Origin]
    warnings: tuple[str, ...]


class _Value(NamedTuple):
    value: Any
    source: str
    place: Place


class _Reading:
    """The values found so far and what is wrong with them."""

    def __init__(self) -> None:
        self.values: dict[str, _Value] = {}
        self.checked: dict[str, Any] = {}
        self.problems: list[Problem] = []
        self.warnings: list[str] = []

    def problem(
        self, path: str, message: str, place: Place, accepted: tuple[str, ...] = ()
    ) -> None:
        """Note a fault of the key *path*."""
        pointer = "/" + path.replace(".", "/") if path else ""
        self.problems.append(Problem(pointer, message, accepted, place.line, place.column))


def parse_config(
    text: str, *, name: str = "config.toml", environ: Mapping[str, str] | None = None
) -> Loaded:
    """Return the configuration that *text* (YAML if *name* says so, else TOML) and *environ* give.

    Raises:
        BlixardError: INVALID with every problem.
    """
    reading = _Reading()
    tree, places = _read(text, name)
    for path, value in _flatten(tree, "", reading, places):
        reading.values[path] = _Value(value, name, places.get(path, Place(1, 1)))
    for variable, key in _VARIABLES.items():
        if environ is not None and variable in environ:
            reading.values[key.path] = _Value(environ[variable], variable, Place(0, 0))
    for path in sorted(reading.values, key=lambda p: (reading.values[p].place, p)):
        _check(reading, path, reading.values[path])
    _check_together(reading)
    if reading.problems:
        ordered = sorted(reading.problems, key=lambda p: (p.line, p.column))
        raise BlixardError(
            "INVALID",
            f"{name} has {len(ordered)} problem{'s' if len(ordered) > 1 else ''}",
            hint="blixard config explain shows every key",
            problems=tuple(ordered),
        )
    origins = {path: Origin(v.source, v.place.line) for path, v in reading.values.items()}
    return Loaded(_build(reading.checked), origins, tuple(reading.warnings))


def _read(text: str, name: str) -> tuple[dict[str, Any], dict[str, Place]]:
    if not name.endswith((".yaml", ".yml", ".json")):
        return read_toml(text, name=name)
    from blixard.base.yaml import read_documents

    documents = read_documents(text, name=name)
    if not documents:
        return {}, {}
    value, marks = documents[0]
    if not isinstance(value, dict) or len(documents) > 1:
        problem = Problem("", "the configuration must be one mapping", (), 1, 1)
        raise BlixardError("INVALID", f"{name} is no configuration", problems=(problem,))
    places = {
        pointer.strip("/").replace("/", "."): Place(mark.key_line, mark.key_column)
        for pointer, mark in marks.items()
    }
    return value, places


def _flatten(
    tree: dict[str, Any], prefix: str, reading: _Reading, places: dict[str, Place]
) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if _key_of(path) is not None:
            yield path, value
        elif _is_section(path):
            if isinstance(value, dict):
                yield from _flatten(value, path, reading, places)
            elif value is not None:
                reading.problem(path, "must be a section", places.get(path, Place(1, 1)))
        else:
            reading.problem(
                path, f"unknown key {key!r}{_meant(path)}", places.get(path, Place(1, 1))
            )


def _pattern(path: str) -> str:
    parts = path.split(".")
    if parts[:2] == ["storage", "pools"] and len(parts) > 2:
        parts[2] = "*"
    return ".".join(parts)


def _key_of(path: str) -> Key | None:
    return _BY_PATH.get(_pattern(path))


def _is_section(path: str) -> bool:
    return _pattern(path) in _SECTIONS


def _meant(path: str) -> str:
    """Return the key of the same section, or of any, that is spelt most alike."""
    parent, _, last = _pattern(path).rpartition(".")
    siblings = [
        p.rpartition(".")[2] for p in [*_BY_PATH, *_SECTIONS] if p.rpartition(".")[0] == parent
    ]
    close = difflib.get_close_matches(last, siblings, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    elsewhere = [p for p in _BY_PATH if p.rpartition(".")[2] == last]
    return f"; it belongs to [{elsewhere[0].rpartition('.')[0]}]" if elsewhere else ""


def _check(reading: _Reading, path: str, given: _Value) -> None:
    key = _key_of(path)
    assert key is not None
    try:
        reading.checked[path] = value = key.form(given.value)
    except WrongForm as error:
        source = f" (from {given.source})" if not given.place.line else ""
        reading.problem(path, f"{error}{source}", given.place, key.accepted)
        return
    where = f"{given.source}:{given.place.line}" if given.place.line else given.source
    if key.missing:
        reading.warnings.append(
            f"{where}: {path} is for {key.missing}, which this version lacks: it has no effect"
        )
    for word, instead in key.missing_values:
        if value == word:
            reading.warnings.append(f"{where}: {path} = {word!r} is not available yet: {instead}")


def _check_together(reading: _Reading) -> None:
    """Check rules over several keys, where all of them are well formed."""
    defaults = ConsensusSection()
    tick, heartbeat, election = (
        float(reading.checked.get(f"consensus.{n}", getattr(defaults, n)))
        for n in ("tick", "heartbeat_interval", "election_timeout")
    )
    if heartbeat < tick:
        _rule(reading, "consensus.heartbeat_interval", f"must be at least the tick ({tick:g}s)")
    if election < 3 * heartbeat:
        _rule(
            reading,
            "consensus.election_timeout",
            f"must be at least three times the heartbeat ({heartbeat:g}s)",
        )
    api = reading.checked.get("api.port", 7443)
    if api == reading.checked.get("discovery.port", 7946):
        _rule(reading, "discovery.port", f"must differ from api.port ({api})")
    lease = reading.checked.get("consensus.lease")
    if lease is None:
        # A lease outlives a leader change, or every one would stop fenced VMs for no fault.
        reading.checked["consensus.lease"] = max(defaults.lease, 4 * election)
    elif lease < 3 * election:
        reading.warnings.append(
            f"consensus.lease of {lease:g}s is shorter than three election time-outs: "
            "a change of leader may stop healthy fenced VMs"
        )


def _rule(reading: _Reading, path: str, message: str) -> None:
    given = reading.values.get(path)
    reading.problem(path, message, given.place if given is not None else Place(1, 1))


def _build(checked: dict[str, Any]) -> Config:
    tree: dict[str, Any] = {}
    for path, value in checked.items():
        *parents, last = path.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[last] = value
    return msgspec.convert(tree, Config)


def value_at(config: Config, path: str) -> Any:
    """Return the value of a key."""
    value: Any = config
    for part in path.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return value


def key_paths(config: Config) -> list[str]:
    """Return the paths of all keys in their order, those of each named pool included."""
    paths = []
    for key in KEYS:
        if "*" not in key.path:
            paths.append(key.path)
            continue
        paths += [key.path.replace("*", pool) for pool in sorted(config.storage.pools)]
    return paths


def key_of(path: str) -> Key | None:
    """Return the row of the key *path*."""
    return _key_of(path)
