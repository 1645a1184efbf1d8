from __future__ import annotations

import asyncio

from blixard.runtime.tasks import TaskSpawner, describe_crash


def test_crash_is_reported_with_name() -> None:
    crashes: list[tuple[str, str]] = []

    async def fail() -> None:
        raise ValueError("broken")

    async def run() -> None:
        spawner = TaskSpawner(lambda name, error: crashes.append((name, describe_crash(error))))
        spawner.spawn(fail(), name="bad")
        await asyncio.sleep(0.01)
        assert spawner.names() == []

    asyncio.run(run())
    assert crashes[0][0] == "bad"
    assert crashes[0][1].endswith("ValueError: broken")


def test_cancelled_task_is_no_crash() -> None:
    crashes: list[str] = []

    async def run() -> None:
        spawner = TaskSpawner(lambda name, _error: crashes.append(name))
        spawner.spawn(asyncio.sleep(60), name="first")
        spawner.spawn(asyncio.sleep(60), name="second")
        assert spawner.names() == ["first", "second"]
        await spawner.cancel_all()
        assert spawner.names() == []

    asyncio.run(run())
    assert crashes == []
