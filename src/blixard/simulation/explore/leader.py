"""The leader's moves: it finds nodes lost, plans, answers heartbeats, and is replaced."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from blixard.cluster.leases import LeaderLeases
from blixard.simulation.explore.leases import NOW, Leases
from blixard.simulation.explore.state import (
    NODES,
    Beat,
    Entry,
    Leader,
    Move,
    Node,
    Replicated,
    State,
    pair,
    put,
    spend,
)


class LeaderMoves:
    """What the newest leader may do, and what may happen to it."""

    def __init__(self, leases: Leases, *, timely: bool) -> None:
        self._rules = leases.rules
        self._book, self._booked = leases.book, leases.booked
        self._timely = timely
        self._answered = functools.cache(self._answer)

    def moves(self, state: State) -> Iterator[Move]:
        """Yield what the leader may do, unless it is paused."""
        leader = state.leader
        if leader.paused:
            return
        if leader.waits < 0:
            yield from self._looks(state)
        elif state.budget.unknowns:
            book = self._book(leader)
            book.fencing_answered(NODES[leader.waits], "OUTCOME_UNKNOWN")
            yield Move(
                f"the commit of {NODES[leader.waits]}'s next epoch times out",
                spend(state, "unknowns")._replace(
                    leader=self._booked(leader, book)._replace(waits=-1)
                ),
            )
        if state.log:
            yield self._commits(state)
        planned = self._rules.planned(state.cluster)
        if planned != state.cluster:
            yield Move("the leader places the instance", state._replace(cluster=planned))

    def _looks(self, state: State) -> Iterator[Move]:
        book = self._book(state.leader)
        book.look(float(NOW))
        looked = self._booked(state.leader, book)
        if looked != state.leader:
            yield Move("the leader looks", state._replace(leader=looked))
        number = self._lost(state, book)
        if number < 0:
            return
        uid, seen = NODES[number], state.cluster.members[number]
        book.begin_fencing(uid)
        entry = Entry(number, seen, looked.term, looked.term)
        waiting = self._booked(state.leader, book)._replace(waits=number)
        if self._may_fence(state):
            yield Move(
                f"the leader finds {uid} lost and proposes its next epoch",
                state._replace(leader=waiting, log=(*state.log, entry)),
            )
        if state.budget.unknowns:
            book.fencing_answered(uid, "OVERLOADED")
            yield Move(
                f"the leader finds {uid} lost, and its proposal is not taken",
                spend(state, "unknowns")._replace(leader=self._booked(state.leader, book)),
            )

    def _may_fence(self, state: State) -> bool:
        epochs = sum(member.epoch for member in state.cluster.members) - len(NODES)
        return epochs + len(state.log) < state.budget.fencings

    def _lost(self, state: State, book: LeaderLeases) -> int:
        for number in range(len(NODES)):
            if self._rules.to_be_fenced(self._rules.node(state.cluster, number), book, float(NOW)):
                return number
        return -1

    def _commits(self, state: State) -> Move:
        entry, rest = state.log[0], state.log[1:]
        after, code, wrong = self._applied(state, entry)
        leader = state.leader
        own = entry.entered == leader.term == entry.decided
        if own and leader.waits == entry.node and entry.node not in [e.node for e in rest]:
            book = self._book(leader)
            book.fencing_answered(NODES[entry.node], code)
            leader = self._booked(leader, book)._replace(waits=-1)
        label = f"the next epoch of {NODES[entry.node]} is {'refused' if code else 'committed'}"
        return Move(label, state._replace(cluster=after, log=rest, leader=leader), wrong)

    def _applied(self, state: State, entry: Entry) -> tuple[Replicated, str, str]:
        """Return the state after an entry, the code, and what that broke."""
        after, code = self._rules.fenced(state.cluster, *entry)
        node, uid = state.nodes[entry.node], NODES[entry.node]
        wrong = ""
        if not code and node.epoch == entry.seen.epoch and node.expires > 0:
            wrong = f"{uid} is declared lost while it holds a lease"
        elif not code and self._timely:
            wrong = f"{uid} is healthy and declared lost"
        return after, code, wrong

    def faults(self, state: State) -> Iterator[Move]:
        """Yield pauses and changes of the leader."""
        leader, budget = state.leader, state.budget
        if leader.paused:
            resumed = leader._replace(paused=False)
            yield Move("the leader goes on", state._replace(leader=resumed))
        elif budget.leader_pauses:
            paused = spend(state, "leader_pauses")
            yield Move("the leader is paused", paused._replace(leader=leader._replace(paused=True)))
        if budget.elections:
            for count in range(len(state.log) + 1):
                yield self._elected(state, count)
            late = self._lost(state, self._book(leader))
            if late >= 0 and leader.waits < 0 and self._may_fence(state._replace(log=())):
                stale = Entry(late, state.cluster.members[late], leader.term, leader.term + 1)
                move = self._elected(state, 0)
                yield Move(
                    f"{move.label}; the old one's finding that {NODES[late]} is lost comes late",
                    move.state._replace(log=(stale,)),
                    move.wrong,
                )

    def _elected(self, state: State, committed: int) -> Move:
        """A new leader: the first entries of the old log are applied, the rest is gone."""
        wrong = ""
        for entry in state.log[:committed]:
            after, _, broken = self._applied(state, entry)
            state, wrong = state._replace(cluster=after), wrong or broken
        book = self._rules.leases(self._rules.config, float(NOW))
        blank = state.leader._replace(term=state.leader.term + 1, paused=False, waits=-1)
        nodes = pair(
            n._replace(beat=None) if n.beat and n.beat.stage == "confirmed" else n
            for n in state.nodes
        )
        return Move(
            f"a new leader is elected, {committed} of {len(state.log)} open entries stand",
            spend(state, "elections")._replace(
                leader=self._booked(blank, book), log=(), nodes=nodes
            ),
            wrong,
        )

    def answers(self, state: State, number: int, node: Node, beat: Beat) -> Iterator[Move]:
        """Yield its answer to a confirmed heartbeat."""
        if state.leader.paused:
            return
        cluster, leader, reply, said = self._answered(state.cluster, state.leader, number, beat)
        after = state._replace(cluster=cluster, leader=leader)
        yield Move(
            f"the leader answers {NODES[number]}: {said}",
            put(after, number, node._replace(beat=reply)),
        )

    def _answer(
        self, cluster: Replicated, leader: Leader, number: int, beat: Beat
    ) -> tuple[Replicated, Leader, Beat, str]:
        uid, epoch = NODES[number], cluster.members[number].epoch
        resource, book = self._rules.node(cluster, number), self._book(leader)
        verdict = self._rules.heartbeat_verdict(resource, beat.epoch)
        granted = False
        if verdict == "welcome":
            book.fencing_answered(uid, "")
            book.acknowledge(uid, float(NOW))
            cluster = self._rules.welcomed(cluster, number)
        elif verdict == "grant":
            granted = book.acknowledge(uid, float(NOW))
        sent = beat.sent if granted else 0
        reply = beat._replace(stage="reply", sent=sent, granted=granted, answer=epoch)
        return cluster, self._booked(leader, book), reply, "granted" if granted else verdict
