"""``image build|list``."""

from __future__ import annotations

import click

from blixard.base.errors import BlixardError
from blixard.cli.conditions import Goal
from blixard.cli.following import follow
from blixard.cli.kinds import kind_named
from blixard.cli.objects import show_objects
from blixard.cli.session import Session
from blixard.cli.tree import command
from blixard.cli.vm_write import recipe_of

IMAGE = kind_named("image")


@command(
    examples=(
        "blixard image build web --packages nginx",
        "blixard image build tools --packages curl,jq --service 'idle=sleep infinity' --detach",
    )
)
@click.argument("name")
@click.option("--packages", metavar="A,B", help="Debian packages.")
@click.option(
    "--service", "services", multiple=True, metavar="NAME=COMMAND", help="Run this in the guest."
)
def build(session: Session, name: str, packages: str | None, services: tuple[str, ...]) -> None:
    """Declare an image, and wait until a node has built it."""
    spec = recipe_of(packages, services)
    if not spec:
        raise BlixardError("USAGE", "an image needs packages or services", hint="--packages nginx")
    body = {
        "apiVersion": "blixard.dev/v1",
        "kind": "Image",
        "metadata": {"name": name},
        "spec": spec,
    }
    made = session.write("PUT", session.path(IMAGE, name), body)
    session.out.show_value(made, f"image/{name} {'would be ' if session.dry_run else ''}declared")
    follow(session, IMAGE, name, Goal("ready"))


@command(examples=("blixard image list", "blixard image list -o wide"))
def list_images(session: Session) -> None:
    """List images."""
    show_objects(session, IMAGE)
