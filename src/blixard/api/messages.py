"""Requests and answers as values: from HTTP, from another node or from a simulated client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

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
    """

    principal: Principal | None = None
    certificate: PeerCertificate | None = None
    api_key: str = ""

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


_REQUEST = msgspec.msgpack.Decoder(Request)
_RESPONSE = msgspec.msgpack.Decoder(WireResponse)
_ENCODER = msgspec.json.Encoder()


def encode_request(request: Request, *, remaining_s: float) -> bytes:
    """Return the bytes that hand *request* to another node."""
    sent = msgspec.structs.replace(request, deadline_s=remaining_s, forwarded=True)
    return msgspec.msgpack.encode(sent)


def decode_request(data: bytes) -> Request:
    """Return a request from another node. Raises BlixardError BAD_REQUEST."""
    try:
        return _REQUEST.decode(data)
    except msgspec.DecodeError as error:
        raise BlixardError("BAD_REQUEST", f"not a forwarded request: {error}") from error


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
    headers = {"retry-after": "1"} if error.code == "OVERLOADED" else {}
    return Response(
        status=error.info.http_status,
        body=_ENCODER.encode(to_body(error, request_id=request_id, node=node)),
        content_type=PROBLEM,
        headers=headers,
    )
