"""``cluster recover``: go on with one node after a majority of the voters was lost for good."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import click
import msgspec

from blixard.base.errors import BlixardError
from blixard.cli.node_config import load_for
from blixard.cli.session import Session
from blixard.cli.tree import command

if TYPE_CHECKING:
    from blixard.daemon.recover import Position, RecoveryPlan

_POSITION = re.compile(r"(?P<name>[\w.-]+)=(?P<term>\d+)/(?P<index>\d+)")


@command(
    examples=(
        "blixard cluster recover",
        "blixard cluster recover --other-log node2=7/1523 --other-data-dir /mnt/node3",
        "blixard cluster recover --unsafe",
    )
)
@click.option("--unsafe", is_flag=True, help="Do it; without this nothing is changed.")
@click.option("--data-dir", metavar="DIR", help="Where the node keeps its state.")
@click.option(
    "--other-data-dir", metavar="DIR", multiple=True, help="Another member's, to compare the logs."
)
@click.option(
    "--other-log",
    metavar="NAME=TERM/INDEX",
    multiple=True,
    help="Where another member's log ends, as this command printed it there.",
)
def recover(
    session: Session,
    *,
    unsafe: bool,
    data_dir: str | None,
    other_data_dir: tuple[str, ...],
    other_log: tuple[str, ...],
) -> int:
    """Make this node a cluster of its own after a majority of the voters was lost for good.

    Only with the daemon stopped, and only on the node with the longest log. Refused (exit code 5)
    while a majority could still be had, or if another member is known to have a longer log.
    """
    from blixard.daemon.recover import carry_out, plan_recovery, position_in

    root = os.path.abspath(data_dir or load_for(session.flags).config.cluster.data_dir)
    others = [position_in(os.path.abspath(path)) for path in other_data_dir]
    others += [_position(text) for text in other_log]
    session.out.say(f"reading {root} and asking the other members ...")
    plan = plan_recovery(root, tuple(others))
    doing = unsafe and not session.dry_run
    if doing and not plan.refusals:
        session.out.say(_told(plan))
        session.confirm("What only the others have is lost.", name=plan.node)
        cluster_id = carry_out(root)
        value = {**msgspec.to_builtins(plan), "newClusterId": cluster_id, "done": True}
        session.out.show_value(value, f"{plan.node} is cluster {cluster_id} now, alone")
        session.out.hint("blixard node run; then blixard cluster add-node for each other machine")
        return 0
    session.out.show_value({**msgspec.to_builtins(plan), "done": False}, _told(plan))
    if plan.refusals:
        raise BlixardError("CONFLICT", "; ".join(plan.refusals), hint="see the table above")
    session.out.say("nothing was changed")
    session.out.hint("blixard cluster recover --unsafe")
    return 0


def _position(text: str) -> Position:
    from blixard.daemon.recover import Position

    found = _POSITION.fullmatch(text)
    if found is None:
        raise BlixardError("USAGE", f"--other-log {text} is not NAME=TERM/INDEX")
    return Position(
        where=found["name"], last_term=int(found["term"]), last_index=int(found["index"])
    )


def _told(plan: RecoveryPlan) -> str:
    """Return what a person must know before."""
    kept = f"the last {plan.uncommitted} entries are not known to be committed and are kept"
    lines = [
        f"{plan.node} in {plan.data_dir}, cluster {plan.cluster_id}",
        f"log: ends at {plan.last_term}/{plan.last_index} (term/index); {kept}",
        "members:",
    ]
    for member in plan.members:
        seen = "this node" if member.own else "answers" if member.answers else "does not answer"
        if member.answers and member.last_index:
            seen += f", log ends at index {member.last_index}"
        kind = "voter" if member.voter else "learner"
        lines.append(f"  {member.name}  {kind}  {member.address}  {seen}")
    lines += [f"  {o.where}  log ends at {o.last_term}/{o.last_index}" for o in plan.others]
    lines += _lost(plan)
    return "\n".join(lines)


def _lost(plan: RecoveryPlan) -> list[str]:
    asked = {m.name for m in plan.members if m.last_index} | {o.where for o in plan.others}
    unknown = [m.name for m in plan.members if not m.own and m.name not in asked]
    lines = ["may be lost:"]
    if unknown:
        lines.append(f"  writes that only {', '.join(unknown)} had: nobody told where they end")
    lines.append(f"  data on {', '.join(plan.losses.nodes) or 'no other node'}")
    if plan.losses.stranded:
        lines.append(f"  instances placed there: {', '.join(plan.losses.stranded)}")
    if plan.losses.local_data:
        lines.append(f"  of these with data of their own: {', '.join(plan.losses.local_data)}")
    return lines
