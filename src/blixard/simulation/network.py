"""The network between hosts: latency, loss, duplicates, reordering, partitions and clogs."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from blixard.simulation.loop import SimLoop
from blixard.simulation.process import Process
from blixard.simulation.trace import Trace

if TYPE_CHECKING:
    from blixard.simulation.transport import SimTransport

_MILLISECOND = 1_000_000
_FAR = 0.02  # of all messages take ten times as long

Frame = tuple[str, str, str, bytes]  # source, target, channel, payload


class LinkFaults(msgspec.Struct):
    """Probabilities per message and the one-way latency in milliseconds."""

    latency_min_ms: float = 0.2
    latency_mean_ms: float = 0.5
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_ms: float = 50.0


CALM = LinkFaults()


class Network:
    """Delivers between the transports of the processes that live now."""

    def __init__(self, loop: SimLoop, generator: random.Random, trace: Trace) -> None:
        self._loop = loop
        self._draw = generator.random
        self._trace = trace
        self.faults = LinkFaults()
        self._transports: dict[str, SimTransport] = {}
        self._blocked: dict[tuple[str, str], int] = {}
        self._clogged: dict[tuple[str, str], int] = {}
        self._lag_ns: dict[str, int] = {}
        self.recorded: deque[Frame] | None = None
        self._last: dict[tuple[str, str], int] = {}
        self.sent = self.lost = self.duplicated = self.reordered = 0
        # Told of everything sent: when, when it arrives (0: never), from, to, what.
        self.on_sent: Callable[[int, int, str, str, str], None] | None = None

    # who is there

    def attach(self, transport: SimTransport) -> None:
        """Let a new incarnation receive."""
        self._transports[transport.uid] = transport

    def detach(self, transport: SimTransport) -> None:
        """The incarnation is gone; what was on its way to it is dropped."""
        if self._transports.get(transport.uid) is transport:
            del self._transports[transport.uid]

    def target(self, uid: str) -> SimTransport | None:
        """Return the incarnation that receives now."""
        return self._transports.get(uid)

    # faults

    def block(self, source: str, target: str) -> None:
        """Cut one direction; cuts add up."""
        key = (source, target)
        self._blocked[key] = self._blocked.get(key, 0) + 1

    def unblock(self, source: str, target: str) -> None:
        """Take back one cut of one direction."""
        key = (source, target)
        left = self._blocked.get(key, 0) - 1
        if left > 0:
            self._blocked[key] = left
        else:
            self._blocked.pop(key, None)

    def clog(self, source: str, target: str, until_ns: int) -> None:
        """Hold everything on one direction back until a time."""
        self._clogged[(source, target)] = until_ns

    def lag(self, uid: str, milliseconds: float) -> None:
        """Add a fixed latency to all that a host sends and gets; 0 takes it back."""
        if milliseconds:
            self._lag_ns[uid] = int(milliseconds * _MILLISECOND)
        else:
            self._lag_ns.pop(uid, None)

    def reset(self, one: str, other: str) -> int:
        """Break the connection between two: nothing under way arrives. Returns how much that was.

        Requests go over connections of their own.
        """
        uids = (one, other)
        targets = [t.deliver for uid in uids if (t := self._transports.get(uid)) is not None]
        return self._loop.drop_pending(
            lambda handle: handle.callback in targets and handle.args[0] in uids
        )

    def replay(self, frame: Frame) -> None:
        """Deliver a message of before again, to whoever has the name now."""
        source, uid, channel, payload = frame
        target = self._transports.get(uid)
        if target is not None and (source, uid) not in self._blocked:
            self.duplicated += 1
            target.process.call_at_ns(
                self._loop.now_ns + _MILLISECOND, target.deliver, source, channel, payload
            )

    def heal(self) -> None:
        """Remove all cuts, clogs and disturbances."""
        self._lag_ns.clear()
        self.recorded = None
        self._blocked.clear()
        self._clogged.clear()
        self.faults = LinkFaults()

    def is_blocked(self, source: str, target: str) -> bool:
        """Tell whether one direction is cut."""
        return (source, target) in self._blocked

    # sending

    def message(self, source: SimTransport, uid: str, channel: str, payload: bytes) -> None:
        """Send one message that may be lost, doubled or overtaken."""
        target = self._transports.get(uid)
        key = (source.uid, uid)
        faults, draw = self.faults, self._draw
        self.sent += 1
        if target is None or key in self._blocked or (faults.loss and draw() < faults.loss):
            self.lost += 1
            if self.on_sent is not None:
                self._tell(0, key, channel)
            return
        if self.recorded is not None:
            self.recorded.append((source.uid, uid, channel, payload))
        copies = 1
        if faults.duplicate and draw() < faults.duplicate:
            copies = 2
            self.duplicated += 1
        process, args = target.process, (source.uid, channel, payload)
        for _ in range(copies):
            when_ns = self._arrival(key, faults.reorder)
            if self.on_sent is not None:
                self._tell(when_ns, key, channel)
            self._loop.schedule(when_ns, target.deliver, args, process.context, process)

    def call(
        self, source: str, uid: str, process: Process, callback: Callable[..., object], *args: Any
    ) -> bool:
        """Run *callback* in *process* after a latency, in order; False if the way is cut."""
        if (source, uid) in self._blocked or not process.alive:
            return False
        faults = self.faults
        if faults.loss and self._draw() < faults.loss / 4:
            return False
        when_ns = self._arrival((source, uid), 0.0)
        if self.on_sent is not None:
            self._tell(when_ns, (source, uid), getattr(callback, "__name__", "call"))
        self._loop.schedule(when_ns, callback, args, process.context, process)
        return True

    def _tell(self, when_ns: int, key: tuple[str, str], what: str) -> None:
        if self.on_sent is not None:
            self.on_sent(self._loop.now_ns, when_ns, *key, what)

    def _arrival(self, key: tuple[str, str], reorder: float) -> int:
        """Draw a time of arrival; without reordering not before the one sent last."""
        faults, draw = self.faults, self._draw
        mean = faults.latency_mean_ms * (0.5 + draw())
        if draw() < _FAR:
            mean *= 10
        when_ns = self._loop.now_ns + int((faults.latency_min_ms + mean) * _MILLISECOND)
        if self._lag_ns:
            when_ns += self._lag_ns.get(key[0], 0) + self._lag_ns.get(key[1], 0)
        if self._clogged and key in self._clogged:
            when_ns = max(when_ns, self._clogged[key])
        if reorder and draw() < reorder:
            self.reordered += 1
            return when_ns + int(faults.reorder_ms * draw() * _MILLISECOND)
        last_ns = self._last.get(key, 0)
        if when_ns < last_ns:
            return last_ns
        self._last[key] = when_ns
        return when_ns
