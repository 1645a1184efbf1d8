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


async def _chunks(
    subscription: Subscription, start: bytes, kind: Kind, wants: Wants, check: Check
) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    sent_at = checked_at = loop.time()
    try:
        yield start
        while True:
            try:
                until = min(checked_at + RECHECK_S, sent_at + HEARTBEAT_S)
                async with asyncio.timeout_at(until):
                    changes = await subscription.next()
            except TimeoutError:
                changes = []
            now = loop.time()
            if now - checked_at >= RECHECK_S:
                check()
                checked_at = now
            data = encode_changes(kind, wants, changes)
            if not data and now - sent_at >= HEARTBEAT_S:
                data = HEARTBEAT
            if data:
                sent_at = now
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
