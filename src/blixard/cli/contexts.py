"""``context list|use|add``: named clusters."""

from __future__ import annotations

import os
import re
import tempfile

import click

from blixard.base.errors import BlixardError
from blixard.cli import contexts_file, tables
from blixard.cli.session import Session
from blixard.cli.tree import command, suggestion

_NAME = re.compile(r"[A-Za-z0-9][-_.A-Za-z0-9]{0,62}")


@command(examples=("blixard context list", "blixard context list -q"))
def list_contexts(session: Session) -> None:
    """List the clusters of the context file."""
    contexts = contexts_file.read_contexts(session.flags.environ)
    items = [
        {"name": name, "current": name == contexts.current, **entry}
        for name, entry in sorted(contexts.entries.items())
    ]
    if session.flags.on("quiet") or session.out.format == "name":
        session.out.show_value({}, "\n".join(str(i["name"]) for i in items))
        return
    rows = [
        [
            "*" if i["current"] else "",
            str(i["name"]),
            str(i.get("address", "")),
            str(i.get("namespace", "")),
        ]
        for i in items
    ]
    text = tables.render(
        ("CURRENT", "NAME", "ADDRESS", "NAMESPACE"),
        rows,
        cells=session.out.cells(),
        heading=not session.flags.on("no_headers"),
    )
    session.out.show_value({"file": contexts.path, "items": items}, text)
    if not items:
        session.out.hint("blixard context add NAME --address HOST:7443 --ca-file FILE")


@command(examples=("blixard context use prod",))
@click.argument("name")
def use(session: Session, name: str) -> None:
    """Make a context the default."""
    contexts = contexts_file.read_contexts(session.flags.environ)
    if name not in contexts.entries:
        raise BlixardError(
            "NOT_FOUND",
            f"there is no context {name!r}{suggestion(name, list(contexts.entries))}",
            hint="blixard context list",
        )
    if not session.dry_run:
        _replace(contexts.path, contexts_file.with_current(_text(contexts.path), name))
    session.out.write(f"context {name} is the default now")


@command(
    examples=(
        "blixard context add prod --address 10.0.0.1:7443 --ca-file ca.pem --key-file prod.key",
        "blixard context add local --address /run/blixard/api.sock",
    )
)
@click.argument("name")
@click.option("--ca-file", help="Certificate authority of the cluster (PEM).")
@click.option("--cert-file", help="Client certificate (PEM).")
@click.option("--cert-key-file", help="Key of the client certificate (PEM).")
def add(
    session: Session,
    name: str,
    ca_file: str | None,
    cert_file: str | None,
    cert_key_file: str | None,
) -> None:
    """Add a cluster to the context file (address by --address, API key by --key-file)."""
    contexts = contexts_file.read_contexts(session.flags.environ)
    if not _NAME.fullmatch(name):
        raise BlixardError(
            "USAGE", f"{name!r} is no name for a context", hint="letters, digits, - _ and ."
        )
    if name in contexts.entries:
        raise BlixardError(
            "ALREADY_EXISTS", f"context {name!r} is there already", hint=f"edit {contexts.path}"
        )
    entry = {
        "address": session.flags.text("address"),
        "ca_file": _absolute(ca_file),
        "cert_file": _absolute(cert_file),
        "cert_key_file": _absolute(cert_key_file),
        "key_file": _absolute(session.flags.text("key_file")),
        "namespace": session.flags.text("namespace"),
    }
    if not entry["address"]:
        raise BlixardError("USAGE", "a context needs an address", hint="--address HOST:PORT")
    lines = [f"{key} = {_quoted(value)}" for key, value in entry.items() if value]
    block = "\n".join([f'[contexts."{name}"]', *lines, ""])
    text = _text(contexts.path)
    text = f"{text.rstrip()}\n\n{block}" if text.strip() else block
    if not contexts.current:
        text = contexts_file.with_current(text, name)
    if not session.dry_run:
        _replace(contexts.path, text)
    session.out.write(f"context {name} added to {contexts.path}")


def _absolute(path: str | None) -> str:
    return os.path.abspath(path) if path else ""


def _quoted(value: str) -> str:
    if any(ord(c) < 32 for c in value):
        raise BlixardError("USAGE", f"{value!r} has control characters")
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _text(path: str) -> str:
    if not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8") as file:
        return file.read()


def _replace(path: str, text: str) -> None:
    """Write the file so that a reader sees the old one or the new one."""
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=directory, prefix=".contexts-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)
