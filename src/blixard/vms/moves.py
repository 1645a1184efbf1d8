"""Moving a running instance to another node: what is asked, what is decided, what nodes say of it.

The order (docs/administrator-guide/failures-and-fencing.md): the target prepares a process that
waits, the source sends the memory and stops its CPUs, one transaction gives the instance to the
target under the next run, the rest is sent, the target asks and goes on.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from blixard.base.machine import Machine

DEADLINE_S = 300
FINISHED_KEPT = 20  # finished migrations that stay for people to read, per namespace

MigrationPhase = Literal["Pending", "Preparing", "Copying", "Switching", "Succeeded", "Failed"]
MigrationEvent = Literal["prepare", "copy", "switch", "arrive", "fail"]

# Until ``switch`` everything can be rolled back, and the guest goes on where it was. After it the
# instance belongs to the target: ``fail`` then means that it starts anew there, its memory is lost.
MIGRATION: Machine[MigrationPhase, MigrationEvent] = Machine(
    "migration",
    "Pending",
    {
        "Pending": {"prepare": "Preparing", "fail": "Failed"},
        "Preparing": {"copy": "Copying", "fail": "Failed"},
        "Copying": {"switch": "Switching", "fail": "Failed"},
        "Switching": {"arrive": "Succeeded", "fail": "Failed"},
        "Succeeded": {},
        "Failed": {},
    },
)
FINISHED: tuple[MigrationPhase, ...] = ("Succeeded", "Failed")


class MigrationSpec(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """A wish: this instance, while it runs, to that node (empty: the placement chooses).

    ``live``: copy the memory while the guest runs (true), stop it first (false), or as its
    hypervisor can do it safely (null). Not switched after ``deadlineS``, it is rolled back.
    """

    instance: Annotated[str, Meta(min_length=1, max_length=70)]
    target_node: Annotated[str, Meta(max_length=63)] = ""
    live: bool | None = None
    deadline_s: Annotated[int, Meta(ge=5, le=86_400)] = DEADLINE_S


class MigrationStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How far it is; nodes by name (their uids beside), times of the leader's clock.

    ``downtime_ms``: the CPUs stood still for so long, each part by the clock of its node.
    ``switched``: the instance belongs to the target, whatever becomes of the memory.
    """

    phase: MigrationPhase = "Pending"
    reason: str = ""
    source: str = ""
    source_uid: str = ""
    target: str = ""
    target_uid: str = ""
    run: int = 0
    switched: bool = False
    started_at_ms: int = 0
    ended_at_ms: int = 0
    downtime_ms: int = 0
    total_ms: int = 0
    bytes: int = 0


class Move(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The migration in an instance's spec: as long as it stands there, it may still be switched.

    ``uid`` and ``name`` are the Migration's, ``target`` is a node uid, ``run`` the one that begins
    there. ``copy`` is the step from which on the source may send and ask for the switch.
    """

    uid: str
    name: str
    target: str
    target_name: str
    target_epoch: int
    run: int
    step: Literal["prepare", "copy"] = "prepare"
    live: bool | None = None


Said = Literal["prepared", "paused", "failed", "sent"]


class MoveWord(msgspec.Struct, frozen=True, array_like=True):
    """What a node tells the leader of a migration, under its own epoch.

    ``prepared``: the target waits for the memory. ``paused``: the source's CPUs stand still for
    this migration; answered with the switch. ``failed``: it cannot go on, roll it back. ``sent``:
    the target has everything.
    """

    instance: str
    migration: str
    epoch: int
    said: Said
    reason: str = ""
    total_ms: int = 0
    downtime_ms: int = 0
    bytes_sent: int = 0


class MoveAnswer(msgspec.Struct, frozen=True, array_like=True):
    """``done``: what was said is committed, now or before; otherwise why it never will be."""

    done: bool
    reason: str = ""


class MoveOpening(msgspec.Struct, frozen=True, array_like=True):
    """Opens the stream of a guest's memory from the source to the target."""

    instance: str
    migration: str
    run: int


def active(status: dict[str, Any]) -> bool:
    """Tell whether a migration with that status is still to end."""
    return status.get("phase", "Pending") not in FINISHED
