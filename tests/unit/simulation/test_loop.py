"""The loop keeps asyncio's promises in virtual time."""

import asyncio
import gc
import random
import warnings

import pytest

from blixard.simulation.clock import HostClock
from blixard.simulation.forbidden import ForbiddenError
from blixard.simulation.loop import LivelockError, SimLoop
from blixard.simulation.process import Process
from blixard.simulation.world import World

SECOND = 1_000_000_000


def make_loop(mode="fifo", seed=1):
    return SimLoop(order=random.Random(seed), mode=mode)


def run(coroutine, **options):
    loop = make_loop(**options)
    return loop, loop.run_until_complete(coroutine)


def test_sleep_takes_virtual_time_only():
    loop, _ = run(asyncio.sleep(3600))
    assert loop.now_ns == 3600 * SECOND


def test_timeout_cancels_what_is_too_slow():
    async def main():
        try:
            async with asyncio.timeout(1):
                await asyncio.sleep(5)
        except TimeoutError:
            return asyncio.get_running_loop().time()
        return None

    assert run(main())[1] == pytest.approx(1.0)


def test_queue_event_and_gather_work():
    async def main():
        queue: asyncio.Queue[int] = asyncio.Queue(1)
        done = asyncio.Event()

        async def produce():
            for number in range(5):
                await queue.put(number)
            done.set()

        async def consume():
            return [await queue.get() for _ in range(5)]

        _, taken = await asyncio.gather(produce(), consume())
        await done.wait()
        return taken

    assert run(main(), mode="random")[1] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("mode", ["fifo", "random"])
def test_callbacks_of_one_process_keep_their_order(mode):
    loop = make_loop(mode)
    seen = []
    processes = [Process(loop, str(i), host=i, clock=HostClock()) for i in range(4)]
    for number in range(20):
        for process in processes:
            process.call_soon(seen.append, (process.name, number))
    loop.run_until(0)
    for process in processes:
        assert [n for name, n in seen if name == process.name] == list(range(20))


def test_random_mode_orders_by_its_seed():
    def order(seed):
        loop = make_loop("random", seed)
        seen = []
        for i in range(6):
            process = Process(loop, str(i), host=i, clock=HostClock())
            process.call_soon(seen.append, i)
        loop.run_until(0)
        return seen

    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(5)}) > 1


def test_dead_process_runs_no_finally():
    loop = make_loop()
    process = Process(loop, "node", host=1, clock=HostClock())
    seen = []

    async def work():
        try:
            await asyncio.sleep(1)
        finally:
            seen.append("finally")

    process.spawn(work(), name="work")
    loop.run_until(SECOND // 2)
    process.kill()
    loop.run_until(10 * SECOND)
    assert seen == []
    loop.close()


def test_paused_process_catches_up_later():
    loop = make_loop()
    slow = Process(loop, "slow", host=1, clock=HostClock())
    seen = []
    for second in (1, 2):
        slow.call_at_ns(second * SECOND, lambda: seen.append(loop.now_ns // SECOND))
    slow.pause()
    loop.run_until(5 * SECOND)
    assert seen == []
    slow.resume()
    loop.run_until(6 * SECOND)
    assert seen == [5, 5]


def test_fast_clock_ends_a_sleep_early():
    loop = make_loop()
    fast = Process(loop, "fast", host=1, clock=HostClock(drift_ppb=100_000_000))
    ended = []

    async def work():
        await asyncio.sleep(1.1)
        ended.append(loop.now_ns)

    fast.spawn(work(), name="work")
    loop.run_until(2 * SECOND)
    assert ended == [pytest.approx(SECOND, abs=2)]


def test_tiny_rest_of_a_sleep_moves_time():
    loop = make_loop()

    async def main():
        end = loop.time() + 1e-12
        async with asyncio.timeout_at(end):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        loop.run_until_complete(main())
    assert loop.now_ns > 0


def test_endless_callbacks_are_a_livelock():
    async def spin():
        while True:
            await asyncio.sleep(0)

    with pytest.raises(LivelockError):
        run(spin())


@pytest.mark.parametrize("name", ["run_in_executor", "add_reader", "subprocess_exec"])
def test_real_world_is_out_of_reach(name):
    with pytest.raises(ForbiddenError, match=name):
        getattr(make_loop(), name)(None, None)


def test_threads_are_out_of_reach():
    with pytest.raises(ForbiddenError):
        run(asyncio.to_thread(print))


async def _never_awaited(then=None):
    await then


def test_what_never_ran_leaves_no_warning_behind():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        world = World(1, 1, mode="fifo", observer=None)
        host = world.hosts[0]
        host.boot()
        for number in range(2):
            daemon = host.start_daemon()
            daemon.env.spawn(_never_awaited(_never_awaited()), name=f"task {number}")
            if not number:
                host.kill_daemon()
        world.client(1).spawn(_never_awaited(), name="client")
        world.close()
        del world, host, daemon
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
