"""The node's functions: guests and code are made ready ahead of calls, calls are given instances.

A call takes no commit, no build and no question to another node on its way through here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from blixard.base.errors import BlixardError
from blixard.functions.acts import WAIT_MAX_S, Act, End, Give, Instance, Refuse, Start, Waiting
from blixard.functions.figures import Figures
from blixard.functions.pool import NodePool
from blixard.functions.spec import FunctionDuties, FunctionDuty, same_guest
from blixard.functions.worker import (
    CallAnswer,
    CallRequest,
    Guests,
    Prepared,
    StartOrder,
)
from blixard.ports.environment import Environment
from blixard.ports.guests import GuestBuilder
from blixard.ports.hypervisor import Hypervisor, HypervisorInstance

CALLS_KEPT = 1_000
STOP_S = 3.0
ASK_AGAIN_S = 1.0
LEAST_S = 0.05  # of a call's time must be left when it gets its instance
NEWER_S = 2.0  # how long a call waits for code that is newer than what can be started here
PREPARE_FIRST_S, PREPARE_MAX_S = 1.0, 120.0
_MS = 1000.0


class Authority(Protocol):
    """What the node may do now."""

    def granted(self) -> bool:
        """Tell whether the lease is valid and the duties were read under its epoch."""

    @property
    def epoch(self) -> int:
        """The node's epoch."""


class CallRecord(msgspec.Struct, frozen=True):
    """One call that ended here; kept in a ring."""

    function: str
    request_id: str
    ended_ms: int
    status: str
    cold: bool
    phases_ms: dict[str, float]


