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
from collections.abc import Iterator

from blixard.simulation.explore.host import HostMoves
from blixard.simulation.explore.leader import LeaderMoves
from blixard.simulation.explore.leases import Leases
from blixard.simulation.explore.messages import Messages
from blixard.simulation.explore.rules import Rules
from blixard.simulation.explore.state import Move, Node, State, pair
from blixard.simulation.explore.worker import WorkerMoves


class Model:
    """All moves; ``timely``: time waits for every message, unless the leader is paused.

    ``swift`` names a node whose heartbeats and views take no time (-1: none), which keeps the
    product of both nodes' messages small where the other one is what matters.
    """

    def __init__(self, rules: Rules, *, timely: bool = False, swift: int = -1) -> None:
        self._rules = rules
        self._timely = timely
        leases = Leases(rules)
        self._waits_ticks, self._overdue = leases.waits_ticks, leases.overdue
        self._leader = LeaderMoves(leases, timely=timely)
        self.messages = Messages(leases, self._leader, timely=timely, swift=swift)
        self._worker = WorkerMoves(leases)
        self._host = HostMoves(leases)
        # Parts of a state recur far more often than states: what follows is worked out once.
        self._aged = functools.cache(self._older)

    def moves(self, state: State) -> Iterator[Move]:
        """Yield everything that may happen next."""
        if self._may_tick(state):
            yield Move("time passes", self.messages.renewed(self._ticked(state)))
        yield from self._leader.moves(state)
        for number, node in enumerate(state.nodes):
            yield from self._host.guard(state, number, node)
            if node.mode == "up":
                yield from self.messages.beats(state, number, node)
                yield from self.messages.views(state, number, node)
                yield from self._worker.moves(state, number, node)
            elif node.beat is not None and node.beat.stage == "confirmed":
                yield from self._leader.answers(state, number, node, node.beat)
            yield from self._host.faults(state, number, node)
        yield from self._leader.faults(state)

    def _may_tick(self, state: State) -> bool:
        for node in state.nodes:
            if node.mode != "frozen" and self._overdue(node.process):
                return False
        leader = state.leader
        if not self._timely or leader.paused:
            return True
        busy = any(n.due or n.beat is not None for n in state.nodes)
        return not busy and leader.looked == 0 and leader.waits < 0 and not state.log

    def _ticked(self, state: State) -> State:
        leader = state.leader
        heard = pair(max(-self._waits_ticks, t - 1) for t in leader.heard)
        return state._replace(
            leader=leader._replace(
                # Elsewhere it looks all the time: a gap only makes it wait longer.
                heard=heard,
                looked=max(-2, leader.looked - 1) if self._timely else 0,
            ),
            nodes=(self._aged(state.nodes[0]), self._aged(state.nodes[1])),
        )

    def _older(self, node: Node) -> Node:
        expires = max(0, node.expires - 1)
        process, beat, view = node.process, node.beat, node.view
        if process is not None and process.deadline is not None:
            process = process._replace(deadline=max(-1, process.deadline - 1))
        if beat is not None:
            beat = beat._replace(sent=max(-int(self._rules.config.lease_s), beat.sent - 1))
        if view is not None and not expires:
            view = view._replace(sound=False)
        return node._replace(
            expires=expires, process=process, beat=beat, view=view, due=self._timely,
            sound=node.sound and expires > 0,
        )  # fmt: skip
