"""HTTP/1.1 connections with the bounds that the server library lacks, and who is at the other end.

Bounded: bytes and time of the headers, connections in total and per address. A TLS peer's verified
certificate, or the credentials of a local socket's peer, go into the scope's state.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from blixard.api.messages import Caller
from blixard.api.vigil import Presence

HEADER_BYTES_MAX = 32 << 10
HEADER_S = 10.0
CONNECTIONS_MAX = 1_000
PER_ADDRESS_MAX = 256
_UCRED = struct.Struct("3i")
_END = b"connection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\n" + _END
_TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\n" + _END
_TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\n" + _END

FromCertificate = Callable[[bytes], Caller]
FromSocket = Callable[[int, int, tuple[int, ...]], Caller]


class Admission:
    """What the connections of one listener share: their number and how callers are known."""

    def __init__(self, from_certificate: FromCertificate, from_socket: FromSocket) -> None:
        self.from_certificate = from_certificate
        self.from_socket = from_socket
        self.total = 0
        self.per_address: Counter[str] = Counter()

    def admit(self, address: str) -> bool:
        """Count a connection; False if there are too many."""
        if self.total >= CONNECTIONS_MAX or (
            address and self.per_address[address] >= PER_ADDRESS_MAX
        ):
            return False
        self.total += 1
        self.per_address[address] += 1
        return True

    def leave(self, address: str) -> None:
        """Forget a connection."""
        self.total -= 1
        self.per_address[address] -= 1
        if not self.per_address[address]:
            del self.per_address[address]


class ApiProtocol(HttpToolsProtocol):
    """One connection."""

    admission: Admission

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._caller = Caller()
        self._presence = Presence()
        self._address = ""
        self._admitted = False
        self._header_bytes = 0
        self._in_headers = True
        self._header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit the connection and learn who is there."""
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        self._admitted = self.admission.admit(self._address)
        if not self._admitted:
            self._refuse(_TOO_MANY)
            return
        self._caller = caller_of(transport, self.admission)
        self._begin_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the streams and release what the connection held."""
        self._presence.leave()
        self._stop_timer()
        if self._admitted:
            self._admitted = False
            self.admission.leave(self._address)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count header bytes before the parser keeps them."""
        if self.transport.is_closing() or not self._admitted:
            return
        if self._in_headers:
            if self._header_timer is None:
                self._start_timer()
            self._header_bytes += len(data)
            if self._header_bytes > HEADER_BYTES_MAX and not _headers_end_early(data):
                self._refuse(_TOO_LARGE)
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Put the caller into the request's scope."""
        super().on_message_begin()
        self.scope["state"]["caller"] = self._caller
        self.scope["state"]["gone"] = self.transport.is_closing
        self.scope["state"]["presence"] = self._presence

    def on_headers_complete(self) -> None:
        """Stop counting: what follows is body."""
        self._in_headers = False
        self._header_bytes = 0
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Count again: what follows is the next request."""
        super().on_message_complete()
        self._in_headers = True
        self._header_bytes = 0

    def _begin_headers(self) -> None:
        self._in_headers = True
        self._start_timer()

    def _start_timer(self) -> None:
        self._stop_timer()
        self._header_timer = self.loop.call_later(HEADER_S, self._refuse, _TOO_LATE)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _refuse(self, answer: bytes) -> None:
        self._stop_timer()
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()


def _headers_end_early(data: bytes) -> bool:
    """Tell whether the headers end inside the first bytes of a piece that also holds body."""
    return data.find(b"\r\n\r\n", 0, HEADER_BYTES_MAX) >= 0


def caller_of(transport: asyncio.BaseTransport, admission: Admission) -> Caller:
    """Return what the connection proves about the other end."""
    tls = transport.get_extra_info("ssl_object")
    if tls is not None:
        certificate = tls.getpeercert(binary_form=True)
        return admission.from_certificate(certificate) if certificate else Caller()
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family == socket.AF_UNIX:
        pid, uid, gid = _UCRED.unpack(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        )
        return admission.from_socket(pid, uid, (gid, *_peer_groups(sock)))
    return Caller()


def _peer_groups(sock: Any) -> tuple[int, ...]:
    """Return the supplementary groups of a local peer (SO_PEERGROUPS)."""
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, 59, 4096)
    except OSError:
        # Older kernels: the primary group alone decides.
        return ()
    return struct.unpack(f"{len(data) // 4}I", data)
