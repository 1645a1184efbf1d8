"""What the model remembers. All times are ticks from now, so equal situations are equal states."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

T = TypeVar("T")
NODES = ("node-a", "node-b")


class Member(NamedTuple):
    """A node in the replicated state: Ready or Lost, and its epoch."""

    ready: bool
    epoch: int


class Instance(NamedTuple):
    """The instance in the replicated state; node -1: not placed."""

    node: int
    run: int
    epoch: int


class Replicated(NamedTuple):
    """What all voters agree on."""

    members: tuple[Member, Member]
    instance: Instance


class Entry(NamedTuple):
    """A fencing in the log, not yet applied: decided on *seen* in a term, appended in another."""

    node: int
    seen: Member
    decided: int
    entered: int


class Leader(NamedTuple):
    """The leader: ``heard`` per node, its last look, who is being fenced, whom it waits for.

    ``fencing``: 0 no, 1 yes, 2 with an unknown outcome. ``waits``: the node whose commit it awaits.
    """

    term: int
    paused: bool
    heard: tuple[int, int]
    looked: int
    fencing: tuple[int, int]
    waits: int


class Beat(NamedTuple):
    """A heartbeat on its way: sent, confirmed (a quorum answered), reply, extend, leave."""

    stage: str
    sent: int
    epoch: int
    granted: bool = False
    answer: int = 0


class View(NamedTuple):
    """A view on its way; ``sound``: asked for and no lapse since."""

    epoch: int
    run: int
    sound: bool


class Process(NamedTuple):
    """The hypervisor process under the guard; deadline None: not armed."""

    state: str
    epoch: int
    run: int
    deadline: int | None


class Start(NamedTuple):
    """A start under way: the last step done, for which epoch and run, and the answer."""

    step: str
    epoch: int
    run: int
    allowed: bool = False


class Node(NamedTuple):
    """One node. ``sound``: its duties were truly read since its lease last lapsed (a ghost)."""

    mode: str  # up, paused (the daemon), frozen (the host)
    cut: bool
    epoch: int
    expires: int
    fresh: bool
    outdated: bool
    view_epoch: int
    run: int
    sound: bool
    beat: Beat | None
    view: View | None
    process: Process | None
    start: Start | None
    due: bool


class Budget(NamedTuple):
    """How many of each fault are left."""

    elections: int = 0
    leader_pauses: int = 0
    pauses: int = 0
    freezes: int = 0
    cuts: int = 0
    restarts: int = 0
    unknowns: int = 0
    fencings: int = 2


class State(NamedTuple):
    """The whole model."""

    cluster: Replicated
    leader: Leader
    log: tuple[Entry, ...]
    nodes: tuple[Node, Node]
    budget: Budget


class Move(NamedTuple):
    """One step: what happened, what it leads to, and what it broke ("" as it should be)."""

    label: str
    state: State
    wrong: str = ""


def first_state(budget: Budget, lease: int, *, silent: bool = False) -> State:
    """Return the settled start: the instance runs on the first node, both nodes hold leases.

    *silent*: the first node was not heard until its lease ended and its guard killed.
    """
    node = Node(
        mode="up", cut=False, epoch=1, expires=lease, fresh=True, outdated=False, view_epoch=1,
        run=1, sound=True, beat=None, view=None,
        process=Process("running", 1, 1, lease), start=None, due=False,
    )  # fmt: skip
    idle = node._replace(run=0, process=None)
    cluster = Replicated((Member(True, 1), Member(True, 1)), Instance(0, 1, 1))
    leader = Leader(term=1, paused=False, heard=(0, 0), looked=0, fencing=(0, 0), waits=-1)
    if silent:
        leader = leader._replace(heard=(-lease - 1, 0))
        node = node._replace(expires=0, sound=False, process=Process("exited", 1, 1, None))
    return State(cluster, leader, (), (node, idle), budget)


def pair(values: Iterable[T]) -> tuple[T, T]:
    """Return what was worked out for each of the two nodes."""
    first, second = values
    return first, second


def exited(process: Process) -> Process:
    """Return a process after its end, whatever ended it."""
    return process._replace(state="exited", deadline=None)


def restarted(node: Node) -> Node:
    """Return a node whose daemon starts anew: it remembers nothing, its process runs on."""
    return node._replace(
        epoch=0, expires=0, fresh=False, outdated=False, view_epoch=-1, run=0, sound=False,
        beat=None, view=None, start=None,
    )  # fmt: skip


def put(state: State, number: int, node: Node) -> State:
    """Return the state with another node in a place."""
    nodes = (node, state.nodes[1]) if number == 0 else (state.nodes[0], node)
    return State(state.cluster, state.leader, state.log, nodes, state.budget)


def spend(state: State, name: str) -> State:
    """Return the state with one fault of a kind less to come."""
    budget = state.budget
    return state._replace(budget=budget._replace(**{name: getattr(budget, name) - 1}))
