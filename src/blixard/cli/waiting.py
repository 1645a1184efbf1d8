"""``wait``: block until an object is as wanted."""

from __future__ import annotations

import click

from blixard.base.errors import BlixardError
from blixard.cli.conditions import parse_goal
from blixard.cli.following import wait_for
from blixard.cli.kinds import named_objects
from blixard.cli.session import Session
from blixard.cli.tree import command

WAIT_S = 60.0


@command(
    examples=(
        "blixard wait vm/web --for ready --timeout 60s",
        "blixard wait vm/web --for deleted",
        "blixard wait instance/web-1 --for phase=Running",
    )
)
@click.argument("objects", nargs=-1, required=True, metavar="KIND/NAME...")
@click.option(
    "--for",
    "goal",
    default="ready",
    show_default=True,
    metavar="WHAT",
    help="ready, stopped, deleted, exists, phase=NAME or PATH=VALUE.",
)
def wait(session: Session, objects: tuple[str, ...], goal: str) -> None:
    """Wait for a condition; exit code 7 if it does not come within --timeout (60s)."""
    wanted = parse_goal(goal)
    deadline = session.outside.monotonic() + session.timeout_s(WAIT_S)
    for kind, name in named_objects(objects):
        if not name:
            raise BlixardError(
                "USAGE", "name the object", hint=f"blixard wait {kind.lower}/NAME --for {goal}"
            )
        remaining = max(0.1, deadline - session.outside.monotonic())
        state = wait_for(session, kind, name, wanted, timeout_s=remaining)
        session.out.show_value(
            {"object": f"{kind.lower}/{name}", "for": str(wanted), "state": state.sentence},
            f"{kind.lower}/{name}: {state.sentence}",
        )
