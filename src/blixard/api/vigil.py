"""What ends a stream from outside: a credential that no longer counts, a client that left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

from blixard.base.errors import BlixardError

RECHECK_S = 1.0

SILENCE_MAX_S = 2.0  # after the lease's time, so that a change of leaders ends nothing

Check = Callable[[], None]


class Contact:
    """Ends what goes on at a node that has heard of no leader for too long."""

    def __init__(self, in_touch: Callable[[], bool], now_s: Callable[[], float]) -> None:
        self._in_touch = in_touch
        self._now_s = now_s
        self._heard_s = now_s()

    def check(self) -> None:
        """Look. Raises BlixardError NO_QUORUM."""
        now_s = self._now_s()
        if self._in_touch():
            self._heard_s = now_s
        elif now_s - self._heard_s > SILENCE_MAX_S:
            raise BlixardError(
                "NO_QUORUM", "this node has lost the leader and cannot tell what is still allowed"
            )


class Presence:
    """Whether the client of a connection is there; streams end when it leaves."""

    def __init__(self) -> None:
        self.gone = False
        self._limits: list[asyncio.Timeout] = []

    def leave(self) -> None:
        """End what is under way."""
        self.gone = True
        for limit in self._limits:
            limit.reschedule(asyncio.get_running_loop().time())

    @contextlib.contextmanager
    def ends(self, limit: asyncio.Timeout) -> Iterator[None]:
        """Let *limit* pass when the client leaves."""
        self._limits.append(limit)
        try:
            yield
        finally:
            self._limits.remove(limit)


async def while_present(presence: Presence, work: Awaitable[None]) -> None:
    """Await *work*. Raises ConnectionError as soon as the client left."""
    try:
        async with asyncio.timeout(None) as limit:
            with presence.ends(limit):
                await work
    except TimeoutError as error:
        if presence.gone:
            raise ConnectionError("the client left") from error
        raise


async def while_allowed(check: Check, work: Awaitable[None]) -> None:
    """Await *work*, and *check* every ``RECHECK_S``; what it raises ends the work.

    Raises:
        BlixardError: the check's.
    """
    loop = asyncio.get_running_loop()
    refusals: list[BlixardError] = []
    timer: asyncio.TimerHandle | None = None

    def look() -> None:
        nonlocal timer
        try:
            check()
        except BlixardError as error:
            refusals.append(error)
            limit.reschedule(loop.time())
            return
        timer = loop.call_later(RECHECK_S, look)

    timer = loop.call_later(RECHECK_S, look)
    try:
        async with asyncio.timeout(None) as limit:
            await work
    except TimeoutError:
        if refusals:
            raise refusals[0] from None
        raise
    finally:
        timer.cancel()
