"""What a simulated guest has in mind, and how it is sent to another host.

Memory, CPU state and connections are functions of the guest's birth and of how long its CPUs have
run: nothing is worked out before somebody looks, and a guest that nobody moves costs nothing.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable

import msgspec

from blixard.ports.hypervisor import LaunchPlan
from blixard.ports.transport import Stream

PAGES = 64
PAGES_PER_FRAME = 16
CONNECTIONS = 4
ROUNDS_MAX = 4
FEW_PAGES = 8  # so many are sent while the CPUs stand still
FRAME_S = 0.05
SEND_S = 15.0  # the whole, with the switch
SYNC_S = 5.0
_BUSY_NS = 20_000_000  # the busiest page changes so often, the others seldom

Pages = dict[int, int]
Connection = tuple[str, str, int, int]  # own address, peer, bytes sent, bytes received


class GuestState(msgspec.Struct, frozen=True, kw_only=True):
    """All of a guest at one moment; ``pages`` by number, ``boots_in_ns`` until it is up."""

    birth: int
    ran_ns: int
    boots_in_ns: int
    pages: Pages
    cpu: int
    connections: tuple[Connection, ...]


class _Frame(msgspec.Struct, frozen=True, array_like=True):
    """A part of the memory, or, with ``rest``, all that is not memory and the end.

    ``sync``: the receiver is to say that it has what was sent so far.
    """

    pages: Pages
    rest: GuestState | None = None
    sync: bool = False


_SO_FAR, _HAVE_ALL = b"so far", b"have all"


def pages_at(birth: int, ran_ns: int) -> Pages:
    """Return the memory of a guest whose CPUs ran so long: some pages change often, some never."""
    return {n: _mix(birth, n, ran_ns // (_BUSY_NS << (n // 4))) for n in range(PAGES)}


def state_at(plan: LaunchPlan, birth: int, ran_ns: int, boots_in_ns: int) -> GuestState:
    """Return all of a guest; its connections are between its own address and its peers."""
    own = f"{plan.address} {plan.mac}"
    return GuestState(
        birth=birth,
        ran_ns=ran_ns,
        boots_in_ns=boots_in_ns,
        pages=pages_at(birth, ran_ns),
        cpu=_mix(birth, PAGES, ran_ns),
        connections=tuple(
            (own, f"peer-{n}", _mix(birth, n, 0) + ran_ns // (n + 1), ran_ns // (n + 7))
            for n in range(CONNECTIONS)
        ),
    )


def birth_of(plan: LaunchPlan, host: int, pid: int) -> int:
    """Return what distinguishes a guest that booted from every other one."""
    return zlib.crc32(f"{plan.instance_uid}/{plan.run}/{host}/{pid}".encode())


def _mix(birth: int, place: int, version: int) -> int:
    return zlib.crc32(b"%d/%d/%d" % (birth, place, version))


async def send(
    stream: Stream,
    *,
    live: bool,
    look: Callable[[], GuestState],
    stop: Callable[[], Awaitable[None]],
    go_on: Callable[[], None],
    switch: Callable[[], Awaitable[None]],
    pause: Callable[[float], Awaitable[None]],
) -> int:
    """Send a guest's state: rounds while it runs, the rest after *switch*; bytes that were sent.

    If it is not sent *live* it stops first, and goes on if that fails before the switch.

    Raises:
        ConnectionError, TimeoutError: the receiver is gone or silent; what *look* and *stop* raise.
    """
    sent_bytes, have = 0, {}

    async def pass_on(pages: Pages) -> None:
        nonlocal sent_bytes
        numbers = sorted(pages)
        for first in range(0, len(numbers), PAGES_PER_FRAME):
            part = {n: pages[n] for n in numbers[first : first + PAGES_PER_FRAME]}
            await pause(FRAME_S)
            frame = msgspec.msgpack.encode(_Frame(part))
            await stream.send(frame)
            sent_bytes += len(frame)
            have.update(part)

    if not live:
        await stop()
    try:
        for _ in range(ROUNDS_MAX):
            changed = _changed(look().pages, have)
            if len(changed) <= FEW_PAGES:
                break
            await pass_on(changed)
        await stream.send(msgspec.msgpack.encode(_Frame({}, sync=True)))
        async with asyncio.timeout(SYNC_S):
            await _said(stream, _SO_FAR)
        if live:
            await stop()
    except BaseException:
        go_on()
        raise
    await switch()
    state = look()
    await pass_on(_changed(state.pages, have))
    last = msgspec.msgpack.encode(_Frame({}, msgspec.structs.replace(state, pages={})))
    await stream.send(last)
    await _said(stream, _HAVE_ALL)
    return sent_bytes + len(last)


def _changed(pages: Pages, have: Pages) -> Pages:
    return {n: content for n, content in pages.items() if have.get(n) != content}


async def _said(stream: Stream, word: bytes) -> None:
    if await stream.receive() != word:
        raise ConnectionError("the receiver gave up")


async def receive(stream: Stream) -> GuestState:
    """Return what :func:`send` sent. Raises ConnectionError."""
    pages: Pages = {}
    while (data := await stream.receive()) is not None:
        frame = msgspec.msgpack.decode(data, type=_Frame)
        pages.update(frame.pages)
        if frame.sync:
            await stream.send(_SO_FAR)
        if frame.rest is not None:
            return msgspec.structs.replace(frame.rest, pages=pages)
    raise ConnectionError("the sender gave up")


async def acknowledge(stream: Stream) -> None:
    """Tell the sender that all is here."""
    await stream.send(_HAVE_ALL)
