"""A node's heartbeats and views, on their way to the leader and back."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from blixard.simulation.explore.leader import LeaderMoves
from blixard.simulation.explore.leases import NOW, NOW_NS, NS, Leases
from blixard.simulation.explore.rules import process_of
from blixard.simulation.explore.state import (
    NODES,
    Beat,
    Budget,
    Leader,
    Move,
    Node,
    Replicated,
    State,
    View,
    exited,
    put,
)


class Messages:
    """Each step of a message is a move; those of the ``swift`` node take none of their own."""

    def __init__(self, leases: Leases, leader: LeaderMoves, *, timely: bool, swift: int) -> None:
        self._rules = leases.rules
        self._authority, self._believed = leases.authority, leases.believed
        self._extended = leases.extended
        self._at_leader = leader.answers
        self._timely = timely
        self._swift = swift
        self._heard_by = functools.cache(self._hearing)
        self._ended = functools.cache(self._swift_end)

    def beats(self, state: State, number: int, node: Node) -> Iterator[Move]:
        """Yield what may happen to a heartbeat, or that one is sent."""
        uid, beat = NODES[number], node.beat
        if beat is None:
            # At most one a tick; a quorum confirms it at once, for a later round only shortens
            # the lease.
            renewed = node.expires >= int(self._rules.config.lease_s)
            if not node.cut and not state.leader.paused and (node.due or not renewed):
                sent = node._replace(beat=Beat("confirmed", 0, node.epoch), due=False)
                yield self._swiftly(
                    Move(f"a quorum confirms {uid}'s heartbeat", put(state, number, sent)), number
                )
            return
        if beat.stage == "confirmed":
            yield from self._at_leader(state, number, node, beat)
        elif beat.stage == "reply":
            yield self._hears(state, number, node, beat)
        elif beat.stage == "extend":
            extended = node._replace(beat=None, process=self._extended(node))
            yield Move(f"{uid} extends its guard", put(state, number, extended))
        else:
            authority = self._authority(node)
            authority.enter_epoch(beat.answer)
            entered = self._believed(node, authority)._replace(beat=None)
            yield Move(f"{uid} enters epoch {beat.answer}", put(state, number, entered))
        if beat.stage in ("confirmed", "reply") and not self._timely:
            yield Move(
                f"a heartbeat of {uid} is lost", put(state, number, node._replace(beat=None))
            )

    def _hears(self, state: State, number: int, node: Node, beat: Beat) -> Move:
        heard, after = self._heard_by(node, beat)
        return Move(f"{NODES[number]} hears: {heard}", put(state, number, after))

    def _hearing(self, node: Node, beat: Beat) -> tuple[str, Node]:
        authority = self._authority(node)
        heard = authority.heartbeat_answered(
            granted=beat.granted, epoch=beat.answer, asked_epoch=beat.epoch,
            sent_ns=(NOW + beat.sent) * NS, now_ns=NOW_NS,
        )  # fmt: skip
        after = node._replace(beat=None)
        if heard == "renewed":
            after = after._replace(beat=Beat("extend", 0, beat.epoch))
        elif heard == "new epoch":
            authority.leave_epoch()
            process = node.process
            if process is not None and self._rules.ends_with_epoch(
                process_of(process.state, process.epoch, process.run), beat.answer
            ):
                process = exited(process)
            view = node.view._replace(sound=False) if node.view is not None else None
            after = after._replace(
                beat=Beat("leave", 0, beat.epoch, answer=beat.answer), process=process, view=view
            )
        return heard, self._believed(after, authority)

    def heard(self, node: Node, beat: Beat) -> Node:
        """Return *node* after it heard an answer, and did what follows from it at once."""
        node = self._heard_by(node, beat)[1]
        if node.beat is not None and node.beat.stage == "extend":
            node = node._replace(beat=None, process=self._extended(node))
        return node

    def views(self, state: State, number: int, node: Node) -> Iterator[Move]:
        """Yield what may happen to a view, or that one is asked for."""
        uid = NODES[number]
        if node.view is not None:
            authority = self._authority(node)
            authority.view_read(node.view.epoch, NOW_NS)
            run = node.view.run if node.view.epoch == node.epoch else node.run
            read = self._believed(node, authority)
            read = read._replace(view=None, run=run, sound=node.view.sound and read.expires > 0)
            yield Move(f"{uid} reads its duties", put(state, number, read))
            return
        if node.cut or state.leader.paused:
            return
        epoch = state.cluster.members[number].epoch
        run = self._rules.assigned_run(state.cluster, number)
        if node.fresh and (epoch, run) == (node.view_epoch, node.run):
            return
        authority = self._authority(node)
        authority.view_asked()
        asked = self._believed(node, authority)
        asked = asked._replace(view=View(epoch, run, node.expires > 0))
        yield self._swiftly(Move(f"{uid} asks for its duties", put(state, number, asked)), number)

    def _swiftly(self, move: Move, number: int) -> Move:
        """Carry a message of the swift node to its end at once."""
        if number != self._swift:
            return move
        state = move.state
        cluster, leader, node, wrong = self._ended(state.cluster, state.leader, state.nodes[number])
        after = put(state._replace(cluster=cluster, leader=leader), number, node)
        return Move(move.label, after, move.wrong or wrong)

    def _swift_end(
        self, cluster: Replicated, leader: Leader, node: Node
    ) -> tuple[Replicated, Leader, Node, str]:
        """Return what the swift node's messages lead to; nothing else has a part in it."""
        number, wrong = self._swift, ""
        state = State(cluster, leader, (), (node, node), Budget())
        while True:
            node = state.nodes[number]
            if node.beat is not None:
                following = next(self.beats(state, number, node), None)
            else:
                following = next(self.views(state, number, node), None) if node.view else None
            if following is None:
                return state.cluster, state.leader, node, wrong
            state, wrong = following.state, wrong or following.wrong

    def renewed(self, state: State) -> State:
        """Renew the swift node's lease, as it does every tick that it can."""
        if self._swift >= 0 and state.nodes[self._swift].mode == "up":
            node = state.nodes[self._swift]
            for move in self.beats(state, self._swift, node._replace(due=True)):
                return move.state
        return state
