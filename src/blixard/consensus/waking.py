"""After a long sleep a node serves only once a quorum has answered it anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from blixard.consensus.reads import Reads, Waiter


class Waking:
    """Whether the node slept, and the round that ends the doubt."""

    def __init__(self, reads: Reads, patience_s: float, woken: Callable[[], None]) -> None:
        self._reads = reads
        self._patience_s = patience_s
        self._woken = woken
        self._round: asyncio.Future[int] | None = None
        self.suspended = False

    def slept(self) -> None:
        """From now on nothing is served until a round begun later is answered."""
        self.suspended = True
        self._round = None

    def tick(self, now: float) -> None:
        """Ask a quorum, again if an earlier round came to nothing."""
        if not self.suspended or (self._round is not None and not self._round.done()):
            return
        self._round = asyncio.get_running_loop().create_future()
        self._round.add_done_callback(self._answered)
        waiter = Waiter(self._round, now + self._patience_s, leader_only=False)
        self._reads.add(waiter, always=True)

    def _answered(self, asked: asyncio.Future[int]) -> None:
        confirmed = not asked.cancelled() and asked.exception() is None
        if confirmed and asked is self._round:
            self.suspended = False
            self._woken()
