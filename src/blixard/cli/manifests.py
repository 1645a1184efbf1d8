"""``apply``, ``diff`` and ``delete``: what files declare, against what the cluster has."""

from __future__ import annotations

from typing import NamedTuple

import click

from blixard.base.errors import EXIT_DIFFERENT, BlixardError
from blixard.cli.conditions import Goal
from blixard.cli.documents import Finding, Manifest, invalid, read_manifests, read_sources
from blixard.cli.following import follow
from blixard.cli.kinds import Kind, named_objects
from blixard.cli.output import Object
from blixard.cli.session import Session
from blixard.cli.tree import command

file_option = click.option(
    "--filename", "-f", "files", multiple=True, metavar="FILE|-|DIR", help="YAML or JSON documents."
)


class Change(NamedTuple):
    """What applying one document does: the live object, and the object after it."""

    manifest: Manifest
    old: Object | None
    new: Object

    @property
    def word(self) -> str:
        """Created, configured or unchanged."""
        if self.old is None:
            return "created"
        return "unchanged" if content(self.old) == content(self.new) else "configured"


def content(resource: Object) -> Object:
    """Return the part of an object that users decide: labels and spec."""
    return {"labels": resource.get("metadata", {}).get("labels") or {}, "spec": resource.get("spec", {})}


@command(
    examples=(
        "blixard apply -f web.yaml",
        "blixard apply -f manifests/",
        "blixard apply -f - --dry-run",
    )
)
@file_option
def apply(session: Session, files: tuple[str, ...]) -> None:
    """Create or change what files declare.

    Every document is checked on the server before the first is applied.
    """
    manifests = _manifests(session, files)
    planned = plan(session, manifests)
    results = []
    for change in planned:
        if not session.dry_run and change.word != "unchanged":
            _put(session, change.manifest, dry_run=False)
        results.append({"object": change.manifest.label, "result": change.word})
    suffix = " (dry run)" if session.dry_run else ""
    session.out.show_value(
        {"apiVersion": "blixard.dev/v1", "kind": "ApplyResult", "dryRun": session.dry_run, "items": results},
        "\n".join(f"{r['object']} {r['result']}{suffix}" for r in results),
    )


@command(examples=("blixard diff -f web.yaml", "blixard diff -f manifests/ && echo nothing to do"))
@file_option
def diff(session: Session, files: tuple[str, ...]) -> int:
    """Show what apply would change: exit code 0 if nothing, 10 if something."""
    changes = plan(session, _manifests(session, files))
    different = [c for c in changes if c.word != "unchanged"]
    session.out.show_value(
        {"apiVersion": "blixard.dev/v1", "kind": "Diff", "items": [_as_value(c) for c in different]},
        "\n".join(_as_text(session, c) for c in different),
    )
    return EXIT_DIFFERENT if different else 0


def _as_value(change: Change) -> Object:
    return {
        "object": change.manifest.label,
        "result": change.word,
        "before": content(change.old) if change.old is not None else None,
        "after": content(change.new),
    }


def _as_text(session: Session, change: Change) -> str:
    import difflib

    from blixard.base.yaml import write_documents

    before = write_documents([content(change.old)]) if change.old is not None else ""
    lines = difflib.unified_diff(
        before.splitlines(), write_documents([content(change.new)]).splitlines(),
        f"live/{change.manifest.label}", f"{change.manifest.source.name}", lineterm="",
    )
    if not session.out.is_terminal():
        return "\n".join(lines)
    colors = {"+": "green", "-": "red"}
    return "\n".join(session.out.paint(x, colors[x[0]]) if x[:1] in colors else x for x in lines)


def _manifests(session: Session, files: tuple[str, ...]) -> list[Manifest]:
    if not files:
        raise BlixardError("USAGE", "name the documents", hint="-f FILE, -f DIRECTORY or -f -")
    return read_manifests(read_sources(files), session.namespace)


def plan(session: Session, manifests: list[Manifest]) -> list[Change]:
    """Return what applying would do, computed by the server for each document.

    Raises:
        BlixardError: INVALID with the faults of all documents, each with file, line and column.
    """
    changes, findings = [], []
    for manifest in manifests:
        try:
            changes.append(Change(manifest, _live(session, manifest), _put(session, manifest, dry_run=True)))
        except BlixardError as error:
            if not error.problems:
                raise _named(error, manifest) from error
            findings += [Finding(manifest.source, manifest.document.locate(p)) for p in error.problems]
    if findings:
        raise invalid(findings)
    return changes


def _named(error: BlixardError, manifest: Manifest) -> BlixardError:
    return BlixardError(
        error.code, f"{manifest.label}: {error.message}", hint=error.hint, details=error.details
    )


def _path(session: Session, manifest: Manifest) -> str:
    return session.path(manifest.kind, manifest.name, namespace=manifest.namespace)


def _live(session: Session, manifest: Manifest) -> Object | None:
    try:
        found: Object = session.api.request("GET", _path(session, manifest), timeout_s=session.timeout_s())
        return found
    except BlixardError as error:
        if error.code == "NOT_FOUND":
            return None
        raise


def _put(session: Session, manifest: Manifest, *, dry_run: bool) -> Object:
    query = {"dryRun": "true"} if dry_run else {}
    body = {**manifest.document.value, "kind": manifest.kind.name}
    answer: Object = session.write("PUT", _path(session, manifest), body, query=query)
    return answer


@command(
    examples=(
        "blixard delete vm web",
        "blixard delete -f web.yaml --yes",
        "blixard delete vm/web image/web --yes",
    )
)
@click.argument("objects", nargs=-1, metavar="[KIND[/NAME] [NAME...]]")
@file_option
@click.option("--ignore-not-found", is_flag=True, help="An object that is not there is no error.")
def delete(session: Session, objects: tuple[str, ...], files: tuple[str, ...], ignore_not_found: bool) -> None:
    """Delete objects by name or by file, the last declared first."""
    wanted = _wanted(session, objects, files)
    session.confirm(f"Delete {', '.join(f'{kind.lower}/{name}' for kind, name, _ in wanted)}?")
    results = []
    for kind, name, namespace in wanted:
        try:
            session.write("DELETE", session.path(kind, name, namespace=namespace))
            results.append((kind, name, "deleted"))
        except BlixardError as error:
            if error.code != "NOT_FOUND" or not (ignore_not_found or files):
                raise
            results.append((kind, name, "not there"))
    suffix = " (dry run)" if session.dry_run else ""
    session.out.show_value(
        {"items": [{"object": f"{k.lower}/{n}", "result": word} for k, n, word in results]},
        "\n".join(f"{k.lower}/{n} {word}{suffix}" for k, n, word in results),
    )
    for kind, name, word in results:
        if word == "deleted":
            follow(session, kind, name, Goal("deleted"))


def _wanted(
    session: Session, objects: tuple[str, ...], files: tuple[str, ...]
) -> list[tuple[Kind, str, str]]:
    if bool(objects) == bool(files):
        raise BlixardError("USAGE", "name either objects or files", hint="blixard delete vm NAME, or -f FILE")
    if files:
        return [(m.kind, m.name, m.namespace) for m in reversed(_manifests(session, files))]
    named = named_objects(objects)
    nameless = [kind for kind, name in named if not name]
    if nameless:
        raise BlixardError("USAGE", f"name the {nameless[0].lower} to delete", hint=f"blixard delete {nameless[0].lower} NAME")
    return [(kind, name, session.namespace) for kind, name in named]

