"""A node's builds as they are told: begun, step by step, ended."""

import asyncio
from types import SimpleNamespace

from blixard.base.errors import BlixardError
from blixard.images.duties import ImageDuty, ImageReport
from blixard.images.loops import STEPS_MAX, ImageBuilds
from blixard.ports.guests import BuiltGuest, GuestRecipe

DUTY = ImageDuty("uid", 1, GuestRecipe(packages=("jq",)))


def told(*, steps=(), error=None):
    """Return the reports of one build."""

    class Builder:
        async def build(self, recipe, progress):
            assert recipe == DUTY.recipe
            for line in steps:
                progress(line)
            if error is not None:
                raise error
            return BuiltGuest(runner="r", digest="d", size_bytes=5, build_s=1.0)

    async def run():
        ended, reports = asyncio.Event(), []

        def report(said):
            reports.append(said)
            if said.phase != "Building":
                ended.set()

        env = SimpleNamespace(log=lambda *_words, **_fields: None)
        builds = ImageBuilds(env, Builder(), report)
        task = asyncio.create_task(builds.run())
        builds.assign((DUTY,), 1)
        await ended.wait()
        builds.assign((DUTY,), 1)
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        return reports

    return asyncio.run(run())


def test_a_build_is_told_from_beginning_to_end():
    assert told(steps=("unpacking", "packing")) == [
        ImageReport("uid", 1, "Building"),
        ImageReport("uid", 1, "Building", "unpacking"),
        ImageReport("uid", 1, "Building", "packing"),
        ImageReport("uid", 1, "Ready", digest="d", size_bytes=5),
    ]


def test_a_failure_is_told_with_its_reason_and_not_repeated_at_once():
    assert told(error=BlixardError("PACKAGE_UNKNOWN", "no jq"))[1:] == [
        ImageReport("uid", 1, "Failed", "PACKAGE_UNKNOWN: no jq")
    ]
    assert told(error=OSError("gone"))[-1].message == "INTERNAL: gone"


def test_a_talkative_build_is_cut_short():
    reports = told(steps=[str(n) for n in range(100)])
    assert len(reports) == 1 + STEPS_MAX + 1
