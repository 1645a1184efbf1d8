"""One state for all that cannot be told apart by anything that happens later.

- An answer to a heartbeat that changes nothing when it is heard is as good as lost: a refusal that
  names no newer epoch, and a grant whose lease was over before it arrived.
- That a view asked for earlier must not be believed says nothing while none is on its way: the next
  question takes it back.
- A view of an older epoch than the node's is never believed again, whichever epoch it was.
- An answer that was heard only has its effect left: which epoch asked is of the past.
"""

from __future__ import annotations

import functools

from blixard.simulation.explore.model import Model
from blixard.simulation.explore.rules import LEASE
from blixard.simulation.explore.state import Node, State

_NEVER = -1
_LEASE_TICKS = int(LEASE.lease_s)


class Canon:
    """Answers for one model; what it says of a node is worked out once."""

    def __init__(self, model: Model) -> None:
        self._heard = model.messages.heard
        self._known = functools.cache(self._of)

    def of(self, state: State) -> State:
        """Return the one state that stands for *state* and its like."""
        first, second = state.nodes
        nodes = self._known(first), self._known(second)
        if nodes[0] is first and nodes[1] is second:
            return state
        return State(state.cluster, state.leader, state.log, nodes, state.budget)

    def _of(self, node: Node) -> Node:
        beat = node.beat
        if beat is not None:
            if beat.stage == "reply":
                over = not beat.granted or beat.sent <= -_LEASE_TICKS
                if over and self._heard(node, beat) == node._replace(beat=None):
                    node = node._replace(beat=None)
            elif beat.stage != "confirmed" and beat.epoch:
                node = node._replace(beat=beat._replace(epoch=0))
        if node.outdated and node.view is None:
            node = node._replace(outdated=False)
        if _NEVER < node.view_epoch < node.epoch:
            node = node._replace(view_epoch=_NEVER)
        return node
