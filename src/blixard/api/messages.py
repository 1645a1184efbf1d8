"""Requests and answers as values: from HTTP, from another node or from a simulated client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import msgspec

from blixard.base.errors import BlixardError, to_body
from blixard.security.identity import PeerCertificate
from blixard.security.principals import Principal

JSON = "application/json"
PROBLEM = "application/problem+json"
EVENT_STREAM = "text/event-stream"
FRAMES = "application/vnd.blixard.frames"


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """What the connection proved, not yet judged against the replicated state.

    ``principal`` is set where no state is needed (a local socket); ``api_key`` is the text given.
    ``forwarded_by`` is the uid of the node that passed the request on: the ``principal`` is then
    no more than what that node says of a user of its own socket.
    """

    principal: Principal | None = None
    certificate: PeerCertificate | None = None
    certificate_der: bytes = b""
    api_key: str = ""
    forwarded_by: str = ""

    def __repr__(self) -> str:
        return f"Caller(principal={self.principal!r}, certificate={self.certificate!r})"


class Request(msgspec.Struct, kw_only=True):
    """One request. ``path`` is percent-decoded, header names are lower case.

    ``deadline_s`` is what remains when it is handed over; 0 means: from the header, or the default.
    ``forwarded`` requests are answered where they arrive and never sent on.
    """

    method: str
    path: str
    query: dict[str, str] = {}
    headers: dict[str, str] = {}
    body: bytes = b""
    caller: Caller = Caller()
    deadline_s: float = 0.0
    request_id: str = ""
    forwarded: bool = False

    def flag(self, name: str) -> bool:
        """Tell whether a query parameter is switched on."""
        return self.query.get(name, "") in {"true", "1", "yes"}


class Response(msgspec.Struct, kw_only=True):
    """One answer: a whole body, or ``chunks`` that go on until the client leaves."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: dict[str, str] = {}
    chunks: AsyncIterator[bytes] | None = None


class WireResponse(msgspec.Struct, frozen=True, array_like=True):
    """A whole answer between nodes."""

    status: int
    body: bytes
    content_type: str
    headers: dict[str, str]


class LocalUser(msgspec.Struct, frozen=True, array_like=True):
    """What a node says of a user of its local socket."""

    kind: Literal["root", "user"]
    name: str
    role: str = ""


class WireRequest(msgspec.Struct, frozen=True, array_like=True):
    """A request between nodes: the caller's own credential, never what a node made of it."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    deadline_s: float
    request_id: str
    certificate_der: bytes = b""
    api_key: str = ""
    local: LocalUser | None = None


CheckCertificate = Callable[[bytes], PeerCertificate]

_REQUEST = msgspec.msgpack.Decoder(WireRequest)
_RESPONSE = msgspec.msgpack.Decoder(WireResponse)
_ENCODER = msgspec.json.Encoder()


def encode_request(request: Request, *, remaining_s: float) -> bytes:
    """Return the bytes that hand *request* to another node."""
    caller = request.caller
    said = caller.principal
    local = None
    if said is not None and said.kind in ("root", "user"):
        local = LocalUser(said.kind, said.name, said.role)
    return msgspec.msgpack.encode(
        WireRequest(
            method=request.method,
            path=request.path,
            query=request.query,
            headers=request.headers,
            body=request.body,
            deadline_s=remaining_s,
            request_id=request.request_id,
            certificate_der=caller.certificate_der,
            api_key=caller.api_key,
            local=local,
        )
    )


def decode_request(data: bytes, peer: str, check: CheckCertificate) -> Request:
    """Return a request that the node *peer* passed on.

    Raises:
        BlixardError: BAD_REQUEST; UNAUTHENTICATED if *check* refuses the caller's certificate.
    """
    try:
        wire = _REQUEST.decode(data)
    except msgspec.DecodeError as error:
        raise BlixardError("BAD_REQUEST", f"not a forwarded request: {error}") from error
    local = wire.local
    caller = Caller(
        principal=Principal(kind=local.kind, name=local.name, role=local.role) if local else None,
        certificate=check(wire.certificate_der) if wire.certificate_der else None,
        certificate_der=wire.certificate_der,
        api_key=wire.api_key,
        forwarded_by=peer,
    )
    return Request(
        method=wire.method,
        path=wire.path,
        query=wire.query,
        headers=wire.headers,
        body=wire.body,
        caller=caller,
        deadline_s=wire.deadline_s,
        request_id=wire.request_id,
        forwarded=True,
    )


def encode_response(response: Response) -> bytes:
    """Return the bytes of a whole answer."""
    assert response.chunks is None, "streams travel as streams"
    return msgspec.msgpack.encode(
        WireResponse(response.status, response.body, response.content_type, response.headers)
    )


def decode_response(data: bytes) -> Response:
    """Return an answer from another node."""
    wire = _RESPONSE.decode(data)
    return Response(
        status=wire.status, body=wire.body, content_type=wire.content_type, headers=wire.headers
    )


def json_response(
    value: Any, *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Return *value* as JSON."""
    return Response(status=status, body=_ENCODER.encode(value), headers=headers or {})


def problem_response(error: BlixardError, *, request_id: str = "", node: str = "") -> Response:
    """Return *error* as a problem document."""
    headers = {"retry-after": "1"} if error.info.http_status == 429 else {}
    return Response(
        status=error.info.http_status,
        body=_ENCODER.encode(to_body(error, request_id=request_id, node=node)),
        content_type=PROBLEM,
        headers=headers,
    )
