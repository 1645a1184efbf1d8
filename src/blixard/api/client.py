"""A small synchronous client: all that the command line and the dashboard import.

It needs no HTTP library; TLS is imported when a TLS address is used.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from blixard.api.framing import FRAME_MAX, FrameReader, encode_frame
from blixard.api.http1 import Answer, Connection, Disconnected, encode_head
from blixard.base.errors import BlixardError, ErrorBody, from_body
from blixard.base.ids import ulid

CONNECT_S = 5.0
RETRIES = 3
RETRY_PAUSE_S = 0.1
ONCE_HINT = "repeat it if doing it twice does no harm"
STREAM_IDLE_S = 60.0
REDATE_S = 1.0
_PORT = 7601
_ID_HEADERS = frozenset({"idempotency-key", "blixard-request-id"})
_MISDATED = frozenset({"REQUEST_ID_EXPIRED", "REQUEST_ID_INVALID"})
_SERVER_NAME = "api.blixard"  # in every node's certificate, whatever its address


class Address(msgspec.Struct, frozen=True):
    """A local socket (``path``) or a TLS endpoint."""

    path: str = ""
    host: str = ""
    port: int = _PORT

    @property
    def shown(self) -> str:
        """The address for messages."""
        return self.path or f"{self.host}:{self.port}"


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """How the client proves itself over TLS; ``server_name`` is checked in the certificate."""

    ca_file: str = ""
    certificate_file: str = ""
    private_key_file: str = ""
    api_key: str = ""
    server_name: str = ""

    def __repr__(self) -> str:
        return f"Credentials(ca_file={self.ca_file!r}, certificate={self.certificate_file!r})"


def parse_address(text: str) -> Address:
    """Return the address in ``/path``, ``unix:/path``, ``https://host:port`` or ``host:port``.

    Raises:
        BlixardError: USAGE.
    """
    if text.startswith(("/", "./", "unix:")):
        return Address(path=text.removeprefix("unix://").removeprefix("unix:"))
    if text.startswith("http://"):
        raise BlixardError("USAGE", "the API speaks TLS or a local socket, not plain HTTP")
    rest = text.removeprefix("https://").rstrip("/")
    host, colon, port = rest.rpartition(":")
    if not colon or rest.endswith("]"):
        host, port = rest, str(_PORT)
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise BlixardError("USAGE", f"{text!r} is no address", hint="write /PATH or HOST:PORT")
    return Address(host=host.strip("[]"), port=int(port))


class Outside:
    """What a client takes from the machine that it runs on; a simulated one brings its own."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._tls: Any = None

    def monotonic(self) -> float:
        """Return seconds that only grow."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def time_ms(self) -> int:
        """Return Unix milliseconds."""
        return time.time_ns() // 1_000_000

    def entropy(self) -> int:
        """Return 80 random bits."""
        return int.from_bytes(os.urandom(10))

    def connect(self, address: Address) -> Connection:
        """Return a fresh connection. Raises Disconnected, BlixardError FORBIDDEN, CA_MISMATCH."""
        try:
            if address.path:
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                sock.settimeout(CONNECT_S)
                try:
                    sock.connect(address.path)
                except OSError:
                    sock.close()
                    raise
                return Connection(sock)
            sock = socket.create_connection((address.host, address.port), CONNECT_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return Connection(self._secure(sock, address))
        except PermissionError as error:
            message = f"{address.shown}: permission denied"
            hint = "run as root or join its group"
            raise BlixardError("FORBIDDEN", message, hint=hint) from error
        except OSError as error:
            raise Disconnected(f"{error.strerror or error}") from error

    def _secure(self, sock: socket.socket, address: Address) -> socket.socket:
        import ssl

        try:
            if self._tls is None:
                self._tls = _tls_context(self._credentials)
            name = self._credentials.server_name or _SERVER_NAME
            secured: socket.socket = self._tls.wrap_socket(sock, server_hostname=name)
        except ssl.SSLCertVerificationError as error:
            sock.close()
            raise BlixardError("CA_MISMATCH", f"{address.shown}: {error.verify_message}") from error
        except OSError:
            sock.close()
            raise
        return secured


class ApiClient:
    """One cluster through one of its nodes (or the next address, if the first does not answer)."""

    def __init__(
        self,
        *addresses: str | Address,
        credentials: Credentials | None = None,
        outside: Outside | None = None,
    ) -> None:
        assert addresses, "an address is needed"
        self._addresses = [parse_address(a) if isinstance(a, str) else a for a in addresses]
        self._credentials = credentials or Credentials()
        self._idle: Connection | None = None
        self._lock = threading.Lock()
        self._outside = outside or Outside(self._credentials)

    def close(self) -> None:
        """Close the kept connection."""
        self._keep(None)

    # -- requests --

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
        once: bool = False,
        told: dict[str, str] | None = None,
    ) -> Any:
        """Return the decoded answer; a lost connection is tried again under the same request id.

        An id of ours whose date the cluster refuses is dated anew, once, by the cluster's clock.
        *once*: what was sent is not sent again, for doing it twice would be wrong. The headers of
        a good answer go into *told*.

        Raises:
            BlixardError: the server's error; UNREACHABLE, TIMEOUT.
        """
        data = b"" if body is None else msgspec.json.encode(body)
        sent = self._headers(headers, timeout_s)
        if data:
            sent["content-type"] = "application/json"
        if data or method in {"POST", "PUT"}:
            sent["content-length"] = str(len(data))
        began = self._outside.monotonic()
        target, deadline = _target(path, query), began + timeout_s
        try:
            return self._anywhere(method, target, sent, data, deadline, once=once, told=told)
        except BlixardError as error:
            time_ms = error.details.get("timeMs")
            chosen = {name.lower() for name in headers or ()} & _ID_HEADERS
            # Later, an earlier attempt may have been applied and forgotten since.
            late = self._outside.monotonic() - began >= REDATE_S
            if error.code not in _MISDATED or chosen or late or not isinstance(time_ms, int):
                raise
            sent["blixard-request-id"] = self._fresh_id(time_ms)
        return self._anywhere(method, target, sent, data, deadline, once=once, told=told)

    def _anywhere(
        self, method: str, target: str, sent: Mapping[str, str], data: bytes, deadline: float,
        *, once: bool, told: dict[str, str] | None,
    ) -> Any:  # fmt: skip
        """Ask each address until one answers, several times."""
        lost = BlixardError("UNREACHABLE", "no address answered")
        for attempt in range(RETRIES):
            for address in self._addresses:
                try:
                    head = encode_head(method, target, _host(address), sent)
                    fresh = once or attempt > 0
                    answer, body = self._exchange(
                        address, head + data, deadline, fresh=fresh, once=once
                    )
                    if told is not None:
                        told.update(answer.headers)
                    return msgspec.json.decode(body) if body else None
                except Disconnected as error:
                    lost = _unreachable(address, error)
                    if self._outside.monotonic() >= deadline:
                        raise lost from error
            self._outside.sleep(
                min(RETRY_PAUSE_S * (attempt + 1), max(0.0, deadline - self._outside.monotonic()))
            )
        raise lost

    def list(self, path: str, **query: str) -> list[Any]:
        """Return all items of a list, page by page."""
        found: list[Any] = []
        while True:
            answer = self.request("GET", path, query=query)
            found += answer.get("items", [])
            if "continue" not in answer:
                return found
            query["continue"] = answer["continue"]

    def get(self, path: str, **query: str) -> Any:
        """Return one object. Raises BlixardError NOT_FOUND."""
        return self.request("GET", path, query=query)

    def apply(self, path: str, document: Any, *, expect: int | None = None) -> Any:
        """Create or replace one object; *expect* is the revision that it must have."""
        headers = {} if expect is None else {"if-match": f'"{expect}"'}
        return self.request("PUT", path, body=document, headers=headers)

    def delete(self, path: str) -> Any:
        """Delete one object."""
        return self.request("DELETE", path)

    # -- streams --

    def watch(
        self,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yield changes ``{type, object, revision}``.

        Raises:
            BlixardError: TIMEOUT after *timeout_s* as a whole; UNREACHABLE if the connection was
                lost: go on from the last revision.
        """
        deadline = None if timeout_s is None else self._outside.monotonic() + timeout_s
        asked = {**(query or {}), "watch": "true"}
        answer, connection, address = self._open("GET", path, asked, {}, b"")
        try:
            if answer.status != 200:
                raise _problem(answer, connection.read_body(answer))
            for event, data in _sse(self._until(connection, deadline)):
                if event == "error":
                    raise from_body(msgspec.json.decode(data, type=ErrorBody))
                yield msgspec.json.decode(data)
        except Disconnected as error:
            raise _unreachable(address, error) from error
        except TimeoutError as error:
            raise BlixardError("TIMEOUT", "the watch ended: its time is over") from error
        finally:
            connection.close()

    def stream(self, path: str, *, query: Mapping[str, str] | None = None) -> FrameStream:
        """Open a two-way stream of frames. Raises BlixardError with the server's code."""
        headers = {"transfer-encoding": "chunked", "content-type": "application/vnd.blixard.frames"}
        answer, connection, _ = self._open("POST", path, query or {}, headers, b"")
        if answer.status != 200:
            try:
                raise _problem(answer, connection.read_body(answer))
            finally:
                connection.close()
        connection.sock.settimeout(None)
        return FrameStream(connection)

    def _until(self, connection: Connection, deadline: float | None) -> Iterator[bytes]:
        """Yield chunks; each wait ends at the deadline, or when no heartbeat comes."""
        chunks = connection.chunks()
        while True:
            wait = STREAM_IDLE_S
            if deadline is not None:
                wait = min(wait, deadline - self._outside.monotonic())
                if wait <= 0:
                    raise TimeoutError
            connection.sock.settimeout(wait)
            chunk = next(chunks, None)
            if chunk is None:
                raise Disconnected("the watch ended", answered=True)
            yield chunk

    # -- connections --

    def _headers(self, given: Mapping[str, str] | None, timeout_s: float) -> dict[str, str]:
        headers = {name.lower(): value for name, value in (given or {}).items()}
        if not _ID_HEADERS & headers.keys():
            headers["blixard-request-id"] = self._fresh_id(self._outside.time_ms())
        headers.setdefault("blixard-timeout", f"{min(timeout_s, 600.0):g}")
        if self._credentials.api_key:
            headers["authorization"] = f"Bearer {self._credentials.api_key}"
        return headers

    def _fresh_id(self, time_ms: int) -> str:
        return ulid(time_ms, self._outside.entropy())

    def _exchange(
        self, address: Address, data: bytes, deadline: float, *, fresh: bool, once: bool
    ) -> tuple[Answer, bytes]:
        if fresh:
            self._keep(None)
        with self._lock:
            connection, self._idle = self._idle, None
        if connection is None:
            connection = self._outside.connect(address)
        try:
            # The server answers within the deadline; a little longer, its own error arrives.
            connection.sock.settimeout(max(0.001, deadline - self._outside.monotonic()) + 1.0)
            connection.send(data)
            answer = connection.read_answer()
            body = connection.read_body(answer)
        except TimeoutError as error:
            connection.close()
            raise BlixardError("TIMEOUT", f"{address.shown} did not answer in time") from error
        except Disconnected as error:
            connection.close()
            if once:
                message = f"{address.shown} may have begun: {error}"
                raise BlixardError("OUTCOME_UNKNOWN", message, hint=ONCE_HINT) from error
            raise
        if answer.keeps_alive:
            self._keep(connection)
        else:
            connection.close()
        if answer.status >= 400:
            raise _problem(answer, body)
        return answer, body

    def _keep(self, connection: Connection | None) -> None:
        with self._lock:
            old, self._idle = self._idle, connection
        if old is not None:
            old.close()

    def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        data: bytes,
    ) -> tuple[Answer, Connection, Address]:
        lost = BlixardError("UNREACHABLE", "no address answered")
        for address in self._addresses:
            try:
                connection = self._outside.connect(address)
                connection.sock.settimeout(STREAM_IDLE_S)
                sent = self._headers(headers, 30.0)
                connection.send(encode_head(method, _target(path, query), _host(address), sent))
                connection.send(data)
                return connection.read_answer(), connection, address
            except (Disconnected, TimeoutError) as error:
                lost = _unreachable(address, error)
        raise lost


