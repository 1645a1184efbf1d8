"""Memory and state of a guest from one QEMU to another, over a stream between two daemons.

Each QEMU has one end of a pair of sockets, its daemon the other: the process is sandboxed and opens
nothing itself. Frames on the stream begin with their kind, but those of the memory are nothing but
memory, for each copy of it takes time while the guest stands still: from the source, an empty frame
says that the next one is no memory.

    source                          target
    HELLO likeness        ->
                          <-        READY, or REFUSED with the reason (also at any time later)
    memory ...            ->        into QEMU
    MARK                  ->        (the CPUs have stopped; what was sent is in the target's QEMU)
                          <-        MARKED
    (the owner is switched)
    memory ..., END length, checksum  ->
                          <-        DONE, once QEMU says that it has a whole state

A stream that ends early never looks whole: QEMU's own format has an end, and END tells the length.
Until the switch the guest can go on at the source; QEMU stands still *before* it sends the state of
the devices (``pause-before-switchover``), also when the CPUs were stopped long before.

A QEMU that was running when it came to the switch-over would let its CPUs run again if it could not
write the rest, and it must not: once the owner is switched it holds both ends of the pair itself,
so that a daemon that dies leaves it writing to nobody, with its CPUs stopped.

Here stands what both ends share; ``departure.py`` is the source's end, ``arrival.py`` the target's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from typing import Any

from blixard.base.errors import BlixardError

HELLO, READY, REFUSED, MARK, MARKED, END, DONE = range(1, 8)
HELLO_S = 60.0  # both ends may have to read a root file system for its digest
STALL_S = 30.0
ASK_S = 1.0


def failure(message: str) -> BlixardError:
    """Return the error that moving a guest ends with."""
    return BlixardError("MIGRATION_FAILED", message)


@contextlib.contextmanager
def failing(doing: str) -> Iterator[None]:
    """Turn what connections and QEMU raise into the one error of a migration."""
    try:
        yield
    except TimeoutError as error:
        raise failure(f"{doing}: it took too long") from error
    except OSError as error:
        raise failure(f"{doing}: {error}") from error
    except BlixardError as error:
        if error.code == "MIGRATION_FAILED":
            raise
        raise failure(f"{doing}: {error.message}") from error


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await bounded work that must not be left half done; who is cancelled hears it afterwards.

    A handler of a stream is cancelled more than once when its caller hangs up.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled
