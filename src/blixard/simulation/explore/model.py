"""The moves of the model: what may happen next in a state, each with the state it leads to.

Every choice of order, delay, loss and fault is a move of its own. What a part decides comes from
the rules; the model only carries messages, lets time pass and injects faults.

Abstractions, each no weaker than the real thing: the quorum is one log (a round confirms at one
instant, by the newest leader; what the old leader does after the election with what a quorum
confirmed before is the same as done before the election, and delivered late). A kill by the guard
takes effect within the tick of its deadline, which is the kill time of the arithmetic.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

from blixard.cluster.leases import LeaderLeases
from blixard.node.authority import NodeAuthority
from blixard.simulation.explore.rules import Rules, process_of
from blixard.simulation.explore.state import (
    NODES,
    Beat,
    Budget,
    Entry,
    Leader,
    Node,
    Process,
    Replicated,
    Start,
    State,
    View,
)

T = TypeVar("T")
NS = 1_000_000_000
NOW = 1_000  # the tick that every absolute time is counted from
NOW_NS = NOW * NS


class Move(NamedTuple):
    """One step: what happened, what it leads to, and what it broke ("" as it should be)."""

    label: str
    state: State
    wrong: str = ""


class Model:
    """All moves; ``timely``: time waits for every message, unless the leader is paused.

    ``swift`` names a node whose heartbeats and views take no time (-1: none), which keeps the
    product of both nodes' messages small where the other one is what matters.
    """

    def __init__(self, rules: Rules, *, timely: bool = False, swift: int = -1) -> None:
        self.rules = rules
        self.timely = timely
        self.swift = swift
        self._waits_ticks = -(-int(rules.config.lost_after_s * 1000) // 1000)
        # Parts of a state recur far more often than states: what follows is worked out once.
        self._aged = functools.cache(self._older)
        self._answered = functools.cache(self._answer)
        self._heard_by = functools.cache(self._hearing)
        self._ended = functools.cache(self._swift_end)

    def moves(self, state: State) -> Iterator[Move]:
        """Yield everything that may happen next."""
        if self._may_tick(state):
            yield Move("time passes", self._renewed(self._ticked(state)))
        yield from self._leader_moves(state)
        for number, node in enumerate(state.nodes):
            yield from self._guard_moves(state, number, node)
            if node.mode == "up":
                yield from self._beat_moves(state, number, node)
                yield from self._view_moves(state, number, node)
                yield from self._worker_moves(state, number, node)
            elif node.beat is not None and node.beat.stage == "confirmed":
                yield from self._beats_at_leader(state, number, node, node.beat)
            yield from self._node_faults(state, number, node)
        yield from self._leader_faults(state)

    # -- time --

    def _may_tick(self, state: State) -> bool:
        for node in state.nodes:
            if node.mode != "frozen" and self._overdue(node.process):
                return False
        leader = state.leader
        if not self.timely or leader.paused:
            return True
        busy = any(n.due or n.beat is not None for n in state.nodes)
        return not busy and leader.looked == 0 and leader.waits < 0 and not state.log

    def _overdue(self, process: Process | None) -> bool:
        return (
            process is not None
            and process.state != "exited"
            and self.rules.expired(_absolute_ns(process.deadline), NOW_NS)
        )

    def _ticked(self, state: State) -> State:
        leader = state.leader
        heard = _pair(max(-self._waits_ticks, t - 1) for t in leader.heard)
        return state._replace(
            leader=leader._replace(
                # Elsewhere it looks all the time: a gap only makes it wait longer.
                heard=heard,
                looked=max(-2, leader.looked - 1) if self.timely else 0,
            ),
            nodes=(self._aged(state.nodes[0]), self._aged(state.nodes[1])),
        )

    def _older(self, node: Node) -> Node:
        expires = max(0, node.expires - 1)
        process, beat, view = node.process, node.beat, node.view
        if process is not None and process.deadline is not None:
            process = process._replace(deadline=max(-1, process.deadline - 1))
        if beat is not None:
            beat = beat._replace(sent=max(-int(self.rules.config.lease_s), beat.sent - 1))
        if view is not None and not expires:
            view = view._replace(sound=False)
        return node._replace(
            expires=expires, process=process, beat=beat, view=view, due=self.timely,
            sound=node.sound and expires > 0,
        )  # fmt: skip

    # -- the leader --

    def _book(self, leader: Leader) -> LeaderLeases:
        book = self.rules.leases(self.rules.config, float(NOW - self._waits_ticks))
        book.looked_s = float(NOW + leader.looked)
        book.acknowledged_s = {u: float(NOW + t) for u, t in zip(NODES, leader.heard, strict=True)}
        book.fencing = {u: f == 2 for u, f in zip(NODES, leader.fencing, strict=True) if f}
        return book

    def _booked(self, leader: Leader, book: LeaderLeases) -> Leader:
        since = book.since_s
        heard = _pair(
            max(-self._waits_ticks, int(max(book.acknowledged_s.get(u, since), since)) - NOW)
            for u in NODES
        )
        fencing = _pair(1 + book.fencing[u] if u in book.fencing else 0 for u in NODES)
        return leader._replace(heard=heard, fencing=fencing, looked=int(book.looked_s) - NOW)

    def _leader_moves(self, state: State) -> Iterator[Move]:
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
                _spend(state, "unknowns")._replace(
                    leader=self._booked(leader, book)._replace(waits=-1)
                ),
            )
        if state.log:
            yield self._commits(state)
        planned = self.rules.planned(state.cluster)
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
                _spend(state, "unknowns")._replace(leader=self._booked(state.leader, book)),
            )

    def _may_fence(self, state: State) -> bool:
        epochs = sum(member.epoch for member in state.cluster.members) - len(NODES)
        return epochs + len(state.log) < state.budget.fencings

    def _lost(self, state: State, book: LeaderLeases) -> int:
        for number in range(len(NODES)):
            if self.rules.to_be_fenced(self.rules.node(state.cluster, number), book, float(NOW)):
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
        after, code = self.rules.fenced(state.cluster, *entry)
        node, uid = state.nodes[entry.node], NODES[entry.node]
        wrong = ""
        if not code and node.epoch == entry.seen.epoch and node.expires > 0:
            wrong = f"{uid} is declared lost while it holds a lease"
        elif not code and self.timely:
            wrong = f"{uid} is healthy and declared lost"
        return after, code, wrong

    def _leader_faults(self, state: State) -> Iterator[Move]:
        leader, budget = state.leader, state.budget
        if leader.paused:
            resumed = leader._replace(paused=False)
            yield Move("the leader goes on", state._replace(leader=resumed))
        elif budget.leader_pauses:
            paused = _spend(state, "leader_pauses")
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
        book = self.rules.leases(self.rules.config, float(NOW))
        blank = state.leader._replace(term=state.leader.term + 1, paused=False, waits=-1)
        nodes = _pair(
            n._replace(beat=None) if n.beat and n.beat.stage == "confirmed" else n
            for n in state.nodes
        )
        return Move(
            f"a new leader is elected, {committed} of {len(state.log)} open entries stand",
            _spend(state, "elections")._replace(
                leader=self._booked(blank, book), log=(), nodes=nodes
            ),
            wrong,
        )

    # -- the guard and the host --

    def _guard_moves(self, state: State, number: int, node: Node) -> Iterator[Move]:
        process = node.process
        if node.mode != "frozen" and process is not None and self._overdue(process):
            killed = node._replace(process=_exited(process))
            yield Move(f"the guard of {NODES[number]} kills", _put(state, number, killed))

    def _node_faults(self, state: State, number: int, node: Node) -> Iterator[Move]:
        uid, budget = NODES[number], state.budget
        if node.mode == "up":
            for name, mode in (("pauses", "paused"), ("freezes", "frozen")):
                if getattr(budget, name):
                    spent = _spend(state, name)
                    yield Move(f"{uid} is {mode}", _put(spent, number, node._replace(mode=mode)))
            if budget.restarts:
                spent = _spend(state, "restarts")
                yield Move(f"the daemon of {uid} restarts", _put(spent, number, _restarted(node)))
        else:
            process = node.process
            if node.mode == "frozen" and process is not None and self._overdue(process):
                process = _exited(process)  # the guard is the first to run
            back = node._replace(mode="up", process=process)
            yield Move(f"{uid} goes on", _put(state, number, back))
        if node.cut:
            yield Move(f"{uid} is reached again", _put(state, number, node._replace(cut=False)))
        elif budget.cuts:
            spent = _spend(state, "cuts")
            yield Move(f"{uid} is cut off", _put(spent, number, node._replace(cut=True)))

    # -- the node: heartbeats and views --

    def _authority(self, node: Node) -> NodeAuthority:
        authority = self.rules.authority(self.rules.config)
        authority.lease.epoch = node.epoch
        authority.lease.expires_ns = (NOW + node.expires) * NS
        authority.view_epoch = node.view_epoch
        authority.fresh, authority.outdated = node.fresh, node.outdated
        return authority

    def _believed(self, node: Node, authority: NodeAuthority) -> Node:
        lease = authority.lease
        expires = max(0, lease.expires_ns // NS - NOW)
        return node._replace(
            epoch=lease.epoch, expires=expires, fresh=authority.fresh,
            outdated=authority.outdated, view_epoch=authority.view_epoch,
            sound=node.sound and expires > 0,
        )  # fmt: skip

    def _beat_moves(self, state: State, number: int, node: Node) -> Iterator[Move]:
        uid, beat = NODES[number], node.beat
        if beat is None:
            # At most one a tick; a quorum confirms it at once, for a later round only shortens
            # the lease.
            renewed = node.expires >= int(self.rules.config.lease_s)
            if not node.cut and not state.leader.paused and (node.due or not renewed):
                sent = node._replace(beat=Beat("confirmed", 0, node.epoch), due=False)
                yield self._swiftly(
                    Move(f"a quorum confirms {uid}'s heartbeat", _put(state, number, sent)), number
                )
            return
        if beat.stage == "confirmed":
            yield from self._beats_at_leader(state, number, node, beat)
        elif beat.stage == "reply":
            yield self._hears(state, number, node, beat)
        elif beat.stage == "extend":
            extended = node._replace(beat=None, process=self._extended(node))
            yield Move(f"{uid} extends its guard", _put(state, number, extended))
        else:
            authority = self._authority(node)
            authority.enter_epoch(beat.answer)
            entered = self._believed(node, authority)._replace(beat=None)
            yield Move(f"{uid} enters epoch {beat.answer}", _put(state, number, entered))
        if beat.stage in ("confirmed", "reply") and not self.timely:
            yield Move(
                f"a heartbeat of {uid} is lost", _put(state, number, node._replace(beat=None))
            )

    def _beats_at_leader(self, state: State, number: int, node: Node, beat: Beat) -> Iterator[Move]:
        if state.leader.paused:
            return
        cluster, leader, reply, said = self._answered(state.cluster, state.leader, number, beat)
        after = state._replace(cluster=cluster, leader=leader)
        yield Move(
            f"the leader answers {NODES[number]}: {said}",
            _put(after, number, node._replace(beat=reply)),
        )

    def _answer(
        self, cluster: Replicated, leader: Leader, number: int, beat: Beat
    ) -> tuple[Replicated, Leader, Beat, str]:
        uid, epoch = NODES[number], cluster.members[number].epoch
        resource, book = self.rules.node(cluster, number), self._book(leader)
        verdict = self.rules.heartbeat_verdict(resource, beat.epoch)
        granted = False
        if verdict == "welcome":
            book.fencing_answered(uid, "")
            book.acknowledge(uid, float(NOW))
            cluster = self.rules.welcomed(cluster, number)
        elif verdict == "grant":
            granted = book.acknowledge(uid, float(NOW))
        sent = beat.sent if granted else 0
        reply = beat._replace(stage="reply", sent=sent, granted=granted, answer=epoch)
        return cluster, self._booked(leader, book), reply, "granted" if granted else verdict

    def _hears(self, state: State, number: int, node: Node, beat: Beat) -> Move:
        heard, after = self._heard_by(node, beat)
        return Move(f"{NODES[number]} hears: {heard}", _put(state, number, after))

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
            if process is not None and self.rules.ends_with_epoch(
                process_of(process.state, process.epoch, process.run), beat.answer
            ):
                process = _exited(process)
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

    def _extended(self, node: Node) -> Process | None:
        process = node.process
        if process is None or process.state == "exited" or process.deadline is None:
            return process
        asked_ns = (NOW + node.expires) * NS
        deadline_ns = self.rules.extended(_absolute_ns(process.deadline), asked_ns, NOW_NS)
        return process._replace(deadline=deadline_ns // NS - NOW)

    def _view_moves(self, state: State, number: int, node: Node) -> Iterator[Move]:
        uid = NODES[number]
        if node.view is not None:
            authority = self._authority(node)
            authority.view_read(node.view.epoch, NOW_NS)
            run = node.view.run if node.view.epoch == node.epoch else node.run
            read = self._believed(node, authority)
            read = read._replace(view=None, run=run, sound=node.view.sound and read.expires > 0)
            yield Move(f"{uid} reads its duties", _put(state, number, read))
            return
        if node.cut or state.leader.paused:
            return
        epoch = state.cluster.members[number].epoch
        run = self.rules.assigned_run(state.cluster, number)
        if node.fresh and (epoch, run) == (node.view_epoch, node.run):
            return
        authority = self._authority(node)
        authority.view_asked()
        asked = self._believed(node, authority)
        asked = asked._replace(view=View(epoch, run, node.expires > 0))
        yield self._swiftly(Move(f"{uid} asks for its duties", _put(state, number, asked)), number)

    def _swiftly(self, move: Move, number: int) -> Move:
        """Carry a message of the swift node to its end at once."""
        if number != self.swift:
            return move
        state = move.state
        cluster, leader, node, wrong = self._ended(state.cluster, state.leader, state.nodes[number])
        after = _put(state._replace(cluster=cluster, leader=leader), number, node)
        return Move(move.label, after, move.wrong or wrong)

    def _swift_end(
        self, cluster: Replicated, leader: Leader, node: Node
    ) -> tuple[Replicated, Leader, Node, str]:
        """Return what the swift node's messages lead to; nothing else has a part in it."""
        number, wrong = self.swift, ""
        state = State(cluster, leader, (), (node, node), Budget())
        while True:
            node = state.nodes[number]
            if node.beat is not None:
                following = next(self._beat_moves(state, number, node), None)
            else:
                following = next(self._view_moves(state, number, node), None) if node.view else None
            if following is None:
                return state.cluster, state.leader, node, wrong
            state, wrong = following.state, wrong or following.wrong

    def _renewed(self, state: State) -> State:
        """Renew the swift node's lease, as it does every tick that it can."""
        if self.swift >= 0 and state.nodes[self.swift].mode == "up":
            node = state.nodes[self.swift]
            for move in self._beat_moves(state, self.swift, node._replace(due=True)):
                return move.state
        return state

    # -- the node: its worker --

    def _worker_moves(self, state: State, number: int, node: Node) -> Iterator[Move]:
        if node.start is not None:
            yield from self._start_moves(state, number, node, node.start)
            return
        authority = self._authority(node)
        granted = authority.granted(NOW_NS)
        process = node.process
        shown = (process.state, process.epoch, process.run) if process is not None else None
        step = self.rules.worker_step(number, node.run, shown, granted)
        after = self._believed(node, authority)
        if step in ("wait", "check", "rest") or (step == "end" and process is None):
            if after != node:
                yield Move(f"{NODES[number]} looks", _put(state, number, after))
            return
        wrong = "" if node.sound else f"{NODES[number]} acts on duties from before a lapse"
        if step == "launch":
            first = self.rules.start_step(None, fenced=True)
            after = after._replace(
                process=Process("paused", node.epoch, node.run, None),
                start=Start(first, node.epoch, node.run),
            )
        else:
            wrong = wrong or self._healthy(state, number, node)
            after = after._replace(process=None)
        label = f"{NODES[number]}: {step} (run {node.run})"
        yield Move(label, _put(state, number, after), wrong)

    def _healthy(self, state: State, number: int, node: Node) -> str:
        """Return why the process of a node must not be stopped."""
        process, place = node.process, state.cluster.instance
        if process is None or process.state != "running" or not state.cluster.members[number].ready:
            return ""
        wanted = (place.node, place.run, place.epoch) == (number, process.run, process.epoch)
        return f"{NODES[number]} stops what it should run" if wanted else ""

    def _start_moves(self, state: State, number: int, node: Node, start: Start) -> Iterator[Move]:
        uid = NODES[number]
        if start.step == "asked":
            allowed = self._authority(node).may_resume(
                allowed=start.allowed, epoch=start.epoch, now_ns=NOW_NS
            )
            answered = node._replace(start=start._replace(step="ask", allowed=allowed))
            yield Move(f"{uid} hears: start {allowed}", _put(state, number, answered))
            return
        step = self.rules.start_step(start.step, fenced=True, allowed=start.allowed)
        if step == "ask":
            refused = node._replace(start=start._replace(step="ask", allowed=False))
            yield Move(f"{uid} asks for the start in vain", _put(state, number, refused))
            if not node.cut and not state.leader.paused:
                allowed = self.rules.confirmed_start(state.cluster, number, start.run, start.epoch)
                asked = node._replace(start=start._replace(step="asked", allowed=allowed))
                yield Move(f"{uid} asks for the start", _put(state, number, asked))
            return
        process = node.process
        after = node._replace(start=None, process=None if step == "discard" else process)
        if step in ("arm", "resume") and process is not None and not self._dead(process):
            if step == "arm":
                deadline_ns = self.rules.armed(
                    _absolute_ns(process.deadline), (NOW + node.expires) * NS
                )
                armed = process._replace(deadline=deadline_ns // NS - NOW)
                after = node._replace(process=armed, start=start._replace(step="arm"))
            else:
                after = after._replace(process=process._replace(state="running"))
        yield Move(f"{uid}: {step} (run {start.run})", _put(state, number, after))

    def _dead(self, process: Process) -> bool:
        return bool(
            self.rules.why_dead(
                ended=process.state == "exited",
                deadline_ns=_absolute_ns(process.deadline),
                now_ns=NOW_NS,
            )
        )


def double_run(state: State) -> str:
    """Return a text if the instance runs twice on hosts that are not frozen."""
    running = [
        node.process is not None and node.process.state == "running" and node.mode != "frozen"
        for node in state.nodes
    ]
    return "the instance runs twice" if all(running) else ""


def _pair(values: Iterable[T]) -> tuple[T, T]:
    first, second = values
    return first, second


def _absolute_ns(deadline: int | None) -> int:
    return 0 if deadline is None else (NOW + deadline) * NS


def _exited(process: Process) -> Process:
    return process._replace(state="exited", deadline=None)


def _restarted(node: Node) -> Node:
    return node._replace(
        epoch=0, expires=0, fresh=False, outdated=False, view_epoch=-1, run=0, sound=False,
        beat=None, view=None, start=None,
    )  # fmt: skip


def _put(state: State, number: int, node: Node) -> State:
    nodes = (node, state.nodes[1]) if number == 0 else (state.nodes[0], node)
    return State(state.cluster, state.leader, state.log, nodes, state.budget)


def _spend(state: State, name: str) -> State:
    budget = state.budget
    return state._replace(budget=budget._replace(**{name: getattr(budget, name) - 1}))
