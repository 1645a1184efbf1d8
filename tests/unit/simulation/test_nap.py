"""A nap is a sleep: it takes its time, and can be cut short."""

import asyncio
import random

import pytest

from blixard.simulation.loop import SimLoop
from blixard.simulation.nap import Nap


@pytest.fixture
def loop():
    return SimLoop(order=random.Random(1), mode="random")


def test_takes_as_long_as_it_says_in_one_callback(loop):
    async def main():
        await Nap(loop.root, 1.5)
        await Nap(loop.root, 0.25)
        return loop.time()

    assert loop.run_until_complete(main()) == 1.75
    assert loop.steps == 3


def test_cut_short_by_a_timeout(loop):
    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await Nap(loop.root, 2)
        return loop.time()

    assert loop.run_until_complete(main()) == 0.5


def test_cancelled_before_it_began_and_after_it_ended(loop):
    async def main():
        ended = asyncio.create_task(short())
        early = asyncio.create_task(short())
        early.cancel()
        await asyncio.gather(early, return_exceptions=True)
        assert early.cancelled()
        await ended
        assert not ended.cancel()

    async def short():
        await Nap(loop.root, 0.1)

    loop.run_until_complete(main())


def test_cancelled_twice_while_it_lasts(loop):
    woke = []

    async def sleeper():
        await Nap(loop.root, 0.1)
        woke.append(loop.time())

    async def main():
        task = asyncio.create_task(sleeper())
        await asyncio.sleep(0.05)
        task.cancel()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    loop.run_until_complete(main())
    loop.run_until(10**9)
    assert woke == []
