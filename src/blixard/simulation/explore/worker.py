"""The worker's moves on a node: it launches, asks for the start, resumes and ends."""

from __future__ import annotations

from collections.abc import Iterator

from blixard.simulation.explore.leases import NOW, NOW_NS, NS, Leases, absolute_ns
from blixard.simulation.explore.state import NODES, Move, Node, Process, Start, State, put


class WorkerMoves:
    """What the worker of a node does with the duties that the node believes."""

    def __init__(self, leases: Leases) -> None:
        self._rules = leases.rules
        self._authority, self._believed = leases.authority, leases.believed

    def moves(self, state: State, number: int, node: Node) -> Iterator[Move]:
        """Yield the next step of the worker, or that it looks."""
        if node.start is not None:
            yield from self._start_moves(state, number, node, node.start)
            return
        authority = self._authority(node)
        granted = authority.granted(NOW_NS)
        process = node.process
        shown = (process.state, process.epoch, process.run) if process is not None else None
        step = self._rules.worker_step(number, node.run, shown, granted)
        after = self._believed(node, authority)
        if step in ("wait", "check", "rest") or (step == "end" and process is None):
            if after != node:
                yield Move(f"{NODES[number]} looks", put(state, number, after))
            return
        wrong = "" if node.sound else f"{NODES[number]} acts on duties from before a lapse"
        if step == "launch":
            first = self._rules.start_step(None, fenced=True)
            after = after._replace(
                process=Process("paused", node.epoch, node.run, None),
                start=Start(first, node.epoch, node.run),
            )
        else:
            wrong = wrong or self._healthy(state, number, node)
            after = after._replace(process=None)
        label = f"{NODES[number]}: {step} (run {node.run})"
        yield Move(label, put(state, number, after), wrong)

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
            yield Move(f"{uid} hears: start {allowed}", put(state, number, answered))
            return
        step = self._rules.start_step(start.step, fenced=True, allowed=start.allowed)
        if step == "ask":
            refused = node._replace(start=start._replace(step="ask", allowed=False))
            yield Move(f"{uid} asks for the start in vain", put(state, number, refused))
            if not node.cut and not state.leader.paused:
                allowed = self._rules.confirmed_start(state.cluster, number, start.run, start.epoch)
                asked = node._replace(start=start._replace(step="asked", allowed=allowed))
                yield Move(f"{uid} asks for the start", put(state, number, asked))
            return
        process = node.process
        after = node._replace(start=None, process=None if step == "discard" else process)
        if step in ("arm", "resume") and process is not None and not self._dead(process):
            if step == "arm":
                deadline_ns = self._rules.armed(
                    absolute_ns(process.deadline), (NOW + node.expires) * NS
                )
                armed = process._replace(deadline=deadline_ns // NS - NOW)
                after = node._replace(process=armed, start=start._replace(step="arm"))
            else:
                after = after._replace(process=process._replace(state="running"))
        yield Move(f"{uid}: {step} (run {start.run})", put(state, number, after))

    def _dead(self, process: Process) -> bool:
        return bool(
            self._rules.why_dead(
                ended=process.state == "exited",
                deadline_ns=absolute_ns(process.deadline),
                now_ns=NOW_NS,
            )
        )
