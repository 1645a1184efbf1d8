"""``events``: what happened, newest last."""

from __future__ import annotations

import click

from blixard.cli.kinds import Kind, kind_named, split_reference
from blixard.cli.output import Object
from blixard.cli.session import Session, duration_flag_s
from blixard.cli.tree import command

EVENT = kind_named("event")


@command(
    examples=(
        "blixard events",
        "blixard events --for vm/web --since 10m",
        "blixard events --follow",
    )
)
@click.option("--for", "about", metavar="KIND/NAME", help="Only events about this object.")
@click.option("--since", metavar="TIME", help="Only events of the last 10m, 1h, ...")
@click.option("--follow", "-f", is_flag=True, help="Go on printing new events.")
def events(session: Session, about: str | None, since: str | None, follow: bool) -> None:
    """Show what happened."""
    if follow:
        session.flags.given["watch"] = True
    found, revision = session.list(EVENT)
    if about:
        kind, name = split_reference(about)
        found = events_about(found, kind_named(kind), name)
        session.flags.given["filter"] = (
            *session.flags.filters,
            f"object={kind_named(kind).lower}/{name or '*'}",
        )
    if since:
        oldest = session.out.now_ms - int(duration_flag_s("--since", since) * 1000)
        found = [e for e in found if time_of(e) >= oldest]
    session.out.show_list(EVENT, sorted(found, key=time_of), revision=revision)
    if session.flags.on("watch"):
        from blixard.cli.objects import watch

        watch(session, EVENT, revision)


def time_of(event: Object) -> int:
    """Return when an event happened."""
    return int(event["spec"].get("atMs") or event["metadata"].get("createdAtMs") or 0)


def events_about(events: list[Object], kind: Kind, name: str) -> list[Object]:
    """Return the events about one object (and, for a VM, about its instances), oldest first."""
    return sorted((e for e in events if _is_about(e, kind, name)), key=time_of)


def _is_about(event: Object, kind: Kind, name: str) -> bool:
    about_kind, about_name = event["spec"].get("aboutKind", ""), event["spec"].get("aboutName", "")
    if about_kind == kind.name:
        return not name or about_name == name
    stem, _, ordinal = about_name.rpartition("-")
    is_member = about_kind == "Instance" and stem == name and ordinal.isdigit()
    return kind.name == "VM" and is_member