class FunctionNode:
    """All functions on one node."""

    def __init__(
        self,
        env: Environment,
        *,
        node_name: str,
        hypervisor: Hypervisor,
        builder: GuestBuilder,
        authority: Authority,
        fetch: FetchSource,
    ) -> None:
        self._env = env
        self._node_name = node_name
        self._builder = builder
        self._authority = authority
        self._fetch = fetch
        self._prepared: dict[tuple[str, str], Prepared] = {}  # by function uid and digest
        self._preparing: dict[tuple[str, str], FunctionDuty] = {}
        self._guests = Guests(env, hypervisor, node_name)
        self._hypervisor = hypervisor
        self.pool = NodePool(env.new_id)
        self._tickets: dict[int, asyncio.Future[Instance]] = {}
        self._last_ticket = 0
        self._stopped = False
        # Of instances not called yet: when they were ready, and how long their start took.
        self._starts: dict[str, tuple[float, dict[str, float]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._news = asyncio.Event()
        self.records: deque[CallRecord] = deque(maxlen=CALLS_KEPT)

    async def stop(self) -> None:
        """End all guests, within a few seconds: after this daemon nobody calls them."""
        self._stopped = True
        self.pool.stop()
        self._act()
        try:
            async with asyncio.timeout(STOP_S):
                while self.pool.used_mib:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            self._env.log("warning", "functions_not_ended", memory_mib=self.pool.used_mib)

    # -- duties --

    def begin(self, processes: list[HypervisorInstance]) -> None:
        """End what a daemon before left behind: nobody knows what those guests do."""
        for process in processes:
            if process.plan.purpose == "function":
                self.pool.leftover(process.instance_uid, process.plan.memory_mib)
        self._act()

    def assign(self, duties: FunctionDuties) -> None:
        """Take the node's functions, and begin to make ready what is new."""
        if self._stopped:
            return
        self.pool.assign(duties)
        uids = {duty.uid for duty in duties.functions}
        for key in [key for key in self._prepared if key[0] not in uids]:
            del self._prepared[key]
        for duty in duties.functions:
            key = (duty.uid, duty.digest)
            ready = self.pool.is_ready_for(duty.uid, duty.generation)
            if not ready and not self._is_being_prepared(duty):
                self._preparing[key] = duty
                self._env.spawn(self._prepare(duty), name="function guest")
        self._act()

    def _is_being_prepared(self, duty: FunctionDuty) -> bool:
        other = self._preparing.get((duty.uid, duty.digest))
        return other is not None and same_guest(other, duty)

    def _is_wanted(self, duty: FunctionDuty) -> bool:
        """Tell whether a duty is still what the node is to serve; limits may have changed."""
        newest = self.pool.duty(duty.uid)
        return newest is not None and same_guest(newest, duty)

    async def _prepare(self, duty: FunctionDuty) -> None:
        """Get the source and build the guest, again and again until both are here."""
        key, pause_s = (duty.uid, duty.digest), PREPARE_FIRST_S
        while self._is_wanted(duty):
            try:
                source = await self._fetch(duty)
                built = await self._builder.build(duty.recipe, lambda _line: None)
            except (BlixardError, OSError) as error:
                self.pool.not_prepared(duty, str(error))
                self._env.log("warning", "function_not_built", name=duty.name, detail=str(error))
                await asyncio.sleep(pause_s)
                pause_s = min(PREPARE_MAX_S, pause_s * 2)
                continue
            if self._is_wanted(duty):
                for old in [old for old in self._prepared if old[0] == duty.uid]:
                    del self._prepared[old]
                self._prepared[key] = Prepared(built.runner, source)
                self.pool.prepared(duty)
                self._act()
            break
        if self._preparing.get(key) is duty:
            del self._preparing[key]

    # -- calls --

    async def call(self, request: CallRequest) -> CallAnswer:
        """Run a call here.

        Raises:
            BlixardError: FUNCTION_THROTTLED, FUNCTION_NOT_READY, NOT_FOUND: it did not run;
                OUTCOME_UNKNOWN: it may have run.
        """
        arrived_s = _now()
        end_s = arrived_s + request.left_s
        # A call that got its instance in the last moment would be begun and not answered.
        least_s = min(LEAST_S, request.left_s / 2)
        until_s = min(end_s - least_s, arrived_s + WAIT_MAX_S)
        if not self._authority.granted():
            raise BlixardError("FUNCTION_NOT_READY", "this node has no lease: it serves no calls")
        await self._newer(request, min(until_s, arrived_s + NEWER_S))
        instance = await self._instance_for(request, until_s)
        given_s = _now()
        ready_s, started_ms = self._starts.pop(instance.uid, (0.0, None))
        if ready_s < arrived_s:
            started_ms = None  # it waited for a call, so this one did not wait for its start
        queue_ms = (given_s - arrived_s) * _MS
        answer = await self._run(request, instance, end_s)
        phases_ms = {**_start_phases(queue_ms, started_ms), **answer.phases_ms}
        answer = msgspec.structs.replace(answer, cold=started_ms is not None, phases_ms=phases_ms)
        self.records.append(
            CallRecord(
                request.function, request.request_id, self._env.wall_time_ms(), answer.status,
                answer.cold, phases_ms,
            )
        )  # fmt: skip
        return answer

    async def _newer(self, request: CallRequest, until_s: float) -> None:
        """Let a call that follows a change get the new code, where that is quickly there."""
        while not self.pool.is_ready_for(request.function, request.generation):
            if not request.patient and self.pool.duty(request.function) is None:
                return
            self._news.clear()
            try:
                async with asyncio.timeout_at(until_s):
                    await self._news.wait()
            except TimeoutError:
                return

    async def _instance_for(self, request: CallRequest, until_s: float) -> Instance:
        self._last_ticket += 1
        ticket = self._last_ticket
        found: asyncio.Future[Instance] = asyncio.get_running_loop().create_future()
        self._tickets[ticket] = found
        waiting = Waiting(ticket, request.generation, until_s, request.patient)
        self.pool.call(request.function, waiting, _now())
        self._act()
        try:
            return await found
        except asyncio.CancelledError:
            self.pool.cancel(request.function, ticket)
            if found.done() and not found.cancelled() and found.exception() is None:
                self.pool.freed(found.result().uid, _now())
            self._act()
            raise
        finally:
            self._tickets.pop(ticket, None)

    async def _run(self, request: CallRequest, instance: Instance, end_s: float) -> CallAnswer:
        """Have an instance serve a call; it is used again only after an answer in time."""
        began_s, reusable = _now(), False
        duty = self.pool.duty(request.function) or instance.duty
        left_s = max(0.001, end_s - began_s)
        try:
            result = await self._guests.invoke(
                instance, request, timeout_s=duty.timeout_s, left_s=left_s
            )
            reusable = self.reusable(result.status)
        finally:
            if reusable:
                self.pool.freed(instance.uid, _now())
            else:
                self.pool.broken(instance.uid)
            self._act()
        whole_ms = (_now() - began_s) * _MS
        phases_ms = {
            "handler": result.duration_ms,
            "answer": max(0.0, whole_ms - result.duration_ms),
        }
        return CallAnswer(
            status=result.status,
            payload=result.payload,
            error_type=result.error_type,
            log_tail=result.log_tail,
            node=self._node_name,
            instance=instance.uid,
            cold=False,
            phases_ms=phases_ms,
        )

    def reusable(self, status: str) -> bool:
        """Tell whether an instance may serve another call after one that ended so."""
        return status != "timeout"

    # -- what others see --

    def figures(self) -> list[Figures]:
        """Return a line for each function."""
        return self.pool.figures(_now())

    def figures_of(self, function_uid: str) -> Figures | None:
        """Return the line of one function, None where this node serves none of it."""
        if not self._authority.granted():
            return None
        return self.pool.figures_of(function_uid, _now())

    def changed(self, instance_uid: str) -> None:
        """Look after a process of which something was heard."""
        if self.pool.has(instance_uid):
            self._guests.changed(instance_uid)
            self._env.spawn(self._look_after(instance_uid), name="function process")

    def look(self) -> None:
        """Act on what may have changed: the lease, for one."""
        self._act()

    async def _look_after(self, instance_uid: str) -> None:
        """Ask what became of a process until the guard answers, or the process is given up."""
        while self.pool.has(instance_uid):
            try:
                processes = await self._hypervisor.instances()
            except (BlixardError, OSError) as error:
                self._env.log("warning", "function_not_looked_after", detail=str(error))
                await asyncio.sleep(ASK_AGAIN_S)
                continue
            states = {p.instance_uid: p.state for p in processes}
            if states.get(instance_uid) == "exited":
                self.pool.broken(instance_uid)
                self._act()
            return

    # -- acting --

    def _act(self) -> None:
        """Do what the pool says, until it says nothing more."""
        self._news.set()
        for act in self.pool.acts(_now(), may_start=self._authority.granted()):
            self._do(act)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        next_s = self.pool.next_s(_now())
        if next_s is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(next_s, loop.time() + 0.001), self._act)

    def _do(self, act: Act) -> None:
        match act:
            case Give():
                ticket = self._tickets.pop(act.ticket, None)
                if ticket is None or ticket.done():
                    self.pool.freed(act.instance.uid, _now())
                    self._timer = None
                    asyncio.get_running_loop().call_soon(self._act)
                else:
                    ticket.set_result(act.instance)
            case Refuse():
                ticket = self._tickets.pop(act.ticket, None)
                if ticket is not None and not ticket.done():
                    ticket.set_exception(refused(act.code, act.reason))
            case Start():
                duty = act.instance.duty
                prepared = self._prepared[duty.uid, duty.digest]
                order = StartOrder(act.instance, prepared, self._authority.epoch)
                self._guests.begin(act.instance.uid)
                self._env.spawn(self._start(order), name="function start")
            case End():
                self._starts.pop(act.instance_uid, None)
                self._env.spawn(self._end(act.instance_uid), name="function end")

    async def _start(self, order: StartOrder) -> None:
        instance = order.instance
        try:
            phases_ms = await self._guests.start(order)
        except (BlixardError, OSError) as error:
            code = error.code if isinstance(error, BlixardError) else "INTERNAL"
            said = error.message if isinstance(error, BlixardError) else str(error)
            self._env.log("warning", "function_start_failed", uid=instance.uid, detail=str(error))
            self.pool.start_failed(instance.uid, code, said, _now())
        else:
            if instance.state == "starting":
                self._starts[instance.uid] = _now(), phases_ms
            self.pool.started(instance.uid, _now())
        self._act()

    async def _end(self, instance_uid: str) -> None:
        await self._guests.end(instance_uid)
        self.pool.gone(instance_uid)
        self._act()


def refused(code: str, reason: str) -> BlixardError:
    """Return the error of a call that did not run; ``refused`` tells a gateway to ask elsewhere."""
    return BlixardError(code, reason, details={"refused": True})


def _start_phases(queue_ms: float, started_ms: dict[str, float] | None) -> dict[str, float]:
    """Return where the time before the handler went; a start may have begun before the call."""
    phases_ms = {"queue": queue_ms}
    for name in ("load", "boot") if started_ms is not None else ():
        assert started_ms is not None
        phases_ms[name] = min(started_ms[name], phases_ms["queue"])
        phases_ms["queue"] -= phases_ms[name]
    return phases_ms


FetchSource = Callable[[FunctionDuty], Awaitable[bytes]]


def _now() -> float:
    return asyncio.get_running_loop().time()
