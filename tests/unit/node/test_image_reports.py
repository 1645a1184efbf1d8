"""How a node tells the leader of its images: again on a conflict, no more when it is of no use."""

import asyncio

import msgspec
import pytest

from blixard.cluster.leases import LeaseConfig
from blixard.hypervisors.fake.hypervisor import FakeHypervisor
from blixard.images.duties import ImageReport
from blixard.node import messages as m
from blixard.node.kinds import Program
from blixard.node.link import NodeLink

READY = ImageReport("uid", 1, "Ready", digest="d", size_bytes=5)


class Leader:
    """Answers reports with these codes in turn, with those of an older program if there is none."""

    def __init__(self, *codes):
        self.codes, self.heard, self.quiet = list(codes), [], asyncio.Event()

    async def ask(self, method, payload, *, timeout_s):
        assert (method, timeout_s > 0) == (m.REPORT, True)
        reports = msgspec.msgpack.decode(payload, type=m.Reports)
        self.heard += reports.images
        code = self.codes.pop(0)
        if not self.codes:
            self.quiet.set()
        return m.encode(m.ReportsReply((), () if code is None else (code,)))

    def log(self, *_words, **_fields):
        return None


@pytest.mark.parametrize("last", ["", "NOT_FOUND", "FENCED", None])
def test_a_report_is_sent_until_it_is_taken_or_of_no_use(last):
    async def run():
        leader = Leader("CONFLICT", last)
        link = NodeLink(leader, leader, LeaseConfig(), FakeHypervisor(), program=Program())
        task = asyncio.create_task(link.run_reports())
        link.report_image(ImageReport("uid", 1, "Building"))
        link.report_image(READY)
        async with asyncio.timeout(20):
            await leader.quiet.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        return leader.heard

    assert asyncio.run(run()) == [READY, READY]