class FrameStream:
    """A two-way stream of frames; ``send`` and ``receive`` may be used from two threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._chunks = connection.chunks()
        self._reader = FrameReader()
        self._ready: deque[tuple[bool, bytes]] = deque()

    def send(self, frame: bytes) -> None:
        """Send one frame. Raises ConnectionError."""
        assert len(frame) <= FRAME_MAX
        data = encode_frame(frame)
        self._connection.send(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        """Say that no more frames follow."""
        self._connection.send(b"0\r\n\r\n")

    def receive(self) -> bytes | None:
        """Return the next frame, None at the end.

        Raises:
            ConnectionError: if the connection was lost.
            BlixardError: the error with which the server ended the stream.
        """
        while not self._ready:
            chunk = next(self._chunks, None)
            if chunk is None:
                return None
            self._ready.extend(self._reader.feed(chunk))
        failed, data = self._ready.popleft()
        if failed:
            raise from_body(msgspec.json.decode(data, type=ErrorBody))
        return data

    def close(self) -> None:
        """End both directions."""
        try:
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            # It was closed by the other side: closing is all that is left.
            pass
        self._connection.close()


def _tls_context(credentials: Credentials) -> Any:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(credentials.ca_file)
        if credentials.certificate_file:
            key_file = credentials.private_key_file or None
            context.load_cert_chain(credentials.certificate_file, key_file)
    except OSError as error:
        raise BlixardError("USAGE", f"the TLS files cannot be read: {error}") from error
    return context


def _sse(chunks: Iterator[bytes]) -> Iterator[tuple[str, str]]:
    """Yield (event, data) of a sequence of server-sent events."""
    rest = b""
    for chunk in chunks:
        *blocks, rest = (rest + chunk).split(b"\n\n")
        for block in blocks:
            event, data = "message", []
            for line in block.decode().split("\n"):
                name, _, value = line.partition(": ")
                if name == "event":
                    event = value
                elif name == "data":
                    data.append(value)
            if data:
                yield event, "\n".join(data)


def _target(path: str, query: Mapping[str, str] | None) -> str:
    if not query:
        return path
    pairs = (f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in query.items())
    return f"{path}?{'&'.join(pairs)}"


def _host(address: Address) -> str:
    return "localhost" if address.path else address.host


def _problem(answer: Answer, body: bytes) -> BlixardError:
    try:
        return from_body(msgspec.json.decode(body, type=ErrorBody))
    except msgspec.DecodeError:
        return BlixardError("UNREACHABLE", f"the server answered {answer.status} without a reason")


def _unreachable(address: Address, error: Exception) -> BlixardError:
    return BlixardError("UNREACHABLE", f"{address.shown}: {error}")
