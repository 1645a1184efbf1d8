"""Watches as server-sent events: resume from a revision, heartbeats, ended when too slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec

from blixard.api.callers import require
from blixard.api.documents import Place
from blixard.api.messages import EVENT_STREAM, Response
from blixard.api.reading import matches, parse_count, shown
from blixard.api.standing import Call
from blixard.api.vigil import RECHECK_S, Check
from blixard.base.errors import BlixardError, to_body
from blixard.cluster.kind import Kind
from blixard.cluster.watch import Change, Subscription
from blixard.security.principals import concerns

HEARTBEAT_S = 10.0
HEARTBEAT = b": here\n\n"
_ENCODER = msgspec.json.Encoder()

Wants = Callable[[Change], bool]


def sse_event(event: str, data: str, *, event_id: str = "") -> bytes:
    """Return one event; every line break inside *data* begins a new data line."""
    assert "\n" not in event + event_id
    assert "\r" not in event + event_id
    lines = [f"id: {event_id}"] if event_id else []
    lines.append(f"event: {event}")
    normal = data.replace("\r\n", "\n").replace("\r", "\n")
    lines += [f"data: {line}" for line in normal.split("\n")]
    return ("\n".join(lines) + "\n\n").encode()


def watch(call: Call, place: Place, check: Check) -> Response:
    """Follow a kind or one object from a revision; without one, begin with what is there.

    What *check* raises ends it: it is asked at least every ``RECHECK_S``, before anything is sent.

    Raises:
        BlixardError: REVISION_COMPACTED, OVERLOADED, BAD_REQUEST.
    """
    require(call.principal, "watch", place.kind.name, place.namespace)
    request = call.request
    text = request.headers.get("last-event-id") or request.query.get("revision", "")
    first: list[Change] = []
    if text:
        revision = _known(call, parse_count(text, "revision", 1 << 62, 0))
    else:
        store = call.cluster.store
        revision = store.revision
        found = store.list(place.kind.name, place.namespace or None)
        first = [Change(r.metadata.revision, "ADDED", r) for r in found]
    subscription = call.cluster.subscribe(revision, (place.kind.name,), place.namespace or None)
    wants = _wanted(call, place)
    head = [_event(place.kind, change, "") for change in first if wants(change)]
    start = b"".join([f": from {revision}\n\n".encode(), *head])
    chunks = _chunks(subscription, start, place.kind, wants, check)
    return Response(content_type=EVENT_STREAM, headers={"cache-control": "no-store"}, chunks=chunks)


def _known(call: Call, revision: int) -> int:
    """Return a revision to go on from; one that was never reached is of another history.

    Only a stale watch may wait for it: its node can be behind what the caller saw elsewhere.
    """
    now = call.cluster.store.revision
    if revision > now and not call.request.flag("stale"):
        message = f"revision {revision} was never reached, the state is at {now}: list again"
        raise BlixardError("REVISION_COMPACTED", message)
    return revision


def _wanted(call: Call, place: Place) -> Wants:
    """Return what tells which changes the caller asked for and may see."""
    names = {"labelSelector", "fieldSelector", "filter"}
    wanted = {k: v for k, v in call.request.query.items() if k in names}

    def wants(change: Change) -> bool:
        resource = change.resource
        if place.name and resource.metadata.name != place.name:
            return False
        if not concerns(call.principal, resource):
            return False
        return not wanted or change.type == "DELETED" or matches(wanted, resource)

    return wants


class Pulse:
    """When a quiet watch asks again whether it may go on, and when it says that it is here.

    Moments, not what has passed since the last one: the difference of two moments can be rounded
    to less than what was added, and a watch that waits for such a moment would find that nothing
    is due, and wait for a moment that is past, again and again.
    """

    def __init__(self, now_s: float) -> None:
        self._check_s = now_s + RECHECK_S
        self._beat_s = now_s + HEARTBEAT_S

    @property
    def next_s(self) -> float:
        """The moment at which one of the two is due."""
        return min(self._check_s, self._beat_s)

    def checks(self, now_s: float) -> bool:
        """Tell whether to ask; the next time is then counted from now."""
        due = now_s >= self._check_s
        if due:
            self._check_s = now_s + RECHECK_S
        return due

    def beats(self, now_s: float) -> bool:
        """Tell whether to say so."""
        return now_s >= self._beat_s

    def sent(self, now_s: float) -> None:
        """Count the next heartbeat from now: something was sent."""
        self._beat_s = now_s + HEARTBEAT_S


async def _chunks(
    subscription: Subscription, start: bytes, kind: Kind, wants: Wants, check: Check
) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    pulse = Pulse(loop.time())
    try:
        yield start
        while True:
            try:
                async with asyncio.timeout_at(pulse.next_s):
                    changes = await subscription.next()
            except TimeoutError:
                changes = []
            now = loop.time()
            if pulse.checks(now):
                check()
            data = encode_changes(kind, wants, changes)
            if not data and pulse.beats(now):
                data = HEARTBEAT
            if data:
                pulse.sent(now)
                yield data
    except BlixardError as error:
        yield sse_event("error", _ENCODER.encode(to_body(error)).decode())
    finally:
        subscription.close()


def encode_changes(kind: Kind, wants: Wants, changes: list[Change]) -> bytes:
    """Return the events of a batch; only the last of one revision carries the id to resume from."""
    kept = [change for change in changes if wants(change)]
    parts = []
    for number, change in enumerate(kept):
        last = number + 1 == len(kept) or kept[number + 1].revision != change.revision
        parts.append(_event(kind, change, str(change.revision) if last else ""))
    return b"".join(parts)


def _event(kind: Kind, change: Change, event_id: str) -> bytes:
    body = {
        "type": change.type.lower(),
        "revision": change.revision,
        "object": shown(kind, change.resource),
    }
    return sse_event(change.type.lower(), _ENCODER.encode(body).decode(), event_id=event_id)
