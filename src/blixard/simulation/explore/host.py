"""What happens to a host and its daemon, and what its guard does about it."""

from __future__ import annotations

from collections.abc import Iterator

from blixard.simulation.explore.leases import Leases
from blixard.simulation.explore.state import (
    NODES,
    Move,
    Node,
    State,
    exited,
    put,
    restarted,
    spend,
)


class HostMoves:
    """The guard's kills, and pauses, freezes, restarts and cuts of either node."""

    def __init__(self, leases: Leases) -> None:
        self._overdue = leases.overdue

    def guard(self, state: State, number: int, node: Node) -> Iterator[Move]:
        """Yield the kill that is due."""
        process = node.process
        if node.mode != "frozen" and process is not None and self._overdue(process):
            killed = node._replace(process=exited(process))
            yield Move(f"the guard of {NODES[number]} kills", put(state, number, killed))

    def faults(self, state: State, number: int, node: Node) -> Iterator[Move]:
        """Yield what may befall a host, its daemon and its link, or end."""
        uid, budget = NODES[number], state.budget
        if node.mode == "up":
            for name, mode in (("pauses", "paused"), ("freezes", "frozen")):
                if getattr(budget, name):
                    spent = spend(state, name)
                    yield Move(f"{uid} is {mode}", put(spent, number, node._replace(mode=mode)))
            if budget.restarts:
                spent = spend(state, "restarts")
                yield Move(f"the daemon of {uid} restarts", put(spent, number, restarted(node)))
        else:
            process = node.process
            if node.mode == "frozen" and process is not None and self._overdue(process):
                process = exited(process)  # the guard is the first to run
            back = node._replace(mode="up", process=process)
            yield Move(f"{uid} goes on", put(state, number, back))
        if node.cut:
            yield Move(f"{uid} is reached again", put(state, number, node._replace(cut=False)))
        elif budget.cuts:
            spent = spend(state, "cuts")
            yield Move(f"{uid} is cut off", put(spent, number, node._replace(cut=True)))
