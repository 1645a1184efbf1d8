"""What nodes say to each other besides Raft: heartbeats, views, reports, starts, invitations."""

from __future__ import annotations

from typing import Any

import msgspec

from blixard.functions.spec import FunctionDuties
from blixard.images.duties import ImageDuty, ImageReport
from blixard.ports.network import NetworkView
from blixard.vms.reconcile import Assignment

HEARTBEAT = "node.heartbeat"
VIEW = "node.view"
REPORT = "node.report"
CONFIRM_START = "node.confirm-start"
INVITE = "node.invite"
MOVE = "node.move"  # a MoveWord, answered with a MoveAnswer
FUNCTION_SOURCE = "node.function-source"
FUNCTION_CALL = "node.function-call"
FUNCTION_SUMMARY = "node.function-summary"


class Peer(msgspec.Struct, frozen=True, array_like=True):
    """A node as others must know it to reach it and to judge its certificate."""

    uid: str
    name: str
    address: str
    raft_id: int
    epoch: int
    voter: bool


class Heartbeat(msgspec.Struct, frozen=True, array_like=True):
    """Sent once a second; ``epoch`` is the one the node lives in (0: just started).

    ``version`` is the node's program, ``level`` the highest feature level that it knows.
    """

    epoch: int
    version: str = ""
    level: int = 1


class HeartbeatReply(msgspec.Struct, frozen=True, array_like=True):
    """``granted``: the lease runs from the send time; ``epoch`` is the cluster's."""

    granted: bool
    epoch: int


class ViewRequest(msgspec.Struct, frozen=True, array_like=True):
    """Answered when the node's duties differ from *have*, or after ``wait_s``."""

    have: str
    wait_s: float


class NodeView(msgspec.Struct, frozen=True, array_like=True):
    """A node's duties, read linearizably under ``epoch``; ``digest`` names their content."""

    digest: str
    epoch: int
    revision: int
    assignments: tuple[Assignment, ...] = ()
    networks: tuple[NetworkView, ...] = ()
    peers: tuple[Peer, ...] = ()
    images: tuple[ImageDuty, ...] = ()


class FullView(NodeView, frozen=True, array_like=True):
    """The duties of a node that serves functions; others are not sent what they do not need."""

    functions: FunctionDuties = FunctionDuties(0, ())


class SourceQuestion(msgspec.Struct, frozen=True, array_like=True):
    """What is the source of that function? Only that of *digest* is of use."""

    uid: str
    digest: str


class Report(msgspec.Struct, frozen=True, array_like=True):
    """One instance's status as its node sees it, and the phases passed since the last one."""

    uid: str
    namespace: str
    name: str
    run: int
    status: dict[str, Any]
    path: tuple[str, ...] = ()


class Reports(msgspec.Struct, frozen=True, array_like=True):
    """A batch of reports made under ``epoch``."""

    epoch: int
    items: tuple[Report, ...]
    images: tuple[ImageReport, ...] = ()


class ReportsReply(msgspec.Struct, frozen=True, array_like=True):
    """One code per report, empty where it was taken; none for images from older programs."""

    codes: tuple[str, ...]
    image_codes: tuple[str, ...] = ()


class StartQuestion(msgspec.Struct, frozen=True, array_like=True):
    """May this run of this instance start in this epoch?"""

    uid: str
    run: int
    epoch: int


class StartAnswer(msgspec.Struct, frozen=True, array_like=True):
    """``allowed`` is the state of a linearizable read made after the question arrived."""

    allowed: bool


class Invitation(msgspec.Struct, frozen=True, array_like=True):
    """From the leader to a worker: open an empty log, you are about to become a learner."""

    cluster_id: str
    raft_id: int
    members: tuple[Peer, ...]
    secrets: dict[str, bytes] = {}


def encode(message: msgspec.Struct) -> bytes:
    """Return the bytes of a message."""
    return msgspec.msgpack.encode(message)
