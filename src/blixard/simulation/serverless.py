"""Functions for authors of simulations: real nodes, a virtual clock, callers that call.

The names are those of a simulator of serverless functions; what they act on is the product: the
API, the gateway and the pools of the nodes, with guests that boot as fast as they are told to.
"""

from __future__ import annotations

import base64
import time
from typing import Any, Self

import msgspec

from blixard.api.messages import Caller, Request, decode_response, encode_response
from blixard.base.errors import BlixardError
from blixard.cluster.resources import Put
from blixard.node.api import NodeApi
from blixard.security.principals import ROOT
from blixard.simulation.cluster import App
from blixard.simulation.environment import SimEnvironment
from blixard.simulation.loop import LivelockError
from blixard.simulation.network import LinkFaults
from blixard.simulation.observed import Watch
from blixard.simulation.report import Report
from blixard.simulation.scenarios.stage import BrokenPromiseError, Scenario, Stage
from blixard.simulation.under_test import SECOND
from blixard.simulation.whole import NodeApp
from blixard.simulation.world import Host

__all__ = ["Invoked", "ServerlessSimulator"]

INVOKE = "sim.invoke"
SOURCE = "def handler(event, context):\n    return {'event': event}\n"
NEAR = LinkFaults(latency_min_ms=0.1, latency_mean_ms=0.1)  # callers and nodes in one rack
_CALLER = 93
_PATIENCE_S = 1.0  # that a caller waits beyond the deadline which it names
_READY_S = 20.0
_MIB = 16 << 10


class _Ask(msgspec.Struct, frozen=True, array_like=True):
    function: str
    event: bytes
    request_id: str
    deadline_s: float


class Invoked(msgspec.Struct, kw_only=True):
    """One call as its caller sees it; ``code`` is empty for a result, else that of the error."""

    request_id: str
    function: str
    event: Any
    node: str
    sent_ns: int
    ended_ns: int = 0
    code: str = ""
    result: Any = None
    headers: dict[str, str] = {}

    @property
    def ok(self) -> bool:
        """Tell whether it brought a result."""
        return self.ended_ns > 0 and not self.code

    @property
    def latency_s(self) -> float:
        """Virtual seconds from the request to the answer."""
        return (self.ended_ns - self.sent_ns) / SECOND


def serve_functions(stage: Stage, memory_mib: int = _MIB) -> None:
    """Let every node have memory for functions and answer calls; before the hosts boot."""

    def make(host: Host, hosts: list[Host], watch: Watch) -> App:
        assert host.daemon is not None
        config = stage.configs.get(host.number, stage.config)
        app = NodeApp(host, hosts, watch, config=config, function_memory_mib=memory_mib)
        api = NodeApi(app.node)
        api.register()

        async def invoke(_uid: str, payload: bytes) -> bytes:
            asked = msgspec.msgpack.decode(payload, type=_Ask)
            request = Request(
                method="POST", path=f"/v1/namespaces/default/functions/{asked.function}/invoke",
                body=asked.event, caller=Caller(principal=ROOT), deadline_s=asked.deadline_s,
                request_id=asked.request_id,
            )  # fmt: skip
            return encode_response(await api.service.handle(request))

        host.daemon.env.transport.on_request(INVOKE, invoke)
        return app

    stage.factory = make
    stage.oracles.calls.incarnation = lambda number: stage.host(number).incarnation


