"""Reads of one object and of lists: selectors, filters, limits; secrets left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from blixard.api.callers import require, require_within_reach
from blixard.api.documents import Place
from blixard.api.messages import Response, json_response
from blixard.api.standing import Call
from blixard.base.errors import BlixardError
from blixard.cluster.kind import Kind
from blixard.cluster.resources import API_VERSION, Resource
from blixard.security.principals import concerns

LIMIT_MAX = 10_000
TERMS_MAX = 16

Live = Callable[[Resource], dict[str, Any]]


class Term(msgspec.Struct, frozen=True):
    """One condition of a selector: ``key`` present, absent, equal or different."""

    key: str
    sign: str
    value: str = ""

    def holds(self, found: str | None) -> bool:
        """Tell whether a value (None: absent) fulfils the term."""
        if self.sign == "exists":
            return found is not None
        if self.sign == "absent":
            return found is None
        return (found == self.value) == (self.sign == "=")


def parse_selector(text: str) -> list[Term]:
    """Return the terms of ``a=b,c!=d,e,!f``. Raises BlixardError BAD_REQUEST."""
    terms = []
    for part in (p.strip() for p in text.split(",") if p.strip()):
        if "!=" in part:
            key, value = part.split("!=", 1)
            terms.append(Term(key.strip(), "!=", value.strip()))
        elif "=" in part:
            key, value = part.replace("==", "=", 1).split("=", 1)
            terms.append(Term(key.strip(), "=", value.strip()))
        elif part.startswith("!"):
            terms.append(Term(part[1:].strip(), "absent"))
        else:
            terms.append(Term(part, "exists"))
    if len(terms) > TERMS_MAX or any(not term.key for term in terms):
        raise BlixardError("BAD_REQUEST", f"{text[:200]!r} is no selector")
    return terms


def parse_count(text: str, name: str, most: int, default: int) -> int:
    """Return a bounded count of the query. Raises BlixardError BAD_REQUEST."""
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise BlixardError("BAD_REQUEST", f"{name} must be a number, not {text[:40]!r}")
    return min(int(text), most)


def alive(resource: Resource, live: Live) -> Resource:
    """Return the object with what this node knows beside its replicated status."""
    known = live(resource)
    if not known:
        return resource
    return msgspec.structs.replace(resource, status={**resource.status, **known})


def shown(kind: Kind, resource: Resource) -> Resource:
    """Return what readers see: secret fields are left out."""
    if not kind.secret_fields or not resource.spec:
        return resource
    spec = {k: v for k, v in resource.spec.items() if k not in kind.secret_fields}
    return msgspec.structs.replace(resource, spec=spec)


def get_one(call: Call, place: Place, live: Live) -> Response:
    """Return one object. Raises BlixardError NOT_FOUND."""
    require(call.principal, "get", place.kind.name, place.namespace)
    resource = find(call, place)
    headers = {"etag": f'"{resource.metadata.revision}"'}
    return json_response(alive(shown(place.kind, resource), live), headers=headers)


def find(call: Call, place: Place) -> Resource:
    """Return the object at *place*. Raises BlixardError NOT_FOUND, FORBIDDEN."""
    resource = call.cluster.store.get(place.kind.name, place.namespace, place.name)
    if resource is None:
        where = f" in namespace {place.namespace}" if place.namespace else ""
        raise BlixardError("NOT_FOUND", f"{place.kind.name} {place.name!r} does not exist{where}")
    require_within_reach(call.principal, resource)
    return resource


def get_list(call: Call, place: Place, live: Live) -> Response:
    """Return a page of a kind, sorted by namespace and name; ``continue`` names where to go on."""
    require(call.principal, "list", place.kind.name, place.namespace)
    query, store = call.request.query, call.cluster.store
    limit = parse_count(query.get("limit", ""), "limit", LIMIT_MAX, LIMIT_MAX)
    found = store.list(place.kind.name, place.namespace or None)
    found = [r for r in found if concerns(call.principal, r) and matches(query, r)]
    after = query.get("continue", "")
    if after:
        found = [r for r in found if _position(r) > after]
    page = found[:limit]
    answer: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": f"{place.kind.name}List",
        "revision": store.revision,
        "items": [alive(shown(place.kind, r), live) for r in page],
    }
    if page and len(found) > len(page):
        answer["continue"] = _position(page[-1])
        answer["remaining"] = len(found) - len(page)
    return json_response(answer)


def matches(query: dict[str, str], resource: Resource) -> bool:
    """Tell whether an object fits ``labelSelector`` and ``fieldSelector`` (``filter``)."""
    labels, fields = query.get("labelSelector"), query.get("fieldSelector") or query.get("filter")
    if labels:
        have = resource.metadata.labels
        if not all(term.holds(have.get(term.key)) for term in parse_selector(labels)):
            return False
    if fields:
        return all(t.holds(_field(resource, t.key)) for t in parse_selector(fields))
    return True


def _position(resource: Resource) -> str:
    return f"{resource.metadata.namespace}\x1f{resource.metadata.name}"


def _field(resource: Resource, path: str) -> str | None:
    """Return the text at a dotted path; a path without a root is looked up in the spec."""
    root, *rest = path.split(".")
    if root in {"spec", "status"}:
        value: Any = resource.spec if root == "spec" else resource.status
    elif root == "metadata":
        value = msgspec.to_builtins(resource.metadata)
    else:
        value, rest = resource.spec, [root, *rest]
    for part in rest:
        value = value.get(part) if isinstance(value, dict) else None
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)
