"""What the API needs to know about its node: its copy of the state, and who may lead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

import msgspec

from blixard.api.messages import Request
from blixard.base.errors import BlixardError
from blixard.cluster.facade import Cluster
from blixard.cluster.resources import Resource
from blixard.ports.transport import Stream
from blixard.security.principals import Principal


class Standing(Protocol):
    """A node's place in the cluster, as it is now."""

    @property
    def own_uid(self) -> str:
        """The node's uid."""

    def replica(self) -> Cluster | None:
        """Return this node's copy of the state; None on a node that holds no log."""

    def leads(self) -> bool:
        """Tell whether this node may propose."""

    def votes(self, uid: str) -> bool:
        """Tell whether the node of that uid votes; False where that is not known."""

    def in_touch(self) -> bool:
        """Tell whether a leader was heard from within the time of a lease."""

    def candidates(self) -> list[str]:
        """Return the uids of nodes to ask, the likely leader first."""


class Call(msgspec.Struct, kw_only=True):
    """One authorised request, where it is answered."""

    request: Request
    principal: Principal
    cluster: Cluster
    deadline: float

    def path_value(self, name: str) -> str:
        """Return a required query parameter. Raises BlixardError BAD_REQUEST."""
        value = self.request.query.get(name, "")
        if not value:
            raise BlixardError("BAD_REQUEST", f"the query parameter {name} is missing")
        return value


class SubCall(msgspec.Struct, kw_only=True):
    """A call of a sub-resource: the object as read linearizably, and the JSON body."""

    call: Call
    resource: Resource
    body: dict[str, Any]
    timeout_s: float
    dry_run: bool = False


UnaryHandler = Callable[[SubCall], Awaitable[Any]]
StreamingHandler = Callable[[SubCall, Stream], Awaitable[None]]


class SubResource(msgspec.Struct, frozen=True, kw_only=True):
    """``/v1/.../{plural}/{object}/{name}``: ``verb`` is the permission that it needs.

    ``unary`` returns a JSON value; ``stream`` talks in frames until either side ends. ``where``:
    on the leader, or on any voter after a linearizable read. ``at_end``: the frame that tells a
    stream on another node that the client has no more input. ``once``: it may do something twice
    if it is asked for twice, so a lost answer is not asked for again; ``recent``: the state of a
    moment ago does, while the node hears of a leader. ``raw``: the body is the handler's to read,
    up to ``body_max`` bytes (0: as for all); ``default_s``: its time if the client gives none.
    """

    kind: str
    name: str
    verb: str
    method: Literal["GET", "POST"] = "POST"
    unary: UnaryHandler | None = None
    stream: StreamingHandler | None = None
    at_end: bytes = b""
    where: Literal["leader", "voter"] = "voter"
    once: bool = False
    recent: bool = False
    raw: bool = False
    body_max: int = 0
    default_s: float = 0.0
