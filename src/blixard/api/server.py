"""Listens: on a TLS port and on a local socket that was bound here with its mode."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import stat
from collections.abc import Mapping

import uvicorn
from msgspec import Struct
from uvicorn.server import ServerState

from blixard.api.asgi import ApiApp, Log
from blixard.api.messages import Caller
from blixard.api.protocol import Admission, ApiProtocol
from blixard.api.service import ApiService
from blixard.base.errors import BlixardError
from blixard.security.identity import from_der
from blixard.security.principals import from_peer_credentials

SOCKET_MODE = 0o660
IDLE_S = 75
GRACE_S = 3
SETTLE_S = 0.02  # for connections accepted a moment ago, and for what an abort leaves to do
BACKLOG = 512
TLS_HANDSHAKE_S = 10.0


class ServerConfig(Struct, frozen=True, kw_only=True):
    """Where to listen; port 0 takes a free one. No ``tls_host`` or no ``socket_path``: not there.

    ``socket_group`` owns the socket; ``group_roles`` says what members of groups may.
    """

    socket_path: str = ""
    socket_group: int = -1
    group_roles: dict[int, str] = {}
    tls_host: str = ""
    tls_port: int = 7601


class ApiServer:
    """Serves one :class:`ApiService` until stopped."""

    def __init__(
        self, service: ApiService, config: ServerConfig, *, tls: ssl.SSLContext | None, log: Log
    ) -> None:
        self._app = ApiApp(service, log)
        self._config = config
        self._tls = tls
        self._log = log
        self._servers: list[asyncio.Server] = []
        self._state = ServerState()
        self._admission = Admission(self._from_certificate, self._from_socket)
        self.tls_port = 0

    async def start(self) -> None:
        """Bind and serve.

        Raises:
            BlixardError: DATA_DIR_IN_USE if another daemon answers on the socket.
            OSError: if an address cannot be bound.
        """
        config = self._config
        if config.tls_host:
            assert self._tls is not None, "a port needs a TLS context"
            listener = bind_tcp(config.tls_host, config.tls_port)
            self.tls_port = listener.getsockname()[1]
            await self._serve(listener, self._tls)
        if config.socket_path:
            await self._serve(bind_local(config.socket_path, config.socket_group), None)

    async def stop(self) -> None:
        """Stop accepting, give running requests a moment, then end what is left."""
        for server in self._servers:
            server.close()
        await asyncio.sleep(SETTLE_S)
        for connection in _connections(self._state):
            connection.shutdown()
        try:
            async with asyncio.timeout(GRACE_S):
                while self._state.connections or self._state.tasks:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            self._log("info", "requests_cut", count=len(self._state.tasks))
        self._cut()
        await asyncio.sleep(SETTLE_S)
        if self._config.socket_path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._config.socket_path)

    def _cut(self) -> None:
        for connection in _connections(self._state):
            connection.transport.abort()
        for task in sorted(self._state.tasks, key=lambda task: task.get_name()):
            task.cancel()

    async def _serve(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        protocol = type("BoundProtocol", (ApiProtocol,), {"admission": self._admission})
        config = uvicorn.Config(
            self._app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=IDLE_S,
        )
        config.load()

        def connected() -> asyncio.Protocol:
            made: asyncio.Protocol = protocol(
                config=config, server_state=self._state, app_state={}, _loop=loop
            )
            return made

        server = await loop.create_server(
            connected,
            sock=listener,
            ssl=tls,
            backlog=BACKLOG,
            ssl_handshake_timeout=TLS_HANDSHAKE_S if tls is not None else None,
        )
        self._servers.append(server)

    def _from_certificate(self, der: bytes) -> Caller:
        try:
            return Caller(certificate=from_der(der), certificate_der=der)
        except BlixardError as error:
            self._log("warning", "client_certificate_refused", detail=error.message)
            return Caller()

    def _from_socket(self, pid: int, uid: int, groups: tuple[int, ...]) -> Caller:
        roles: Mapping[int, str] = self._config.group_roles
        principal = from_peer_credentials(uid, groups, own_uid=os.geteuid(), group_roles=roles)
        self._log("debug", "local_client", pid=pid, uid=uid, role=principal.role)
        return Caller(principal=principal)


def _connections(state: ServerState) -> list[ApiProtocol]:
    return sorted(state.connections, key=id)  # type: ignore[arg-type]


def bind_tcp(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol left 0, asyncio would not switch Nagle's delay off: 40 ms per answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def bind_local(path: str, group: int = -1) -> socket.socket:
    """Return a local listening socket of mode 0660; a stale file is replaced, a live one is not.

    Raises:
        BlixardError: DATA_DIR_IN_USE.
        OSError: if the place cannot be used.
    """
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~SOCKET_MODE)
    try:
        listener.bind(path)
        if group >= 0:
            os.chown(path, -1, group)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise BlixardError("DATA_DIR_IN_USE", f"{path} is there and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
    raise BlixardError("DATA_DIR_IN_USE", f"a daemon answers on {path}")
