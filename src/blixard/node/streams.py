"""Logs, exec and console of an instance: from any node to the one that runs it."""

from __future__ import annotations

from typing import Literal

import msgspec

from blixard.api.standing import SubCall, SubResource
from blixard.base.errors import BlixardError
from blixard.hypervisors.channel import CLIENT_STDIN
from blixard.ports.environment import Environment
from blixard.ports.hypervisor import Hypervisor
from blixard.ports.transport import Stream

METHOD = "instance.stream"
TAIL_MAX = 10_000
COMMAND_MAX = 256
END_OF_INPUT = bytes((CLIENT_STDIN,))


class StreamRequest(msgspec.Struct, frozen=True, array_like=True):
    """What is asked of the owning node."""

    uid: str
    op: Literal["logs", "exec", "console"]
    command: list[str] = []
    tty: bool = False
    tail: int = 100
    follow: bool = False


class InstanceStreams:
    """Both ends: the sub-resources of the API, and the handler on the owning node."""

    def __init__(self, env: Environment, own_uid: str, hypervisor: Hypervisor) -> None:
        self._env = env
        self._own_uid = own_uid
        self._hypervisor = hypervisor

    def register(self) -> None:
        """Serve the streams that other nodes ask for."""
        self._env.transport.on_stream(METHOD, self._on_stream)

    def sub_resources(self) -> tuple[SubResource, ...]:
        """Return the API's side."""
        return (
            SubResource(kind="Instance", name="logs", verb="logs", method="GET", stream=self._logs),
            SubResource(
                kind="Instance", name="exec", verb="exec", stream=self._exec, at_end=END_OF_INPUT
            ),
            SubResource(kind="Instance", name="console", verb="console", stream=self._console),
        )

    async def _logs(self, call: SubCall, stream: Stream) -> None:
        query = call.call.request.query
        tail = query.get("tail", "100")
        if not tail.isdigit() or int(tail) > TAIL_MAX:
            raise BlixardError("BAD_REQUEST", f"tail must be a number up to {TAIL_MAX}")
        request = StreamRequest(
            uid=call.resource.metadata.uid,
            op="logs",
            tail=int(tail),
            follow=call.call.request.flag("follow"),
        )
        await self._join(call, request, stream)

    async def _exec(self, call: SubCall, stream: Stream) -> None:
        try:
            command = msgspec.json.decode(call.call.path_value("command"), type=list[str])
        except msgspec.MsgspecError as error:
            raise BlixardError("BAD_REQUEST", "command must be a JSON list of texts") from error
        if not command or len(command) > COMMAND_MAX:
            raise BlixardError("BAD_REQUEST", f"a command has 1 to {COMMAND_MAX} words")
        request = StreamRequest(
            uid=call.resource.metadata.uid,
            op="exec",
            command=command,
            tty=call.call.request.flag("tty"),
        )
        await self._join(call, request, stream)

    async def _console(self, call: SubCall, stream: Stream) -> None:
        await self._join(call, StreamRequest(call.resource.metadata.uid, "console"), stream)

    async def _join(self, call: SubCall, request: StreamRequest, client: Stream) -> None:
        node = str(call.resource.spec.get("node", ""))
        if not node:
            raise BlixardError("GUEST_UNREACHABLE", "the instance is not placed on a node")
        if node == self._own_uid:
            await self._serve(request, client)
            return
        remote = await self._env.transport.open_stream(
            node, METHOD, msgspec.msgpack.encode(request)
        )
        await relay(self._env, client, remote, request.op)

    async def _on_stream(self, _uid: str, payload: bytes, stream: Stream) -> None:
        await self._serve(msgspec.msgpack.decode(payload, type=StreamRequest), stream)

    async def _serve(self, request: StreamRequest, stream: Stream) -> None:
        match request.op:
            case "logs":
                await self._hypervisor.logs(
                    request.uid, tail=request.tail, follow=request.follow, stream=stream
                )
            case "exec":
                await self._hypervisor.exec(
                    request.uid, request.command, tty=request.tty, stream=stream
                )
            case "console":
                await self._hypervisor.console(request.uid, stream)


async def relay(env: Environment, client: Stream, remote: Stream, op: str) -> None:
    """Pass frames both ways until the remote side ends; a client that leaves ends the remote."""

    async def forward() -> None:
        try:
            while (frame := await client.receive()) is not None:
                await remote.send(frame)
            await _no_more_input(remote, op)
        except (ConnectionError, BlixardError) as error:
            env.log("debug", "stream_client_gone", detail=str(error))
            await remote.close()

    forwarding = env.spawn(forward(), name="relay")
    try:
        while (frame := await remote.receive()) is not None:
            await client.send(frame)
    finally:
        forwarding.cancel()
        await remote.close()


async def _no_more_input(remote: Stream, op: str) -> None:
    """Tell the remote side that the client says nothing more; only a console ends with that."""
    if op == "exec":
        await remote.send(END_OF_INPUT)
    elif op == "console":
        await remote.close()
