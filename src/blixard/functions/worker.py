"""One instance of a function on its node: started, loaded, called, ended."""

from __future__ import annotations

import asyncio

import msgspec

from blixard.base.errors import BlixardError
from blixard.functions.acts import Instance
from blixard.ports.environment import Environment
from blixard.ports.hypervisor import (
    PAYLOAD_MAX_BYTES,
    Hypervisor,
    Invocation,
    InvocationResult,
    LaunchPlan,
)

BOOT_S = 60.0  # a guest that says nothing so long is ended
LOAD_S = 30.0
LOOK_FIRST_S, LOOK_MAX_S = 0.002, 0.05
ANSWER_MARGIN_S = 2.0  # after its time limit a call's guest has this long to say so
BACK_S = 0.2  # of the caller's time, at most a tenth of it, for that word to come back
END_RETRY_S = 1.0
_MS = 1000.0


class CallRequest(msgspec.Struct, frozen=True, array_like=True):
    """A call as it reaches the node that runs it; ``left_s`` is what remains of its time.

    ``patient``: wait for capacity; otherwise a refusal sends the caller elsewhere.
    """

    function: str
    generation: int
    request_id: str
    event: bytes
    left_s: float
    patient: bool
    context: dict[str, str] = {}


class CallAnswer(msgspec.Struct, frozen=True, array_like=True):
    """What came of a call, where it ran, and how long each phase took in milliseconds.

    ``queue`` until there was an instance for it, of which ``boot`` and ``load`` were its start;
    ``handler`` as the guest measured it, ``answer`` the rest of the way to the guest and back.
    """

    status: str
    payload: bytes
    error_type: str
    log_tail: list[str]
    node: str
    instance: str
    cold: bool
    phases_ms: dict[str, float]


class Prepared(msgspec.Struct, frozen=True):
    """What a start needs, and no call waits for: a runner, and the code."""

    runner: str
    source: bytes


class StartOrder(msgspec.Struct, frozen=True):
    """An instance to be started, and from what."""

    instance: Instance
    prepared: Prepared
    epoch: int


