"""Results on standard output in the chosen format; everything else on standard error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TextIO

import msgspec

from blixard.base.errors import BlixardError
from blixard.cli import paths, tables
from blixard.cli.flags import Flags
from blixard.cli.kinds import Column, Kind
from blixard.cli.selecting import Condition, has_labels, holds, parse_conditions, parse_labels

Object = dict[str, Any]
NAMESPACE = Column("NAMESPACE", "metadata.namespace")
_COLORS = {"red": "31", "green": "32", "yellow": "33", "dim": "2", "bold": "1"}


def pretty_json(value: Any) -> str:
    """Return *value* as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


class Output:
    """Writes objects and messages; *now_ms* is the clock that ages are counted from."""

    def __init__(self, flags: Flags, stdout: TextIO, stderr: TextIO, now_ms: int) -> None:
        self.flags = flags
        self.stdout = stdout
        self.stderr = stderr
        self.now_ms = now_ms

    @property
    def format(self) -> str:
        """The chosen format."""
        return self.flags.format

    def is_terminal(self) -> bool:
        """Tell whether results go to a terminal."""
        return self.stdout.isatty()

    def cells(self) -> int | None:
        """Return the width for tables: COLUMNS or the terminal's; None in a pipe."""
        columns = self.flags.environ.get("COLUMNS", "")
        if columns.isdigit() and int(columns) > 0:
            return int(columns)
        if not self.is_terminal():
            return None
        import shutil

        return shutil.get_terminal_size().columns

    def write(self, text: str) -> None:
        """Write a result."""
        self.stdout.write(text if text.endswith("\n") else text + "\n")

    def say(self, text: str) -> None:
        """Tell the user something that is no result."""
        if not self.flags.on("quiet"):
            self.stderr.write(text + "\n")
            self.stderr.flush()

    def hint(self, text: str) -> None:
        """Suggest the next command; BLIXARD_HINTS=0 switches it off."""
        if self.flags.environ.get("BLIXARD_HINTS", "1") not in ("0", "false", "no"):
            self.say(self.paint(f"hint: {text}", "dim"))

    def paint(self, text: str, color: str) -> str:
        """Return *text* in colour where colour is wanted (of messages: standard error decides)."""
        return f"\x1b[{_COLORS[color]}m{text}\x1b[0m" if self._colored() else text

    def _colored(self) -> bool:
        environ = self.flags.environ
        if self.flags.on("no_color") or environ.get("NO_COLOR"):
            return False
        if environ.get("BLIXARD_COLOR") == "always" or environ.get("CLICOLOR_FORCE", "0") != "0":
            return True
        return self.stderr.isatty() and environ.get("TERM") != "dumb"

    # -- objects -----------------------------------------------------------------------------

    def show(self, kind: Kind, resource: Object) -> None:
        """Print one object; in tables a row."""
        self._print(kind, [resource], single=True)

    def show_list(self, kind: Kind, resources: Sequence[Object], *, revision: int = 0) -> None:
        """Print objects of one kind, those that the filters keep."""
        kept = self.select(kind, resources)
        self._print(kind, kept, single=False, revision=revision)
        if self.format in ("table", "wide") and not self.flags.on("quiet"):
            self._say_missing(kind, len(kept), len(resources))

    def _say_missing(self, kind: Kind, shown: int, total: int) -> None:
        if shown != total:
            self.say(f"showing {shown} of {total} {kind.plural}")
        elif not total:
            self.say(f"no {kind.plural}")

    def select(self, kind: Kind, resources: Sequence[Object]) -> list[Object]:
        """Return the objects that ``-l`` and ``--filter`` keep."""
        labels = parse_labels(self.flags.text("selector"))
        conditions = parse_conditions(self.flags.filters)
        return [
            r
            for r in resources
            if has_labels(r, labels) and all(self._holds(kind, c, r) for c in conditions)
        ]

    def _holds(self, kind: Kind, condition: Condition, resource: Object) -> bool:
        for column in kind.columns:
            if column.header == condition.key.upper():
                return holds(condition, column.cell(resource, self.now_ms) or None)
        value = paths.get(resource, condition.key)
        return holds(condition, None if value is None else paths.text(value))

    def _print(self, kind: Kind, found: list[Object], *, single: bool, revision: int = 0) -> None:
        chosen = self.format
        if chosen == "json":
            self.write(pretty_json(found[0] if single else _as_list(kind, found, revision)))
        elif chosen == "yaml":
            from blixard.base.yaml import write_documents

            self.write(write_documents(found) if found else "")
        elif chosen.startswith("path="):
            self._print_paths(found, chosen.removeprefix("path="))
        elif self.flags.on("quiet") or chosen == "name":
            prefix = "" if self.flags.on("quiet") else f"{kind.lower}/"
            for resource in found:
                self.write(prefix + tables.clean(name_of(resource)))
        elif found:
            self.write(self.table(self.columns(kind, found), found))

    def _print_paths(self, found: list[Object], expression: str) -> None:
        parts = paths.parse(expression)
        for resource in found:
            for value in paths.find(resource, parts):
                self.write(paths.text(value))

    def columns(self, kind: Kind, found: Sequence[Object]) -> list[Column]:
        """Return the columns to show: chosen ones, or the kind's own."""
        chosen = self.flags.text("columns")
        if chosen:
            return [
                _chosen_column(kind, text.strip()) for text in chosen.split(",") if text.strip()
            ]
        wide = self.format == "wide"
        everywhere = kind.namespaced and self.flags.on("all_namespaces")
        return ([NAMESPACE] if everywhere else []) + [
            c
            for c in kind.columns
            if (wide or not c.wide)
            and (not c.optional or any(c.cell(r, self.now_ms) for r in found))
        ]

    def table(
        self, columns: Sequence[Column], found: Sequence[Object], *, heading: bool = True
    ) -> str:
        """Return the table of *found*."""
        rows = [[column.cell(r, self.now_ms) for column in columns] for r in found]
        return tables.render(
            [c.header for c in columns],
            rows,
            cells=self.cells(),
            heading=heading and not self.flags.on("no_headers"),
        )

    # -- other results ------------------------------------------------------------------------

    def show_value(self, value: Any, text: str) -> None:
        """Print *value* in a machine format, or *text* for people."""
        chosen = self.format
        if chosen == "json":
            self.write(pretty_json(value))
        elif chosen == "yaml":
            from blixard.base.yaml import write_documents

            self.write(write_documents([value]))
        elif chosen.startswith("path="):
            self._print_paths([value], chosen.removeprefix("path="))
        elif text:
            self.write(text)


def name_of(resource: Object) -> str:
    """Return the object's name."""
    return str(resource.get("metadata", {}).get("name", ""))


def _as_list(kind: Kind, found: list[Object], revision: int) -> Object:
    document: Object = {"apiVersion": "blixard.dev/v1", "kind": f"{kind.name}List"}
    if revision:
        document["metadata"] = {"revision": revision}
    return {**document, "items": found}


def _chosen_column(kind: Kind, text: str) -> Column:
    header, _, path = text.partition("=")
    if path:
        paths.parse(path)
        return Column(header, path)
    for column in kind.columns:
        if column.header == header.upper():
            return column
    if "." in header:
        return Column(header.rpartition(".")[2].upper(), header)
    raise BlixardError(
        "BAD_REQUEST",
        f"{kind.plural} have no column {header!r}",
        hint=f"columns: {', '.join(c.header for c in kind.columns)}; or HEADING=path.to.value",
    )
