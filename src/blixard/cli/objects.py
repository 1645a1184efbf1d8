"""``get`` and ``describe``: any kind, one way."""

from __future__ import annotations

import time
from typing import Any

import click

from blixard.base.errors import BlixardError
from blixard.cli import paths, tables
from blixard.cli.kinds import Kind, kind_named, named_objects
from blixard.cli.output import Object, name_of, pretty_json
from blixard.cli.session import Session
from blixard.cli.tree import command


@command(
    examples=(
        "blixard get nodes",
        "blixard get vm web -o yaml",
        "blixard get vm,instances",
        "blixard get instances --filter node=node2 --columns NAME,IP",
        "blixard get vm web -o path=status.readyReplicas",
    )
)
@click.argument("objects", nargs=-1, required=True, metavar="KIND[/NAME] [NAME...]")
def get(session: Session, objects: tuple[str, ...]) -> None:
    """List objects of any kind, or show one."""
    wanted = named_objects(objects)
    for number, (kind, name) in enumerate(wanted):
        if number and session.out.format in ("table", "wide") and not session.flags.on("quiet"):
            session.out.write("")
        if name:
            _show_one(session, kind, name)
        else:
            show_objects(session, kind)


def show_objects(session: Session, kind: Kind) -> None:
    """List a kind; with --watch go on with its changes."""
    found, revision = session.list(kind)
    session.out.show_list(kind, found, revision=revision)
    if session.flags.on("watch"):
        watch(session, kind, revision)


def _show_one(session: Session, kind: Kind, name: str) -> None:
    resource = session.get(kind, name)
    session.out.show(kind, resource)
    if session.flags.on("watch"):
        watch(session, kind, int(resource["metadata"].get("revision", 0)), name)


def watch(session: Session, kind: Kind, revision: int, name: str = "") -> None:
    """Print changes until interrupted; a watch that the server cuts begins again where it was."""
    while True:
        try:
            for change in session.changes(kind, revision=revision, name=name):
                revision = max(revision, int(change.get("revision", 0)))
                _print_change(session, kind, change)
        except BlixardError as error:
            if error.code == "REVISION_COMPACTED":
                session.out.say("some changes were missed: reading again")
                found, revision = session.list(kind)
                session.out.show_list(kind, found, revision=revision)
            elif error.code not in ("UNREACHABLE", "TIMEOUT"):
                raise


def _print_change(session: Session, kind: Kind, change: dict[str, Any]) -> None:
    out = session.out
    kept = out.select(kind, [change["object"]])
    if not kept:
        return
    if out.format == "json":
        import msgspec

        out.write(msgspec.json.encode(change).decode())
    elif out.format in ("table", "wide") and not session.flags.on("quiet"):
        sign = "- " if change["type"] == "deleted" else ""
        out.write(sign + out.table(out.columns(kind, kept), kept, heading=False))
    else:
        out.show(kind, kept[0])
    out.stdout.flush()


@command(examples=("blixard describe vm web", "blixard describe node/node1"))
@click.argument("objects", nargs=-1, required=True, metavar="KIND[/NAME] [NAME]")
def describe(session: Session, objects: tuple[str, ...]) -> None:
    """Show an object with what it owns and its events."""
    for number, (kind, name) in enumerate(named_objects(objects)):
        if not name:
            raise BlixardError(
                "USAGE", "name the object", hint=f"blixard describe {kind.lower} NAME"
            )
        resource = session.get(kind, name)
        owned = _owned(session, kind, resource)
        events = _events_of(session, kind, name)
        whole = {**resource, "owned": owned, "events": events}
        session.out.show_value(
            whole, ("\n" if number else "") + _report(session, resource, owned, events)
        )


def _owned(session: Session, kind: Kind, resource: Object) -> list[Object]:
    if kind.name != "VM":
        return []
    uid = resource["metadata"].get("uid", "")
    instances = session.list(kind_named("instance"))[0]
    return [
        i
        for i in instances
        if i["metadata"].get("owner") == uid or i["spec"].get("vm") == name_of(resource)
    ]


def _events_of(session: Session, kind: Kind, name: str) -> list[Object]:
    from blixard.cli.events import events_about

    try:
        return events_about(session.list(kind_named("event"))[0], kind, name)
    except BlixardError as error:
        if error.code in ("UNKNOWN_KIND", "NOT_FOUND", "FORBIDDEN"):
            return []
        raise


def _report(session: Session, resource: Object, owned: list[Object], events: list[Object]) -> str:
    metadata = resource["metadata"]
    lines = [f"{resource.get('kind', '')} {name_of(resource)}"]
    lines += outline(
        {k: v for k, v in metadata.items() if v not in ("", {}, None) and k != "name"}, 1
    )
    for part in ("spec", "status"):
        if resource.get(part):
            lines += ["", f"{part}:", *outline(resource[part], 1)]
    if owned:
        instance = kind_named("instance")
        columns = [c for c in instance.columns if not c.wide]
        lines += ["", "instances:", session.out.table(columns, owned).rstrip()]
        whys = [
            (name_of(i), i.get("status", {}).get("placement") or i["spec"].get("placement", ""))
            for i in owned
        ]
        lines += [f"  {name}: {why}" for name, why in whys if why]
    if events:
        event = kind_named("event")
        columns = [c for c in event.columns if not c.wide and c.header != "OBJECT"]
        lines += ["", "events:", session.out.table(columns, events).rstrip()]
    return "\n".join(lines)


def outline(value: Any, depth: int) -> list[str]:
    """Return a JSON value as indented ``key: value`` lines."""
    lines = []
    pairs = (
        value.items() if isinstance(value, dict) else ((f"- [{i}]", v) for i, v in enumerate(value))
    )
    for key, child in pairs:
        head = f"{'  ' * depth}{tables.clean(str(key))}:"
        if isinstance(child, dict | list) and child and len(pretty_json(child)) > 60:
            lines += [head, *outline(child, depth + 1)]
        else:
            lines.append(f"{head} {tables.clean(_leaf(str(key), child))}".rstrip())
    return lines


def _leaf(key: str, value: Any) -> str:
    """Return a value as text; times as people write them."""
    if key.endswith("AtMs") and isinstance(value, int) and value:
        return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(value / 1000))
    return paths.text(value)
