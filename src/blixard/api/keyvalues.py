"""The path-addressed view: small values under paths, kept as objects of kind KeyValue."""

from __future__ import annotations

import re
from typing import Any

from blixard.api.callers import require
from blixard.api.documents import Place, check_spec, invalid, parse_mapping
from blixard.api.messages import Response, json_response
from blixard.api.reading import LIMIT_MAX, find, parse_count
from blixard.api.standing import Call
from blixard.api.writing import Writer, expected_revision
from blixard.base.errors import Problem
from blixard.cluster.resources import Delete, Put, Resource

KIND = "KeyValue"


def view(resource: Resource) -> dict[str, Any]:
    """Return an entry as users of the view see it."""
    return {
        "key": resource.metadata.name,
        "value": resource.spec.get("value"),
        "revision": resource.metadata.revision,
        "updatedAtMs": resource.metadata.updated_at_ms,
    }


def get(call: Call, place: Place) -> Response:
    """Return one entry."""
    require(call.principal, "get", KIND)
    resource = find(call, place)
    return json_response(view(resource), headers={"etag": f'"{resource.metadata.revision}"'})


def list_entries(call: Call) -> Response:
    """Return the entries below ``prefix``, sorted by key."""
    require(call.principal, "list", KIND)
    query, store = call.request.query, call.cluster.store
    prefix, after = query.get("prefix", ""), query.get("continue", "")
    limit = parse_count(query.get("limit", ""), "limit", LIMIT_MAX, LIMIT_MAX)
    found = [
        r
        for r in store.list(KIND)
        if r.metadata.name.startswith(prefix) and r.metadata.name > after
    ]
    answer: dict[str, Any] = {
        "revision": store.revision,
        "items": [view(r) for r in found[:limit]],
    }
    if 0 < limit < len(found):
        answer["continue"] = found[limit - 1].metadata.name
    return json_response(answer)


async def put(call: Call, place: Place, writer: Writer) -> Response:
    """Set a value: ``{"value": TEXT}``."""
    body = parse_mapping(call.request.body)
    problems = check_spec(place.kind, body)
    if _misnamed(place):
        problems.append(Problem("/key", f"{place.name!r} is no key", (place.kind.name_pattern,)))
    if problems:
        raise invalid(problems)
    there = call.cluster.store.get(KIND, "", place.name)
    require(call.principal, "update" if there else "create", KIND)
    op = Put(
        kind=KIND,
        namespace="",
        name=place.name,
        spec=body,
        uid="" if there else writer.new_id(),
        expect=expected_revision(call.request),
    )
    _, outcome = await writer.change(call, (op,))
    revision = outcome.results[0].revision if outcome.results else outcome.revision
    answer = {"key": place.name, "value": body["value"], "revision": revision}
    return json_response(answer, status=200 if there else 201, headers={"etag": f'"{revision}"'})


async def delete(call: Call, place: Place, writer: Writer) -> Response:
    """Remove an entry."""
    require(call.principal, "delete", KIND)
    expect = expected_revision(call.request)
    op = Delete(kind=KIND, namespace="", name=place.name, expect=expect)
    _, outcome = await writer.change(call, (op,))
    return json_response({"deleted": place.name, "revision": outcome.revision})


def _misnamed(place: Place) -> bool:
    return len(place.name) > 512 or not re.fullmatch(place.kind.name_pattern, place.name)
