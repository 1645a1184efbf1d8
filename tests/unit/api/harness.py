"""One node's API over the real state machine, with a proposer and nodes in memory."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import msgspec

from blixard.api.messages import Caller, Request, Response
from blixard.api.service import ApiHandlers, ApiService
from blixard.base.errors import BlixardError
from blixard.base.ids import ulid
from blixard.cluster.facade import Cluster
from blixard.cluster.kind import Kind, KindTable
from blixard.cluster.kinds import KINDS
from blixard.cluster.machine import ClusterMachine
from blixard.cluster.resources import Put
from blixard.security.principals import ROOT, Principal

NOW_MS = 1_800_000_000_000


class AppSpec(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    size: int = 1
    color: str = "red"
    memory_mib: int = 64


TABLE = (*KINDS, Kind(name="App", plural="apps", short=("ap",), spec=AppSpec))

KNOWN = (*TABLE, Kind(name="Instance", plural="instances"))  # as little of it as these tests need


class World:
    """What the nodes share: handlers by node, who is cut off."""

    def __init__(self) -> None:
        self.handlers: dict[tuple[str, str], Any] = {}
        self.cut: set[str] = set()
        self.lose_answers: set[str] = set()


class FakeStream:
    def __init__(self) -> None:
        self.inbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.peer: FakeStream = self

    async def send(self, frame: bytes) -> None:
        self.peer.inbox.put_nowait(frame)

    async def receive(self) -> bytes | None:
        return await self.inbox.get()

    async def close(self) -> None:
        self.peer.inbox.put_nowait(None)
        self.inbox.put_nowait(None)


def stream_pair() -> tuple[FakeStream, FakeStream]:
    near, far = FakeStream(), FakeStream()
    near.peer, far.peer = far, near
    return near, far


class FakeTransport:
    def __init__(self, world: World, uid: str) -> None:
        self.world, self.uid = world, uid

    def on_request(self, method: str, handler: Any) -> None:
        self.world.handlers[self.uid, method] = handler

    on_stream = on_request

    async def request(self, uid: str, method: str, payload: bytes, *, timeout_s: float) -> bytes:
        if uid in self.world.cut:
            raise BlixardError("UNREACHABLE", uid, details={"sent": False})
        async with asyncio.timeout(timeout_s):
            answer: bytes = await self.world.handlers[uid, method](self.uid, payload)
        if uid in self.world.lose_answers:
            raise BlixardError("UNREACHABLE", f"{uid} closed the connection")
        return answer

    async def open_stream(self, uid: str, method: str, payload: bytes) -> FakeStream:
        near, far = stream_pair()

        async def serve() -> None:
            await self.world.handlers[uid, method](self.uid, payload, far)
            await far.close()

        near.task = asyncio.ensure_future(serve())  # type: ignore[attr-defined]
        return near


class FakeEnvironment:
    def __init__(self, world: World, uid: str, now_ms: int = NOW_MS) -> None:
        self.now_ms = now_ms
        self.random = random.Random(uid)
        self.transport = FakeTransport(world, uid)
        self.lines: list[tuple[str, str]] = []

    def wall_time_ms(self) -> int:
        return self.now_ms

    def new_id(self) -> str:
        return ulid(self.now_ms, self.random.getrandbits(80))

    def spawn(self, coroutine: Any, *, name: str) -> Any:
        return asyncio.ensure_future(coroutine)

    def log(self, level: str, event: str, **_: object) -> None:
        self.lines.append((level, event))


class Proposer:
    """Applies at once; ``fail`` holds the errors of the next proposals, ``lose`` drops answers."""

    def __init__(self, machine: ClusterMachine) -> None:
        self.machine, self.index, self.proposals = machine, 0, 0
        self.fail: list[BlixardError] = []
        self.lose: list[BlixardError] = []
        self.barriers = 0

    async def propose(self, data: bytes, *, timeout_s: float) -> Any:
        self.proposals += 1
        if self.fail:
            raise self.fail.pop(0)
        self.index += 1
        outcome = self.machine.apply(self.index, 1, data)
        if self.lose:
            raise self.lose.pop(0)
        return outcome

    async def read_barrier(self, *, timeout_s: float) -> int:
        self.barriers += 1
        return self.index


class Node:
    """``replica`` False: a worker; ``leads`` may be switched."""

    def __init__(
        self,
        world: World,
        uid: str,
        shared: Node | None = None,
        *,
        replica: bool = True,
        leads: bool = True,
        others: tuple[str, ...] = (),
        now_ms: int = NOW_MS,
        **options: Any,
    ) -> None:
        self.env = FakeEnvironment(world, uid, now_ms)
        self.machine = shared.machine if shared else ClusterMachine(KNOWN)
        self.raft = shared.raft if shared else Proposer(self.machine)
        self.own_uid, self._leads, self.others = uid, leads, others
        self.touch = True
        self._cluster = Cluster(self.raft, self.machine, self.env) if replica else None  # type: ignore[arg-type]
        options.setdefault("handlers", ApiHandlers(version={"version": "1"}))
        self.service = ApiService(self.env, KindTable(KNOWN), self, **options)  # type: ignore[arg-type]
        self.service.register()

    def replica(self) -> Cluster | None:
        return self._cluster

    def leads(self) -> bool:
        return self._leads

    def votes(self, uid: str) -> bool:
        return uid in {"n1", "n2"}

    def in_touch(self) -> bool:
        return self.touch

    def candidates(self) -> list[str]:
        return list(self.others)

    async def prepare(self, **policy: Any) -> Node:
        """Fill the state; without a *policy* the word of every node counts in full."""
        ops = [Put(kind="Namespace", namespace="", name="default", spec={}, uid=self.env.new_id())]
        for number in (1, 2, 3):
            spec = {"address": f"host{number}:1", "raftId": number}
            put = Put(kind="Node", namespace="", name=f"node{number}", spec=spec, uid=f"n{number}")
            ops.append(put)
        spec = {"clusterId": "c", "localUsers": "nodes", **policy}
        config = Put(kind="ClusterConfig", namespace="", name="cluster", spec=spec, uid="c")
        assert self._cluster is not None
        await self._cluster.commit((*ops, config), actor="test", timeout_s=1)
        return self

    async def call(
        self,
        method: str,
        target: str,
        body: Any = None,
        *,
        principal: Principal | None = ROOT,
        key: str = "",
        **headers: str,
    ) -> Response:
        path, _, text = target.partition("?")
        query = dict(pair.split("=", 1) for pair in text.split("&") if pair)
        data = (
            b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        )
        caller = Caller(principal=principal, api_key=key)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.service.handle(
            Request(method=method, path=path, query=query, headers=given, body=data, caller=caller)
        )


def load(response: Response) -> Any:
    return msgspec.json.decode(response.body)


def app(name: str = "web", **spec: Any) -> dict[str, Any]:
    return {"kind": "App", "metadata": {"name": name}, "spec": spec}


def path(name: str = "web") -> str:
    return f"/v1/namespaces/default/apps/{name}"
