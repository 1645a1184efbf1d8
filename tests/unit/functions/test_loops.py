"""The node's side of calls, with a hypervisor in memory."""

import asyncio
import itertools

import pytest

from blixard.base.errors import BlixardError
from blixard.functions import loops, worker
from blixard.functions.loops import FunctionNode
from blixard.functions.spec import FunctionDuties
from blixard.functions.worker import CallRequest
from blixard.hypervisors.fake.hypervisor import FakeHypervisor
from blixard.ports.guests import BuiltGuest
from blixard.ports.hypervisor import GuestStatus, InvocationResult, LaunchPlan
from tests.unit.functions.duties import SOURCE, duty


class Outside:
    """The environment, builder and authority of a node that serves functions."""

    epoch = 1

    def __init__(self, *, source=SOURCE):
        self.lease = True
        self.source = source
        self.builds = []
        self.tasks = []
        self._numbers = itertools.count(1)
        self.hypervisor = FakeHypervisor()
        self._resume = self.hypervisor.resume
        self.hypervisor.resume = self.resume
        self.node = FunctionNode(
            self, node_name="n", hypervisor=self.hypervisor, builder=self, authority=self,
            fetch=self.fetch,
        )  # fmt: skip
        self.hypervisor.on_change(self.node.changed)

    async def resume(self, uid):
        await self._resume(uid)
        self.hypervisor.guests[uid] = GuestStatus(ready=True)

    async def build(self, recipe, _progress):
        self.builds.append(recipe)
        return BuiltGuest(runner="r", digest="d", size_bytes=1, build_s=0.0)

    async def fetch(self, _duty):
        return self.source.encode()

    def granted(self):
        return self.lease

    def new_id(self):
        return f"instance-{next(self._numbers):06}"

    def wall_time_ms(self):
        return 0

    def spawn(self, coroutine, *, name):
        self.tasks.append(asyncio.get_running_loop().create_task(coroutine, name=name))
        return self.tasks[-1]

    def log(self, *_words, **_fields):
        return None

    def assign(self, *duties, memory_mib=1024):
        self.node.assign(FunctionDuties(memory_mib, duties))

    async def call(self, event=b"{}", *, left_s=5.0, patient=True):
        request = CallRequest("f1", 1, "r", event, left_s, patient)
        return await self.node.call(request)

    async def running(self):
        return [p.instance_uid for p in await self.hypervisor.instances()]


def test_call_is_answered_with_its_phases():
    async def run():
        outside = Outside()
        outside.assign(duty())
        cold, warm = await outside.call(b"1"), await outside.call(b"2")
        assert (cold.payload, warm.payload) == (b"1", b"2")
        assert (cold.cold, warm.cold) == (True, False)
        assert cold.phases_ms.keys() == {"queue", "boot", "load", "handler", "answer"}
        assert warm.phases_ms.keys() == {"queue", "handler", "answer"}
        assert cold.instance == warm.instance
        assert len(outside.builds) == 1
        assert [record.cold for record in outside.node.records] == [True, False]

    asyncio.run(run())


def test_guest_is_built_before_any_call():
    async def run():
        outside = Outside()
        outside.assign(duty())
        await asyncio.sleep(0.01)
        assert len(outside.builds) == 1
        assert await outside.running() == []

    asyncio.run(run())


def test_guest_that_ends_during_a_call_leaves_the_outcome_open():
    async def run():
        outside = Outside()
        outside.assign(duty())
        uid = (await outside.call()).instance

        async def gone(_uid, _call):
            raise BlixardError("GUEST_UNREACHABLE", "it ended")

        invoke, outside.hypervisor.invoke = outside.hypervisor.invoke, gone
        with pytest.raises(BlixardError, match="not repeated") as raised:
            await outside.call()
        assert raised.value.code == "OUTCOME_UNKNOWN"
        outside.hypervisor.invoke = invoke
        assert (await outside.call()).instance != uid
        assert uid not in await outside.running()

    asyncio.run(run())


def test_instance_of_a_timeout_is_killed():
    async def run():
        outside = Outside()
        outside.hypervisor.handlers["main.handler"] = lambda _call: InvocationResult(
            status="timeout", payload=b"null"
        )
        outside.assign(duty())
        answer = await outside.call()
        assert answer.status == "timeout"
        await asyncio.sleep(0.01)
        assert await outside.running() == []

    asyncio.run(run())


def test_caller_that_leaves_costs_the_instance():
    async def run():
        outside = Outside()
        outside.assign(duty())
        await outside.call()
        entered = asyncio.Event()

        async def hangs(_uid, _call):
            entered.set()
            await asyncio.sleep(60)

        outside.hypervisor.invoke = hangs
        task = asyncio.get_running_loop().create_task(outside.call())
        await entered.wait()
        task.cancel()
        await asyncio.sleep(0.01)
        assert task.cancelled()
        assert await outside.running() == []
        assert outside.node.figures()[0].busy == 0

    asyncio.run(run())


