"""What a simulated disk loses at a crash, and what it never loses."""

import errno
import random

import pytest

from blixard.simulation.clock import HostClock
from blixard.simulation.damage import Trouble
from blixard.simulation.disk import SimDisk
from blixard.simulation.disk_image import DiskImage
from blixard.simulation.inodes import tear
from blixard.simulation.loop import SimLoop
from blixard.simulation.process import Process


class Bench:
    def __init__(self, seed=1):
        self.loop = SimLoop(order=random.Random(0))
        self.image = DiskImage(random.Random(seed))
        self.process = Process(self.loop, "node", host=1, clock=HostClock())
        self.disk = SimDisk(self.image, self.process, lambda: self.loop.now_ns)

    def wait(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    def write(self, path, data, *, sync=True):
        file = self.disk.open(path, create=True)
        file.pwrite(0, data)
        if sync:
            self.wait(file.sync())
            self.wait(self.disk.sync_dir(""))
        return file

    def read(self, path):
        file = self.disk.open(path)
        return file.pread(0, file.size())


@pytest.mark.parametrize("seed", range(20))
def test_synced_bytes_survive_every_crash(seed):
    bench = Bench(seed)
    bench.write("log", b"durable")
    bench.image.crash()
    assert bench.read("log") == b"durable"


def test_unsynced_bytes_have_several_fates():
    fates = set()
    for seed in range(60):
        bench = Bench(seed)
        file = bench.write("log", b"")
        file.pwrite(0, b"x" * 2048)
        bench.image.crash()
        fates.add(bench.read("log"))
    assert b"" in fates
    assert b"x" * 2048 in fates
    assert len(fates) > 3


def test_name_without_directory_sync_may_vanish():
    found = set()
    for seed in range(20):
        bench = Bench(seed)
        file = bench.disk.open("log", create=True)
        file.pwrite(0, b"x")
        bench.wait(file.sync())
        bench.image.crash()
        found.add(bench.disk.exists("log"))
    assert found == {True, False}


def test_rename_is_old_or_new_never_both():
    for seed in range(20):
        bench = Bench(seed)
        bench.write("a", b"old")
        bench.write("b", b"new")
        bench.disk.rename("b", "a")
        bench.image.crash()
        assert (bench.read("a"), bench.disk.exists("b")) in ((b"old", True), (b"new", False))


def test_write_during_a_sync_is_not_covered():
    bench = Bench()
    file = bench.write("log", b"first")

    async def both():
        task = bench.process.spawn(file.sync(), name="sync")
        bench.loop.call_soon(file.pwrite, 5, b"second")
        await task

    bench.wait(both())
    assert len(bench.image.root.current["log"].pending) == 1


def test_torn_write_keeps_whole_sectors():
    data = bytes(range(256)) * 16
    for seed in range(20):
        for offset, piece in tear(random.Random(seed), (100, data)):
            assert data[offset - 100 : offset - 100 + len(piece)] == piece
            assert offset == 100 or offset % 512 == 0


def test_full_disk_refuses_growth_only():
    bench = Bench()
    file = bench.write("log", b"abc")
    bench.image.full = True
    file.pwrite(0, b"xyz")
    with pytest.raises(OSError) as error:
        file.pwrite(3, b"more")
    assert error.value.errno == errno.ENOSPC
    assert bench.disk.free_bytes() == 0


def test_dead_process_writes_nothing():
    bench = Bench()
    file = bench.write("log", b"abc")
    bench.process.kill()
    file.pwrite(0, b"xyz")
    bench.disk.unlink("log")
    assert bench.read("log") == b"abc"


@pytest.mark.parametrize("seed", range(10))
def test_calls_that_move_too_little_are_repeated(seed):
    bench = Bench(seed)
    bench.image.trouble = Trouble(short=0.9)
    data = bytes(range(256)) * 8
    file = bench.write("log", data)
    assert bench.read("log") == data
    assert file.pread(2_000, 999) == data[2_000:]
    assert bench.image.cut_short > 3
    assert not bench.image.hurt
    bench.image.crash()
    assert bench.read("log") == data


def test_power_loss_tears_a_write_between_its_pieces():
    left = set()
    for seed in range(30):
        bench = Bench(seed)
        bench.image.trouble = Trouble(short=1.0)
        bench.write("log", b"").pwrite(0, b"abcdefgh")
        bench.image.crash()
        left.add(bench.read("log"))
    assert len(left) > 5
