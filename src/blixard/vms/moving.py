"""What a node does next for an instance that leaves it or comes to it while it runs; pure.

:func:`moving_step` is asked before ``reconcile.decide``; None: nothing of it concerns a migration.
What the worker remembers (:class:`Moving`) is lost with the daemon, and then the careful way is
taken: the source lets its guest go on after the roll-back and a question, the target starts anew.
"""

from __future__ import annotations

import msgspec

from blixard.ports.hypervisor import HypervisorInstance
from blixard.vms.reconcile import Assignment, Step
from blixard.vms.spec import InstanceSpec

RETRY_S = 0.5


class Moving(msgspec.Struct, kw_only=True):
    """What a worker knows of migrations of its instance; uids are those of Migrations.

    ``sending``: its memory is on its way from here; ``switched``: and the leader said that the
    instance belongs to the target. ``tried`` is the last one that was begun here, as source or as
    target, ``failure`` why it cannot go on. ``prepared``: the leader knows that the process waits.
    ``receiving`` and ``received`` are the migration whose memory is on its way to here, or is here.
    ``asking``: the leader was asked to switch and has not answered. ``abandoned``: the sending was
    told to end. ``next_s``: not before then is anybody asked again.
    """

    sending: str = ""
    asking: bool = False
    switched: bool = False
    abandoned: bool = False
    tried: str = ""
    failure: str = ""
    prepared: str = ""
    receiving: str = ""
    received: str = ""
    received_s: float = 0.0
    next_s: float = 0.0


def moving_step(
    assignment: Assignment | None,
    process: HypervisorInstance | None,
    moving: Moving,
    *,
    built: bool,
    now_s: float,
) -> Step | None:
    """Return the next step of a migration, or None; only asked while the node has authority.

    ``built``: a runner of what is assigned is here.
    """
    alive = process is not None and process.state != "exited"
    if moving.sending:
        return _while_sending(assignment, process, moving)
    if assignment is None:
        # What stands still cannot be asked to end.
        gone = process is not None and alive and stands_still(process)
        return Step(kind="drop", why="no longer assigned") if gone else None
    if assignment.incoming:
        return _incoming(assignment.spec, process, moving, built=built, now_s=now_s)
    if process is None or not alive:
        return None
    if process.plan.run != assignment.spec.run:
        older = stands_still(process)
        return Step(kind="drop", why="of an older run") if older else None
    if assignment.spec.desired == "Stopped" and stands_still(process):
        return Step(kind="drop", why="asked to stop")
    if process.state == "paused":
        return _paused(assignment.spec, process, moving, now_s)
    return _outgoing(assignment.spec, moving, now_s)


def stands_still(process: HypervisorInstance) -> bool:
    """Tell whether a process is paused because of a migration, and not since a start."""
    return process.state == "paused" and (process.ran or process.plan.incoming)


def _while_sending(
    assignment: Assignment | None, process: HypervisorInstance | None, moving: Moving
) -> Step | None:
    """Leave it alone: it ends by itself, within its deadlines, and sooner once nobody wants it."""
    move = assignment.spec.migration if assignment is not None else None
    wanted = bool(move) and move.uid == moving.sending  # type: ignore[union-attr]
    over = moving.switched or moving.asking or moving.abandoned
    if not wanted and not over:
        return Step(kind="abandon")
    running = process is not None and process.state == "running"
    return None if wanted and running else Step(kind="wait")


def _incoming(
    spec: InstanceSpec,
    process: HypervisorInstance | None,
    moving: Moving,
    *,
    built: bool,
    now_s: float,
) -> Step:
    """Have a process wait for the memory; say so; from then on wait for what the source does."""
    move = spec.migration
    assert move
    if process is not None and process.state == "exited":
        return Step(kind="forget")
    if process is not None and process.plan.run != move.run:
        # Of an earlier stay here: whatever it is, the source runs the newest.
        return Step(kind="drop" if stands_still(process) else "stop", why="of an older run")
    if moving.failure and moving.tried == move.uid:
        if process is not None:
            return Step(kind="drop", why=moving.failure)
        return _told(spec, moving, now_s)
    if process is None and moving.tried != move.uid:
        return Step(kind="await" if built else "build")
    if process is None or moving.tried != move.uid:
        return Step(kind="doubt", why="the process that waited for the memory is another one")
    if moving.prepared != move.uid:
        return _told(spec, moving, now_s)
    return Step(kind="wait")


def _paused(
    spec: InstanceSpec, process: HypervisorInstance, moving: Moving, now_s: float
) -> Step | None:
    if process.plan.incoming and not process.ran:
        if moving.received:
            waits = now_s < moving.next_s
            return Step(kind="wait", until_s=moving.next_s) if waits else Step(kind="arrive")
        if moving.receiving:
            return Step(kind="wait")
        return Step(kind="drop", why="the memory did not arrive")
    if not process.ran:
        return None
    if spec.migration:
        known = moving.tried == spec.migration.uid and moving.failure
        doubt = Step(kind="doubt", why="the daemon of its node was restarted")
        return _told(spec, moving, now_s) if known else doubt
    if now_s < moving.next_s:
        return Step(kind="wait", until_s=moving.next_s)
    return Step(kind="go on")


def _outgoing(spec: InstanceSpec, moving: Moving, now_s: float) -> Step | None:
    move = spec.migration
    if not move:
        return None
    if moving.tried == move.uid:
        # It is over here, and the guest runs: until the leader knows, checks go on in between.
        return Step(kind="tell") if moving.failure and now_s >= moving.next_s else None
    return Step(kind="send") if move.step == "copy" else None


def _told(spec: InstanceSpec, moving: Moving, now_s: float) -> Step:
    """Tell the leader; not in a hurry, and as long as it does not show in the duties."""
    assert spec.migration
    if now_s < moving.next_s:
        return Step(kind="wait", until_s=moving.next_s)
    return Step(kind="tell")
