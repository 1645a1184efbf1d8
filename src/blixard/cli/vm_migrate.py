"""``vm migrate``: moves a running instance to another node."""

from __future__ import annotations

import click

from blixard.cli.conditions import Goal
from blixard.cli.following import follow
from blixard.cli.kinds import kind_named
from blixard.cli.output import Object
from blixard.cli.session import Session, duration_flag_s
from blixard.cli.tree import command

MIGRATION = kind_named("migration")
ARRIVED = Goal("ready")
NAME_CHARS_MAX = 88


@command(
    examples=(
        "blixard vm migrate web-1 --target-node node2",
        "blixard vm migrate web-1",
        "blixard vm migrate web-1 --target-node node2 --live --deadline 2m",
        "blixard vm migrate web-1 --target-node node2 --dry-run",
    )
)
@click.argument("instance")
@click.option("--target-node", metavar="NODE", help="Where to (the placement chooses).")
@click.option(
    "--live/--no-live",
    default=None,
    help="Copy the memory while it runs, or stop it first (live where KVM runs the guest).",
)
@click.option(
    "--deadline", metavar="TIME", help="Take it back if it has not switched by then (5m)."
)
def migrate(
    session: Session,
    instance: str,
    *,
    target_node: str | None,
    live: bool | None,
    deadline: str | None,
) -> None:
    """Move a running instance with its memory and connections, and wait until it has arrived."""
    name = f"{instance[:NAME_CHARS_MAX]}-{session.suffix(6)}"
    spec: Object = {"instance": instance}
    if target_node:
        spec["targetNode"] = target_node
    if live is not None:
        spec["live"] = live
    if deadline:
        spec["deadlineS"] = round(duration_flag_s("--deadline", deadline))
    body = {
        "apiVersion": "blixard.dev/v1",
        "kind": MIGRATION.name,
        "metadata": {"name": name},
        "spec": spec,
    }
    made = session.write("PUT", session.path(MIGRATION, name), body, expect=0)
    word = "would be created" if session.dry_run else "created"
    session.out.show_value(made, f"migration/{name} {word}")
    follow(session, MIGRATION, name, ARRIVED)
