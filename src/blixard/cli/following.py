"""Stay with an object until it is as wanted: one line per change, Ctrl-C leaves without harm."""

from __future__ import annotations

from collections.abc import Iterator

from blixard.base.errors import BlixardError
from blixard.cli.conditions import Goal, Object, State, judge
from blixard.cli.kinds import Kind
from blixard.cli.session import Session

FOLLOW_S = 600.0
RETRY_S = 0.3
_FAILURES = {"Image": "IMAGE_BUILD_FAILED", "Migration": "MIGRATION_FAILED"}
LIVE_S = 0.5


def states(session: Session, kind: Kind, name: str, deadline: float) -> Iterator[Object | None]:
    """Yield the object now and after each change, None while it is not there; ends at *deadline*.

    A watch that is cut, by a node's end or a compacted revision, begins again with a read.
    """
    begun = False
    while (remaining := deadline - session.outside.monotonic()) > 0:
        try:
            found, revision = session.list(kind)
            now = next((o for o in found if o["metadata"]["name"] == name), None)
            begun = True
            yield now
            watch_s = min(remaining, LIVE_S) if kind.live else remaining
            for change in session.changes(kind, revision=revision, name=name, timeout_s=watch_s):
                yield None if change["type"] == "deleted" else change["object"]
        except BlixardError as error:
            # A cluster that cannot be read at all is no reason to wait: the caller must know.
            if not begun or error.code not in (
                "REVISION_COMPACTED",
                "UNREACHABLE",
                "TIMEOUT",
                "NOT_LEADER",
                "NO_QUORUM",
            ):
                raise
        session.outside.sleep(min(RETRY_S, max(0.0, deadline - session.outside.monotonic())))


def wait_for(session: Session, kind: Kind, name: str, goal: Goal, *, timeout_s: float) -> State:
    """Return once the goal is reached; says on standard error what changes meanwhile.

    Raises:
        BlixardError: TIMEOUT with the last state; NOT_FOUND if it was deleted meanwhile.
    """
    deadline = session.outside.monotonic() + timeout_s
    last = ""
    seen = False
    for resource in states(session, kind, name, deadline):
        if resource is None and seen and goal.word not in ("deleted", "exists"):
            raise BlixardError("NOT_FOUND", f"{kind.lower}/{name} was deleted meanwhile")
        seen = seen or resource is not None
        state = judge(goal, kind, resource)
        if state.sentence != last and not state.reached:
            session.out.say(f"{kind.lower}/{name}: {state.sentence}")
            last = state.sentence
        if state.reached:
            return state
        if state.failed:
            raise BlixardError(
                _FAILURES.get(kind.name, "INTERNAL"), f"{kind.lower}/{name}: {state.sentence}"
            )
    raise BlixardError(
        "TIMEOUT",
        f"{kind.lower}/{name} is not {goal} after {timeout_s:g} s: {last or 'nothing known'}",
        hint=f"blixard describe {kind.lower} {name}",
    )


def follow(session: Session, kind: Kind, name: str, goal: Goal) -> None:
    """Wait like :func:`wait_for`, unless --detach or --dry-run was given."""
    if session.flags.on("detach") or session.dry_run:
        return
    try:
        state = wait_for(session, kind, name, goal, timeout_s=session.timeout_s(FOLLOW_S))
    except BlixardError as error:
        if error.code == "TIMEOUT" and ": Pending" in error.message and kind.name == "VM":
            raise BlixardError("UNPLACEABLE", error.message, hint=error.hint) from error
        raise
    except KeyboardInterrupt:
        session.out.say(f"\nthe work goes on: blixard wait {kind.lower}/{name} --for {goal}")
        raise
    session.out.say(f"{kind.lower}/{name}: {state.sentence}")