def test_leftovers_of_a_daemon_before_are_ended():
    async def run():
        outside = Outside()
        for purpose in ("function", "vm"):
            plan = LaunchPlan(
                instance_uid=purpose, name="x-1", namespace="default", node_epoch=1, run=1,
                runner="r", memory_mib=128, vcpus=1, purpose=purpose,
            )  # fmt: skip
            await outside.hypervisor.start_paused(plan)
        outside.node.begin(await outside.hypervisor.instances())
        await asyncio.sleep(0.01)
        assert await outside.running() == ["vm"]
        assert outside.node.pool.used_mib == 0

    asyncio.run(run())


def test_no_call_is_served_without_a_lease():
    async def run():
        outside = Outside()
        outside.assign(duty())
        outside.lease = False
        with pytest.raises(BlixardError, match="no lease"):
            await outside.call()
        assert outside.node.figures_of("f1") is None

    asyncio.run(run())


def test_source_that_is_no_python_fails_the_call():
    async def run():
        outside = Outside(source="def handler(:\n")
        outside.assign(duty())
        with pytest.raises(BlixardError, match="invalid syntax") as raised:
            await outside.call()
        assert raised.value.code == "FUNCTION_LOAD_FAILED"

    asyncio.run(run())


def test_idle_guest_that_dies_is_replaced():
    async def run():
        outside = Outside()
        outside.assign(duty())
        uid = (await outside.call()).instance
        outside.hypervisor.crash(uid)
        await asyncio.sleep(0.01)
        assert (await outside.call()).instance != uid

    asyncio.run(run())


def test_guard_that_does_not_answer_is_asked_again_about_an_exit(monkeypatch):
    monkeypatch.setattr(loops, "ASK_AGAIN_S", 0.001)

    async def run():
        outside = Outside()
        outside.assign(duty())
        uid = (await outside.call()).instance
        answers, asked = outside.hypervisor.instances, []

        async def silent_twice():
            asked.append(uid)
            if len(asked) <= 2:
                raise BlixardError("UNREACHABLE", "the guard does not answer")
            return await answers()

        outside.hypervisor.instances = silent_twice
        outside.hypervisor.crash(uid)
        while outside.node.pool.has(uid):
            await asyncio.sleep(0.001)
        assert len(asked) > 2

    asyncio.run(asyncio.wait_for(run(), 10))


def test_result_that_is_too_large_is_an_error():
    async def run():
        outside = Outside()
        outside.hypervisor.handlers["main.handler"] = lambda _call: InvocationResult(
            status="ok", payload=b"0" * (6 << 20) + b"0"
        )
        outside.assign(duty())
        answer = await outside.call()
        assert (answer.status, answer.error_type) == ("error", "PayloadTooLarge")

    asyncio.run(run())


def test_orderly_stop_ends_all_guests():
    async def run():
        outside = Outside()
        outside.assign(duty(min_warm=2))
        await outside.call()
        assert len(await outside.running()) == 2
        await outside.node.stop()
        assert await outside.running() == []
        outside.assign(duty(min_warm=2))
        with pytest.raises(BlixardError, match="not served here"):
            await outside.call(left_s=0.05)

    asyncio.run(run())


def test_guest_that_is_ended_while_it_starts_leaves_nothing(monkeypatch):
    monkeypatch.setattr(worker, "END_RETRY_S", 0.001)

    async def run():
        outside = Outside()
        start, may_start = outside.hypervisor.start_paused, asyncio.Event()

        async def slow(plan):
            await may_start.wait()
            return await start(plan)

        outside.hypervisor.start_paused = slow
        outside.assign(duty(min_warm=1))
        await asyncio.sleep(0.01)
        (uid,) = outside.node.pool._of
        stopping = asyncio.create_task(outside.node.stop())
        await asyncio.sleep(0.01)
        assert outside.node.pool.has(uid), "its process may begin yet"
        may_start.set()
        await stopping
        assert await outside.running() == []
        assert not outside.node.pool.has(uid)
        assert all(task.exception() is None for task in outside.tasks if task.done())

    asyncio.run(asyncio.wait_for(run(), 10))


def test_guest_that_is_silent_is_given_up_within_the_callers_time():
    async def run():
        outside = Outside()
        outside.assign(duty())
        await outside.call()
        limits = []

        async def silent(_uid, call):
            limits.append(call.deadline_s)
            await asyncio.sleep(60)

        outside.hypervisor.invoke = silent
        with pytest.raises(BlixardError, match="said nothing"):
            await outside.call(left_s=0.1)
        assert limits[0] < 0.1

    asyncio.run(run())