class Guests:
    """Acts on the processes of instances; decides nothing."""

    def __init__(self, env: Environment, hypervisor: Hypervisor, node_name: str) -> None:
        self._env = env
        self._hypervisor = hypervisor
        self._node_name = node_name
        self._changed: dict[str, asyncio.Event] = {}  # by instance uid, while it is being started
        self._ended: set[str] = set()  # of those: they are not wanted any more

    def changed(self, instance_uid: str) -> None:
        """Something happened to a process."""
        event = self._changed.get(instance_uid)
        if event is not None:
            event.set()

    def begin(self, instance_uid: str) -> None:
        """:meth:`start` follows: until it is over, :meth:`end` waits for it."""
        self._changed[instance_uid] = asyncio.Event()

    async def start(self, order: StartOrder) -> dict[str, float]:
        """Start a guest and give it its code; return the milliseconds of ``boot`` and ``load``.

        Raises:
            BlixardError: GUEST_START_FAILED, FUNCTION_LOAD_FAILED, HYPERVISOR_UNAVAILABLE.
        """
        began_s = _now()
        hypervisor, uid, duty = self._hypervisor, order.instance.uid, order.instance.duty
        try:
            self._check_wanted(uid)
            await hypervisor.start_paused(self._plan(order))
            await hypervisor.resume(uid)
            await self._booted(uid)
            booted_s = _now()
            await hypervisor.load_function(
                uid,
                source=order.prepared.source,
                handler=duty.handler,
                environment=duty.environment,
                timeout_s=LOAD_S,
            )
        finally:
            del self._changed[uid]
        return {"boot": (booted_s - began_s) * _MS, "load": (_now() - booted_s) * _MS}

    def _plan(self, order: StartOrder) -> LaunchPlan:
        duty, uid = order.instance.duty, order.instance.uid
        return LaunchPlan(
            instance_uid=uid,
            name=f"{duty.name}-{uid[-6:].lower()}",
            namespace=duty.namespace,
            node_epoch=order.epoch,
            run=1,
            runner=order.prepared.runner,
            memory_mib=duty.memory_mib,
            vcpus=duty.vcpus,
            node=self._node_name,
            purpose="function",
        )

    async def _booted(self, uid: str) -> None:
        """Wait until the agent answers; asks at every change, and now and then."""
        pause_s, changed = LOOK_FIRST_S, self._changed[uid]
        end_s = _now() + BOOT_S
        woken = False
        while True:
            changed.clear()
            self._check_wanted(uid)
            try:
                if (await self._hypervisor.guest_status(uid)).ready:
                    return
            except BlixardError as error:
                if error.code != "GUEST_UNREACHABLE":
                    raise
                if woken:
                    await self._check_alive(uid)
            if _now() >= end_s:
                raise BlixardError("GUEST_START_FAILED", f"no word from its agent in {BOOT_S:g} s")
            try:
                async with asyncio.timeout(pause_s):
                    await changed.wait()
                woken = True
            except TimeoutError:
                pause_s, woken = min(LOOK_MAX_S, pause_s * 1.5), False

    def _check_wanted(self, uid: str) -> None:
        if uid in self._ended:
            raise BlixardError("GUEST_START_FAILED", "it was ended before it had booted")

    async def _check_alive(self, uid: str) -> None:
        for process in await self._hypervisor.instances():
            if process.instance_uid == uid and process.state == "exited":
                words = " | ".join(self._hypervisor.console_tail(uid, 5))
                raise BlixardError("GUEST_START_FAILED", f"its process ended: {words}")

    async def invoke(
        self, instance: Instance, call: CallRequest, *, timeout_s: float, left_s: float
    ) -> InvocationResult:
        """Run the handler once: at most *timeout_s*, and at most what is left to the caller.

        Raises:
            BlixardError: OUTCOME_UNKNOWN: the guest fell silent; the call may have run.
        """
        limit_s = max(0.001, min(timeout_s, left_s - min(BACK_S, left_s / 10)))
        invocation = Invocation(
            request_id=call.request_id,
            handler=instance.duty.handler,
            event=call.event,
            deadline_s=limit_s,
            context={**call.context, "memory_limit_in_mb": str(instance.duty.memory_mib)},
        )
        try:
            async with asyncio.timeout(min(left_s, limit_s + ANSWER_MARGIN_S)):
                result = await self._hypervisor.invoke(instance.uid, invocation)
        except TimeoutError as error:
            raise unknown(f"its guest said nothing for {limit_s:g} s") from error
        except BlixardError as error:
            raise unknown(f"{error.code}: {error.message}") from error
        if len(result.payload) > PAYLOAD_MAX_BYTES:
            return InvocationResult(
                status="error",
                payload=b"null",
                error_type="PayloadTooLarge",
                log_tail=[f"the result has {len(result.payload)} bytes"],
                duration_ms=result.duration_ms,
            )
        return result

    async def end(self, instance_uid: str) -> None:
        """Kill a process; returns once it is gone, however often that must be asked for.

        One whose start is under way is not gone before that is over: it could come to life yet.
        """
        self._ended.add(instance_uid)
        self.changed(instance_uid)
        while not await self._is_gone(instance_uid):
            await asyncio.sleep(END_RETRY_S)
        self._ended.discard(instance_uid)

    async def _is_gone(self, uid: str) -> bool:
        starting = uid in self._changed
        try:
            await self._hypervisor.kill(uid)
            await self._hypervisor.forget(uid)
            left = [p for p in await self._hypervisor.instances() if p.instance_uid == uid]
        except (BlixardError, OSError) as error:
            detail = f"{type(error).__name__}: {error}"
            self._env.log("warning", "function_not_ended", uid=uid, detail=detail)
            return False
        return not starting and not left


def unknown(why: str) -> BlixardError:
    """Return what is said of a call of which nobody knows whether it ran."""
    return BlixardError(
        "OUTCOME_UNKNOWN",
        f"the call may have run, and is not repeated by the cluster: {why}",
        hint="repeat it if running it twice does no harm",
    )


def _now() -> float:
    return asyncio.get_running_loop().time()
