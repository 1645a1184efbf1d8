"""The API of simulated nodes over HTTP: the server's protocol and the product's own client, with
connections through the simulated network between them.

The client is synchronous, as a command is: while it waits, it lets the world run.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Coroutine
from typing import Any, TypeVar, cast

import uvicorn
from uvicorn.server import ServerState

from blixard.api.asgi import ApiApp
from blixard.api.client import Address, Credentials, Outside
from blixard.api.http1 import Connection, Disconnected
from blixard.api.messages import Caller
from blixard.api.protocol import Admission, ApiProtocol
from blixard.api.service import ApiService
from blixard.base.errors import BlixardError
from blixard.ports.transport import Stream
from blixard.security.principals import from_peer_credentials
from blixard.simulation.environment import SimEnvironment
from blixard.simulation.loop import SimLoop

HTTP = "sim.http"
_CONNECT_S = 5.0
_PIECE = 16 << 10
_BILLION = 1_000_000_000
# The server library reports what dies in the middle of an answer, as a killed node does.
_SILENT = logging.getLogger("blixard.simulation.web")
_SILENT.setLevel(logging.CRITICAL + 1)

T = TypeVar("T")


class LocalPeer:
    """The socket that the server asks who is there: the superuser, on the node itself."""

    family = socket.AF_UNIX

    def getsockopt(self, _level: int, option: int, _size: int) -> bytes:
        """Return process, user and group for SO_PEERCRED, and no further groups."""
        return bytes(12) if option == socket.SO_PEERCRED else b""

    def getsockname(self) -> str:
        """Return a path."""
        return "api.sock"

    def getpeername(self) -> str:
        """Return the empty name of a client."""
        return ""


class StreamTransport(asyncio.Transport):
    """What the server's protocol writes to; a task carries it to the stream."""

    def __init__(self) -> None:
        super().__init__({"socket": LocalPeer()})
        self._out: list[bytes] = []
        self._more = asyncio.Event()
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue bytes."""
        self._out.append(bytes(data))
        self._more.set()

    def is_closing(self) -> bool:
        """Tell whether it is or was closed."""
        return self._closing

    def close(self) -> None:
        """Close once all is sent."""
        self._closing = True
        self._more.set()

    def abort(self) -> None:
        """Close now."""
        self._out.clear()
        self.close()

    def pause_reading(self) -> None:
        """Requests are small: reading goes on."""

    def resume_reading(self) -> None:
        """It never stopped."""

    async def carry(self, stream: Stream) -> None:
        """Send what is written, until closed or cut."""
        try:
            while self._out or not self._closing:
                if not self._out:
                    self._more.clear()
                    await self._more.wait()
                    continue
                data = self._out.pop(0)
                for start in range(0, len(data), _PIECE):
                    await stream.send(data[start : start + _PIECE])
            await stream.close()
        except ConnectionError:
            self._closing = True


class Web:
    """Serves one node's API to whoever opens a stream."""

    def __init__(self, env: SimEnvironment, service: ApiService) -> None:
        self._env = env
        self._admission = Admission(lambda _der: Caller(), _from_socket)
        protocol = type("BoundProtocol", (ApiProtocol,), {"admission": self._admission})
        self._protocol = cast("Any", protocol)
        self._config = uvicorn.Config(
            cast("Any", ApiApp(service, env.log)), http=protocol, ws="none", lifespan="off",
            log_config=None, access_log=False,
        )  # fmt: skip
        self._config.load()
        self._state = ServerState()
        env.transport.on_stream(HTTP, self._serve)

    async def _serve(self, _uid: str, _payload: bytes, stream: Stream) -> None:
        """Serve one connection."""
        transport = StreamTransport()
        protocol = self._protocol(
            config=self._config, server_state=self._state, app_state={},
            _loop=asyncio.get_running_loop(),
        )  # fmt: skip
        protocol.logger = _SILENT
        protocol.connection_made(transport)
        self._env.spawn(transport.carry(stream), name="http answers")
        cut: ConnectionError | None = None
        try:
            while (data := await stream.receive()) is not None and not transport.is_closing():
                protocol.data_received(data)
        except ConnectionError as error:
            cut = error
        protocol.connection_lost(cut)
        transport.close()


def _from_socket(_pid: int, uid: int, groups: tuple[int, ...]) -> Caller:
    return Caller(principal=from_peer_credentials(uid, groups, own_uid=0, group_roles={}))


class SimSocket:
    """The client's end of a connection, as much of a socket as the client uses."""

    def __init__(self, outside: SimOutside, stream: Stream) -> None:
        self._outside = outside
        self._stream = stream
        self._rest = b""
        self._timeout_s: float | None = None

    def settimeout(self, seconds: float | None) -> None:
        """Bound every wait from now on."""
        self._timeout_s = seconds

    def sendall(self, data: bytes) -> None:
        """Send. Raises OSError, TimeoutError."""
        if data:
            self._outside.wait_for(self._stream.send(data), self._timeout_s)

    def recv(self, size: int) -> bytes:
        """Return some bytes, none at the end. Raises OSError, TimeoutError."""
        if not self._rest:
            self._rest = self._outside.wait_for(self._stream.receive(), self._timeout_s) or b""
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def shutdown(self, _how: int) -> None:
        """End both directions."""
        self._outside.wait_for(self._stream.close(), 1.0)

    def close(self) -> None:
        """End both directions."""
        self.shutdown(0)


class SimOutside(Outside):
    """The machine of a client in the simulated world; addresses name nodes by uid."""

    def __init__(self, env: SimEnvironment, loop: SimLoop) -> None:
        super().__init__(Credentials())
        self._env = env
        self._loop = loop

    def monotonic(self) -> float:
        """Return the client's seconds."""
        return self._env.boottime_ns() / _BILLION

    def sleep(self, seconds: float) -> None:
        """Let the world run."""
        self._loop.run_until(self._loop.now_ns + max(1, int(seconds * _BILLION)))

    def time_ms(self) -> int:
        """Return the client's Unix milliseconds."""
        return self._env.wall_time_ms()

    def entropy(self) -> int:
        """Return 80 bits of the client's generator."""
        return self._env.random.getrandbits(80)

    def connect(self, address: Address) -> Connection:
        """Open a connection to a node's API. Raises Disconnected."""
        opening = self._env.transport.open_stream(address.host, HTTP, b"")
        try:
            stream = self.wait_for(opening, _CONNECT_S)
        except (BlixardError, TimeoutError) as error:
            raise Disconnected(str(error)) from error
        return Connection(cast("socket.socket", SimSocket(self, stream)))

    def wait_for(self, work: Coroutine[Any, Any, T], seconds: float | None) -> T:
        """Let the world run until *work* is done. Raises what it raises, TimeoutError."""
        task = self._env.process.spawn(work, name="http client")
        end_ns = self._loop.now_ns + int((seconds or 3_600.0) * _BILLION)
        self._loop.run_until(end_ns, task)
        if not task.done():
            task.cancel()
            raise TimeoutError("timed out")
        return cast("T", task.result())
