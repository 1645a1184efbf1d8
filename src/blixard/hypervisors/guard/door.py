"""The guard's socket: one JSON document per line, bounded both ways, never blocking."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import struct
from collections.abc import Callable
from typing import Any

LINE_BYTES_MAX = 256 * 1024
BUFFER_BYTES_MAX = 4 << 20
CLIENTS_MAX = 8
_PIECE = 65_536

Handler = Callable[[dict[str, Any]], dict[str, Any]]


class _Client:
    """One connection; what it does not read in time ends it."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.received = b""
        self.waiting = b""


class Door:
    """Listens, lets in who may come, hands requests to *handle*, keeps what is not yet read."""

    def __init__(self, selector: selectors.BaseSelector, path: str, handle: Handler) -> None:
        self._selector = selector
        self._path = path
        self._handle = handle
        self._clients: dict[int, _Client] = {}
        self._listener = listen(path, CLIENTS_MAX)
        self._listener.setblocking(False)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    @property
    def in_use(self) -> bool:
        """Tell whether somebody is connected."""
        return bool(self._clients)

    def tell_all(self, message: dict[str, Any]) -> None:
        """Send to every client."""
        for client in list(self._clients.values()):
            self._tell(client, message)

    def close(self) -> None:
        """Stop listening."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        self._listener.close()

    def _accept(self, _listener: Any) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        if len(self._clients) >= CLIENTS_MAX or not _allowed(connection):
            connection.close()
            return
        connection.setblocking(False)
        self._clients[connection.fileno()] = _Client(connection)
        self._selector.register(connection, selectors.EVENT_READ, self._ready)

    def _ready(self, connection: Any) -> None:
        client = self._clients.get(connection.fileno())
        if client is None:
            return
        self._flush(client)
        if connection.fileno() >= 0:
            self._read(client)

    def _read(self, client: _Client) -> None:
        try:
            data = client.connection.recv(_PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        client.received += data
        if not data or len(client.received) > LINE_BYTES_MAX:
            self._drop(client)
            return
        *lines, client.received = client.received.split(b"\n")
        for line in lines:
            if client.connection.fileno() >= 0:
                self._tell(client, self._answer(line))

    def _answer(self, line: bytes) -> dict[str, Any]:
        number = None
        try:
            request = json.loads(line)
            number = request.get("id")
            return {"id": number, **self._handle(request)}
        except (ArithmeticError, ValueError, LookupError, TypeError, AttributeError) as error:
            return {"id": number, "error": f"bad request: {error!r}"[:1000]}
        except RecursionError:
            return {"id": None, "error": "bad request: nested too deeply"}

    def _tell(self, client: _Client, message: dict[str, Any]) -> None:
        client.waiting += json.dumps(message).encode() + b"\n"
        self._flush(client)

    def _flush(self, client: _Client) -> None:
        try:
            while client.waiting:
                client.waiting = client.waiting[client.connection.send(client.waiting) :]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)
            return
        if len(client.waiting) > BUFFER_BYTES_MAX:
            self._drop(client)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.waiting else 0)
        self._selector.modify(client.connection, events, self._ready)

    def _drop(self, client: _Client) -> None:
        if self._clients.pop(client.connection.fileno(), None) is not None:
            self._selector.unregister(client.connection)
            client.connection.close()


def listen(path: str, backlog: int) -> socket.socket:
    """Return a socket that listens at *path*, for this user alone; what was there is replaced.

    The name appears once somebody can connect to it.
    """
    early = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(early)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(early)
        listener.listen(backlog)
        os.rename(early, path)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener


def _allowed(connection: socket.socket) -> bool:
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _pid, uid, _gid = struct.unpack("3i", packed)
    return uid in (0, os.geteuid())
