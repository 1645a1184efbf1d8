"""The one place that makes tasks: each belongs to the node, and a crash of one ends the node.

A task that died in silence would leave a node that looks alive and does half its work; a dead
process is noticed, restarted and recovers from its disk.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

Crash = Callable[[str, BaseException], None]


class TaskSpawner:
    """Makes tasks, keeps them alive, and reports the exception of one to *on_crash*."""

    def __init__(self, on_crash: Crash) -> None:
        self._on_crash = on_crash
        self._tasks: dict[asyncio.Task[None], None] = {}

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run *coroutine* as a task; cancelling it is no crash."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._finished)
        return task

    def names(self) -> list[str]:
        """Return the names of the running tasks, in the order of their start."""
        return [task.get_name() for task in self._tasks]

    async def cancel_all(self) -> None:
        """Cancel what still runs and wait for its end, youngest first."""
        current = asyncio.current_task()
        tasks = [task for task in reversed(self._tasks) if task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._on_crash(task.get_name(), error)


def is_being_cancelled() -> bool:
    """Tell whether the running task itself was asked to end.

    gRPC raises CancelledError also when only the *call* was cancelled (its channel was closed):
    that must not end the task that made the call.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def describe_crash(error: BaseException) -> str:
    """Return the exception with its traceback as text."""
    return "".join(traceback.format_exception(error)).rstrip()
