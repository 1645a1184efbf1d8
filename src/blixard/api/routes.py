"""From method and path to a route; pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from blixard.api.documents import Place
from blixard.api.messages import Request
from blixard.api.standing import SubResource
from blixard.base.errors import BlixardError
from blixard.cluster.kind import Kind, KindTable

PATH_MAX = 2048
DEFAULT_NAMESPACE = "default"

Action = Literal[
    "get",
    "list",
    "watch",
    "put",
    "create",
    "delete",
    "apply",
    "sub",
    "kv-get",
    "kv-list",
    "kv-put",
    "kv-delete",
    "cluster",
    "add-node",
    "create-key",
    "delete-key",
    "join",
    "version",
    "openapi",
]
LEADER: frozenset[str] = frozenset(
    {
        "put",
        "create",
        "delete",
        "apply",
        "kv-put",
        "kv-delete",
        "add-node",
        "create-key",
        "delete-key",
    }
)
HERE: frozenset[str] = frozenset({"join", "version", "openapi"})
_KV: dict[str, Action] = {"GET": "kv-get", "PUT": "kv-put", "DELETE": "kv-delete"}
_MANY: dict[str, Action] = {"GET": "list", "POST": "create"}
_ONE: dict[str, Action] = {"GET": "get", "PUT": "put", "DELETE": "delete"}
_FIXED: dict[tuple[str, ...], dict[str, Action]] = {
    ("openapi.json",): {"GET": "openapi"},
    ("v1", "apply"): {"POST": "apply"},
    ("v1", "cluster"): {"GET": "cluster"},
    ("v1", "cluster", "nodes"): {"POST": "add-node"},
    ("v1", "join"): {"POST": "join"},
    ("v1", "kv"): {"GET": "kv-list"},
    ("v1", "openapi.json"): {"GET": "openapi"},
    ("v1", "version"): {"GET": "version"},
}


class Route(msgspec.Struct, frozen=True):
    """What to do, where, and with which sub-resource."""

    action: Action
    place: Place | None = None
    sub: SubResource | None = None


class Routes:
    """The table of all paths."""

    def __init__(self, kinds: KindTable, sub_resources: tuple[SubResource, ...]) -> None:
        self._kinds = kinds
        self._subs = {(s.kind, s.name): s for s in sub_resources}
        assert len(self._subs) == len(sub_resources), "a sub-resource is registered twice"
        for sub in sub_resources:
            assert sub.kind in kinds.by_name, sub.kind
            assert (sub.unary is None) != (sub.stream is None), sub.name

    def find(self, request: Request) -> Route:
        """Return the route.

        Raises:
            BlixardError: NOT_FOUND, UNKNOWN_KIND, METHOD_NOT_ALLOWED, BAD_REQUEST.
        """
        if len(request.path) > PATH_MAX:
            raise BlixardError("BAD_REQUEST", f"the path is longer than {PATH_MAX} characters")
        parts = tuple(request.path.strip("/").split("/"))
        fixed = _FIXED.get(parts)
        if fixed is not None:
            return Route(_action(fixed, request.method))
        if parts[0] != "v1" or len(parts) < 2:
            raise BlixardError("NOT_FOUND", f"there is no path {request.path!r}")
        if parts[1] == "kv":
            place = Place(self._kind("KeyValue"), "", "/".join(parts[2:]))
            return Route(_action(_KV, request.method), place)
        if parts[1] == "namespaces" and len(parts) > 3:
            return self._object(request, parts[2], parts[3:])
        return self._object(request, "", parts[1:])

    def _object(self, request: Request, namespace: str, parts: tuple[str, ...]) -> Route:
        kind = self._kind(parts[0])
        if namespace and not kind.namespaced:
            raise BlixardError("NOT_FOUND", f"{kind.plural} are in no namespace")
        if len(parts) > 1 and kind.namespaced and not namespace:
            namespace = DEFAULT_NAMESPACE
        if len(parts) == 1:
            if request.method == "POST" and kind.namespaced and not namespace:
                namespace = DEFAULT_NAMESPACE
            return _many(request, Place(kind, namespace))
        if kind.name == "KeyValue":
            return Route(_action(_ONE, request.method), Place(kind, "", "/".join(parts[1:])))
        if len(parts) == 2:
            return _one(request, Place(kind, namespace, parts[1]))
        if len(parts) == 3:
            sub = self._subs.get((kind.name, parts[2]))
            if sub is not None and sub.stream is None and request.method != sub.method:
                raise BlixardError("METHOD_NOT_ALLOWED", f"{sub.name} takes {sub.method}")
            if sub is not None:
                return Route("sub", Place(kind, namespace, parts[1]), sub)
        raise BlixardError("NOT_FOUND", f"{kind.plural} have no {'/'.join(parts[2:])!r}")

    def _kind(self, text: str) -> Kind:
        kind = self._kinds.find(text)
        if kind is None:
            raise BlixardError("UNKNOWN_KIND", f"there is no kind {text!r}")
        return kind


def _many(request: Request, place: Place) -> Route:
    if request.method == "GET" and request.flag("watch"):
        return Route("watch", place)
    action = _action(_MANY, request.method)
    if action == "create" and place.kind.name == "ApiKey":
        return Route("create-key", place)
    if action == "create" and place.kind.name == "JoinToken":
        return Route("add-node", place)
    return Route(action, place)


def _one(request: Request, place: Place) -> Route:
    if request.method == "GET" and request.flag("watch"):
        return Route("watch", place)
    action = _action(_ONE, request.method)
    if action == "delete" and place.kind.name == "ApiKey":
        return Route("delete-key", place)
    return Route(action, place)


def _action(table: dict[str, Action], method: str) -> Action:
    action = table.get("GET" if method == "HEAD" else method)
    if action is None:
        raise BlixardError("METHOD_NOT_ALLOWED", f"{method} is not among {', '.join(table)}")
    return action
