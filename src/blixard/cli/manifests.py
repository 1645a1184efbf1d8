"""``apply``, ``diff`` and ``delete``: what files declare, against what the cluster has."""

from __future__ import annotations

import click

from blixard.base.errors import EXIT_DIFFERENT, BlixardError, Problem
from blixard.cli.conditions import Goal
from blixard.cli.documents import (
    API_VERSION,
    Finding,
    Manifest,
    invalid,
    read_manifests,
    read_sources,
)
from blixard.cli.following import follow
from blixard.cli.kinds import Kind, named_objects
from blixard.cli.output import Object
from blixard.cli.session import Session
from blixard.cli.tree import command

file_option = click.option(
    "--filename", "-f", "files", multiple=True, metavar="FILE|-|DIR", help="YAML or JSON documents."
)


APPLY_PATH = "/v1/apply"


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

    All documents are checked before the first is applied, and applied together or not at all.
    """
    manifests = _manifests(session, files)
    answer = send(session, manifests, dry_run=session.dry_run)
    suffix = " (dry run)" if session.dry_run else ""
    lines = [
        f"{manifest.label} {item['result']}{suffix}"
        for manifest, item in zip(manifests, answer["items"], strict=True)
    ]
    session.out.show_value(answer, "\n".join(lines))


@command(examples=("blixard diff -f web.yaml", "blixard diff -f manifests/ && echo nothing to do"))
@file_option
def diff(session: Session, files: tuple[str, ...]) -> int:
    """Show what apply would change: exit code 0 if nothing, 10 if something."""
    manifests = _manifests(session, files)
    answer = send(session, manifests, dry_run=True)
    changed = [
        (manifest, item)
        for manifest, item in zip(manifests, answer["items"], strict=True)
        if item["result"] != "unchanged"
    ]
    session.out.show_value(
        {"apiVersion": API_VERSION, "kind": "Diff", "items": [item for _, item in changed]},
        "\n".join(_as_text(session, manifest, item) for manifest, item in changed),
    )
    return EXIT_DIFFERENT if changed else 0


def _as_text(session: Session, manifest: Manifest, item: Object) -> str:
    import difflib

    from blixard.base.yaml import write_documents

    before = write_documents([item["before"]]) if item.get("before") else ""
    lines = difflib.unified_diff(
        before.splitlines(),
        write_documents([item["after"]]).splitlines(),
        f"live/{manifest.label}",
        manifest.source.name,
        lineterm="",
    )
    if not session.out.is_terminal():
        return "\n".join(lines)
    colors = {"+": "green", "-": "red"}
    return "\n".join(session.out.paint(x, colors[x[0]]) if x[:1] in colors else x for x in lines)


def _manifests(session: Session, files: tuple[str, ...], *, check: bool = True) -> list[Manifest]:
    """Return the objects of *files*.

    If one of them cannot be read, the server checks the others (*check*), so that all faults are
    told at once.
    """
    if not files:
        raise BlixardError("USAGE", "name the documents", hint="-f FILE, -f DIRECTORY or -f -")
    manifests, findings = read_manifests(read_sources(files), session.namespace)
    if findings:
        others = _server_findings(session, manifests) if check and manifests else []
        raise invalid(sorted([*findings, *others], key=_place))
    return manifests


def _place(finding: Finding) -> tuple[str, int, int]:
    return finding.source.name, finding.problem.line, finding.problem.column


def _server_findings(session: Session, manifests: list[Manifest]) -> list[Finding]:
    """Return what the server finds wrong; without its answer the faults found here must do."""
    try:
        _post(session, manifests, dry_run=True)
    except BlixardError as error:
        return [_finding(manifests, p) for p in error.problems]
    return []


def send(session: Session, manifests: list[Manifest], *, dry_run: bool) -> Object:
    """Apply all documents as one change and return what it did to each.

    Raises:
        BlixardError: INVALID with the faults of all documents, each with file, line and column.
    """
    try:
        return _post(session, manifests, dry_run=dry_run)
    except BlixardError as error:
        if error.problems:
            raise invalid([_finding(manifests, p) for p in error.problems]) from error
        raise _named(error, manifests) from error


def _post(session: Session, manifests: list[Manifest], *, dry_run: bool) -> Object:
    documents = [_document(m) for m in manifests]
    query = {"namespace": session.namespace, **({"dryRun": "true"} if dry_run else {})}
    answer: Object = session.write("POST", APPLY_PATH, documents, query=query)
    return answer


def _document(manifest: Manifest) -> Object:
    value = manifest.document.value
    metadata = value.get("metadata")
    named = {**(metadata if isinstance(metadata, dict) else {}), "name": manifest.name}
    return {**value, "apiVersion": API_VERSION, "kind": manifest.kind.name, "metadata": named}


def _finding(manifests: list[Manifest], problem: Problem) -> Finding:
    """Return a fault at ``/2/spec/x`` as the third document's at ``/spec/x``."""
    number, _, rest = problem.pointer.removeprefix("/").partition("/")
    index = int(number) if number.isdigit() else 0
    manifest = manifests[min(index, len(manifests) - 1)]
    own = Problem(f"/{rest}" if rest else "", problem.message, problem.accepted)
    return Finding(manifest.source, manifest.document.locate(own))


def _named(error: BlixardError, manifests: list[Manifest]) -> BlixardError:
    """Return *error* with the object that it is about, where the server says which."""
    number = str(error.details.get("op", "")).strip("/")
    if not number.isdigit() or int(number) >= len(manifests):
        return error
    label = manifests[int(number)].label
    return BlixardError(
        error.code, f"{label}: {error.message}", hint=error.hint, details=error.details
    )


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
def delete(
    session: Session, objects: tuple[str, ...], files: tuple[str, ...], ignore_not_found: bool
) -> None:
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
        raise BlixardError(
            "USAGE", "name either objects or files", hint="blixard delete vm NAME, or -f FILE"
        )
    if files:
        return [
            (m.kind, m.name, m.namespace) for m in reversed(_manifests(session, files, check=False))
        ]
    named = named_objects(objects)
    nameless = [kind for kind, name in named if not name]
    if nameless:
        raise BlixardError(
            "USAGE",
            f"name the {nameless[0].lower} to delete",
            hint=f"blixard delete {nameless[0].lower} NAME",
        )
    return [(kind, name, session.namespace) for kind, name in named]
