"""``operation list|show``."""

from __future__ import annotations

import click

from blixard.cli.kinds import kind_named
from blixard.cli.objects import outline, show_objects
from blixard.cli.output import name_of
from blixard.cli.session import Session
from blixard.cli.tree import command

OPERATION = kind_named("operation")


@command(examples=("blixard operation list", "blixard operation list --filter phase=Running"))
def list_operations(session: Session) -> None:
    """List operations."""
    show_objects(session, OPERATION)


@command(
    examples=("blixard operation show 01J9Z3K6T4", "blixard operation show 01J9Z3K6T4 -o json")
)
@click.argument("name", metavar="ID")
def show(session: Session, name: str) -> None:
    """Show an operation and its steps."""
    operation = session.get(OPERATION, name)
    lines = [f"operation {name_of(operation)}", *outline(operation.get("spec", {}), 1)]
    if operation.get("status"):
        lines += ["status:", *outline(operation["status"], 1)]
    session.out.show_value(operation, "\n".join(lines))