class Callers:
    """Calls functions on a stage, many at a time; checks that each answer is the call's own."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._env: SimEnvironment = stage.world.client(_CALLER)
        self.calls: list[Invoked] = []
        self.under_way = 0

    def deploy(self, name: str, **spec: Any) -> None:
        """Create or change a function; waits until a node is ready for it."""
        document = {"source": SOURCE, **spec}
        uid = self._stage.draw.randbytes(10)
        put = Put(
            kind="Function", namespace="default", name=name, spec=document,
            uid=base64.b32encode(uid).decode(),
        )  # fmt: skip
        self._stage.commit(put)
        self._stage.until(_READY_S, lambda: self.is_ready(name), f"{name} is ready")

    def is_ready(self, name: str) -> bool:
        """Tell whether every node that serves the function could start it now."""
        lines = [
            line
            for host in self._stage.world.hosts if host.daemon is not None
            for line in self._stage.node(host).node.function_pools.pool.figures(0.0)
        ]  # fmt: skip
        uid = self._uid(name)
        mine = [line for line in lines if line.uid == uid]
        return bool(mine) and all(line.built for line in mine)

    def _uid(self, name: str) -> str:
        leaders = self._stage.leaders()
        voter = self._stage.node(leaders[0]).node.voter if leaders else None
        found = voter.machine.store.get("Function", "default", name) if voter is not None else None
        return found.metadata.uid if found is not None else ""

    def send(self, name: str, event: Any, *, node: Host, deadline_s: float = 30.0) -> Invoked:
        """Begin a call at a node, and do not wait for it."""
        call = Invoked(
            request_id=self._env.new_id(), function=name, event=event, node=node.uid,
            sent_ns=self._stage.now_ns,
        )  # fmt: skip
        self.calls.append(call)
        self.under_way += 1
        self._stage.oracles.calls.sent[call.request_id] = 1
        self._env.spawn(self._run(call, deadline_s), name="caller")
        return call

    async def _run(self, call: Invoked, deadline_s: float) -> None:
        asked = _Ask(call.function, msgspec.json.encode(call.event), call.request_id, deadline_s)
        try:
            data = await self._env.transport.request(
                call.node, INVOKE, msgspec.msgpack.encode(asked),
                timeout_s=deadline_s + _PATIENCE_S,
            )  # fmt: skip
        except BlixardError as error:
            call.code = "HANGS" if error.code == "TIMEOUT" else error.code
        else:
            response = decode_response(data)
            body = msgspec.json.decode(response.body)
            call.headers = response.headers
            call.result = body
            call.code = "" if response.status < 400 else str(body["code"])
        call.ended_ns = self._stage.now_ns
        self.under_way -= 1
        self._judge(call)

    def _judge(self, call: Invoked) -> None:
        if call.ok and call.result != {"event": call.event}:
            text = f"{call.request_id} with {call.event} is answered {call.result}"
            self._stage.oracles.fail("another's result", text)
        if call.ok and not self._stage.oracles.calls.begun(call.request_id):
            self._stage.oracles.fail("result from nowhere", call.request_id)

    def idle(self, within_s: float) -> None:
        """Wait until every call has ended."""
        self._stage.until(
            within_s, lambda: not self.under_way, "every call ends",
            seen=lambda: f"{self.under_way} of {len(self.calls)} go on",
        )  # fmt: skip

    def codes(self) -> dict[str, int]:
        """Return how many calls ended how; results under the empty text."""
        counted: dict[str, int] = {}
        for call in self.calls:
            counted[call.code] = counted.get(call.code, 0) + 1
        return dict(sorted(counted.items()))


def set_boot_time(stage: Stage, seconds: float) -> None:
    """Let every guest boot in exactly that time from now on, from its start to its first word."""
    for host in stage.world.hosts:
        host.boot_s = seconds
        if host.up:
            host.guests.boot_s = seconds


class ServerlessSimulator:
    """A cluster that serves functions, in virtual time; *seed* decides all that is drawn.

    Raises:
        BrokenPromiseError: the cluster could not be formed.
    """

    def __init__(self, seed: int = 1, *, nodes: int = 3, function_memory_mib: int = _MIB) -> None:
        if nodes < 1 or nodes % 2 == 0:
            raise ValueError(f"{nodes} nodes: an odd number, so that all of them vote")
        scenario = Scenario(
            name="own", rows=(), incident="", act=lambda _stage: None, nodes=nodes, node=True,
            prepare=lambda stage: serve_functions(stage, function_memory_mib), clients=1,
        )  # fmt: skip
        self.stage = Stage(scenario, seed)
        self.stage.replay = f"the same calls after ServerlessSimulator({seed}, {nodes=})"
        self._began_s = time.perf_counter()
        self._report: Report | None = None
        try:
            self.stage.open()
        except BrokenPromiseError:
            self.stage.world.close()
            raise
        assert self.stage.operator is not None
        self.stage.operator.stopped = True  # nobody wants VMs
        self.stage.world.network.faults = NEAR
        self.callers = Callers(self.stage)

    def set_vm_boot_time(self, seconds: float) -> None:
        """Let every guest boot in exactly that time from now on."""
        set_boot_time(self.stage, seconds)

    def now(self) -> float:
        """Return the virtual time in seconds."""
        return self.stage.now_ns / SECOND

    def deploy_function(self, name: str, **spec: Any) -> None:
        """Create a function (fields of its spec by their names in documents), or change it."""
        self.callers.deploy(name, **spec)

    def invoke_function(self, name: str, event: Any, *, deadline_s: float = 30.0) -> Invoked:
        """Call a function and let the world run until the answer is there."""
        call = self.spawn_request(name, event, deadline_s=deadline_s)
        self.stage.until(deadline_s + 2, lambda: call.ended_ns > 0, f"{name} answers")
        return call

    def spawn_request(self, name: str, event: Any, *, deadline_s: float = 30.0) -> Invoked:
        """Begin a call at some node, and let no time pass."""
        node = self.stage.draw.choice(self.stage.world.hosts)
        return self.callers.send(name, event, node=node, deadline_s=deadline_s)

    def run_until_idle(self, within_s: float = 60.0) -> None:
        """Let the world run until every call has ended."""
        self.callers.idle(within_s)

    def successful_invocations(self) -> int:
        """Return how many calls have brought a result."""
        return sum(call.ok for call in self.callers.calls)

    def finish(self) -> Report:
        """Compare all nodes, switch all off and on, compare again; the world ends.

        Raises:
            BrokenPromiseError: all that the oracles said.
        """
        if self._report is None:
            try:
                self.stage.close()
            except BrokenPromiseError:
                self.stage.happened("stage over")
            except LivelockError as error:
                self.stage.oracles.fail("livelock", str(error))
            self._report = self.stage.conclude(time.perf_counter() - self._began_s)
        if not self._report.ok:
            raise BrokenPromiseError(self._report.violations, self._report.replay)
        return self._report

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Finish, or end the world if something was raised."""
        if error is None:
            self.finish()
        elif self._report is None:
            self.stage.world.close()
