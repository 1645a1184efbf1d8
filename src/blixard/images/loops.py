"""A node's loop that builds the images which are its duty."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from blixard.base.errors import BlixardError
from blixard.images.duties import BuildQueue, ImageDuty, ImageReport, shortened
from blixard.ports.environment import Environment
from blixard.ports.guests import GuestBuilder

STEPS_MAX = 8  # steps of one build that are reported


class ImageBuilds:
    """Builds one image at a time and says how it goes; instances' builds do not wait for it."""

    def __init__(
        self,
        env: Environment,
        builder: GuestBuilder,
        report: Callable[[ImageReport], None],
    ) -> None:
        self._env = env
        self._builder = builder
        self._report = report
        self._queue = BuildQueue()
        self._wake = asyncio.Event()

    def assign(self, duties: tuple[ImageDuty, ...], epoch: int) -> None:
        """Take the node's duties as the newest view has them."""
        self._queue.take(duties, epoch)
        self._wake.set()

    async def run(self) -> None:
        """Build for ever."""
        while True:
            self._wake.clear()
            duty, pause_s = self._queue.next(_now())
            if duty is not None:
                await self._build(duty)
                continue
            try:
                async with asyncio.timeout(pause_s or None):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _build(self, duty: ImageDuty) -> None:
        self._report(ImageReport(duty.uid, duty.generation, "Building"))
        steps = 0

        def step(line: str) -> None:
            nonlocal steps
            steps += 1
            if steps <= STEPS_MAX:
                message = shortened(line)
                self._report(ImageReport(duty.uid, duty.generation, "Building", message))

        try:
            built = await self._builder.build(duty.recipe, step)
        except (BlixardError, OSError) as error:
            said = shortened(
                str(error) if isinstance(error, BlixardError) else f"INTERNAL: {error}"
            )
            self._env.log("warning", "image_build_failed", uid=duty.uid, detail=said)
            self._report(ImageReport(duty.uid, duty.generation, "Failed", said))
            self._queue.ended(duty, built=False, now_s=_now())
            return
        self._report(
            ImageReport(
                duty.uid,
                duty.generation,
                "Ready",
                digest=built.digest,
                size_bytes=built.size_bytes,
            )
        )
        self._queue.ended(duty, built=True, now_s=_now())


def _now() -> float:
    return asyncio.get_running_loop().time()
