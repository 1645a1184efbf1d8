"""To which node a call goes: an idle instance here, one elsewhere, a start here, one elsewhere.

Pure. What is known of other nodes is what they said a moment ago, less what was sent there since;
a node that has neither refuses, and says what it has.
"""

from __future__ import annotations

import msgspec

from blixard.functions.figures import Figures

REDIRECTS_MAX = 2  # nodes that may refuse a call before it waits somewhere
STALE_S = 5.0


class Summary(msgspec.Struct, frozen=True, array_like=True):
    """What a node says of its functions, to every voter, now and then."""

    functions: tuple[Figures, ...]


class Known(msgspec.Struct):
    """A function on another node."""

    figures: Figures
    heard_s: float
    idle: int
    room: int
    waiting: int


class Choice(msgspec.Struct, frozen=True):
    """The node to ask; ``patient``: nobody has capacity, so the call waits there."""

    node: str
    patient: bool


class Book:
    """The functions of all other nodes, as this gateway knows them."""

    def __init__(self, own_uid: str) -> None:
        self._own_uid = own_uid
        self._known: dict[str, dict[str, Known]] = {}  # by function uid, by node uid

    def heard(self, node: str, summary: Summary, now_s: float) -> None:
        """Take what a node says; functions that it names no more are gone from it."""
        named = {figures.uid for figures in summary.functions}
        for uid in [u for u, nodes in self._known.items() if node in nodes and u not in named]:
            self._forget(uid, node)
        for figures in summary.functions:
            nodes = self._known.setdefault(figures.uid, {})
            nodes[node] = Known(figures, now_s, figures.idle, figures.room, figures.waiting)

    def _forget(self, uid: str, node: str) -> None:
        del self._known[uid][node]
        if not self._known[uid]:
            del self._known[uid]

    def sent(self, function: str, node: str) -> None:
        """A call is under way to a node: what it takes there is given to no other."""
        known = self._known.get(function, {}).get(node)
        if known is None:
            return
        if known.idle > 0:
            known.idle -= 1
        elif known.room > 0:
            known.room -= 1
        else:
            known.waiting += 1

    def answered(self, function: str, node: str) -> None:
        """A call has come back: its instance is idle there."""
        known = self._known.get(function, {}).get(node)
        if known is not None:
            known.idle += 1

    def refused(self, function: str, node: str) -> None:
        """A node has nothing for a call that does not wait."""
        known = self._known.get(function, {}).get(node)
        if known is not None:
            known.idle = known.room = 0

    def of(self, function: str, now_s: float) -> dict[str, Known]:
        """Return the nodes of which something was heard lately, in order of uid."""
        found = self._known.get(function, {})
        return {uid: found[uid] for uid in sorted(found) if found[uid].heard_s + STALE_S > now_s}

    def choose(
        self, function: str, local: Figures | None, *, now_s: float, asked: tuple[str, ...] = ()
    ) -> Choice | None:
        """Return the node to ask, None if no other is known to serve the function.

        *local* is this node's own line, None where it serves none of it; nodes *asked* already are
        only waited at.
        """
        own, others = self._own_uid, self.of(function, now_s)
        if len(asked) >= REDIRECTS_MAX:
            return self._wait_at(local, others)
        fresh = {uid: known for uid, known in others.items() if uid not in asked}
        here = local if local is not None and own not in asked else None
        if here is not None and here.idle > 0:
            return Choice(own, patient=False)
        idle = max(fresh, key=lambda uid: fresh[uid].idle, default="")
        if idle and fresh[idle].idle > 0:
            return Choice(idle, patient=False)
        if here is not None and here.starting + here.room > here.waiting:
            return Choice(own, patient=False)
        roomy = max(fresh, key=lambda uid: fresh[uid].room, default="")
        if roomy and fresh[roomy].room > 0:
            return Choice(roomy, patient=False)
        return self._wait_at(local, others)

    def _wait_at(self, local: Figures | None, others: dict[str, Known]) -> Choice | None:
        """Wait where least wait for what is there; here, if that is the same."""

        def line(waiting: int, figures: Figures) -> float:
            return waiting / max(1, figures.idle + figures.busy + figures.starting + figures.room)

        lines = {
            uid: (not known.figures.built, line(known.waiting, known.figures))
            for uid, known in others.items()
        }
        if local is not None:
            lines = {self._own_uid: (not local.built, line(local.waiting, local)), **lines}
        best = min(lines, key=lambda uid: lines[uid], default="")
        return Choice(best, patient=True) if best else None
