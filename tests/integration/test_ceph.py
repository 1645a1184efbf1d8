"""Pools, volumes and fencing against a real Ceph cluster, with real guests on its images."""

from __future__ import annotations

import asyncio
import os
import pathlib
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator

import guest_lab as lab
import msgspec
import pytest
from ceph_lab import PROGRAMS, CephLab, ceph_lab
from disk_guest import WRITER, seen, start

from blixard.base.errors import BlixardError
from blixard.hypervisors.qemu import probe
from blixard.hypervisors.qemu.hypervisor import QemuHypervisor
from blixard.ports.hypervisor import HypervisorInstance
from blixard.ports.volumes import DiskAttachment, PoolHealth, PoolPlan
from blixard.storage.ceph.backend import CephVolumes

MISSING = [program for program in PROGRAMS if shutil.which(program) is None]
pytestmark = [
    pytest.mark.guest,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="building guests needs root"),
    # Where the suite must be whole, a Ceph that is not there is a failure.
    pytest.mark.skipif(
        bool(MISSING) and "CI" not in os.environ, reason=f"{', '.join(MISSING)}: not installed"
    ),
]
POOL = "ssd"
SIZE = 96 << 20
LOST_S = 5.0
NODE, OTHER = "node-a", "node-b"
LEFT, REACHED = "node-l", "node-r"


@pytest.fixture(scope="module")
def ceph() -> Iterator[CephLab]:
    with ceph_lab() as found:
        yield found


@pytest.fixture
def pools(ceph: CephLab, tmp_path: pathlib.Path) -> CephVolumes:
    return CephVolumes(ceph.config, str(tmp_path / "ceph"), pg_num=8)


def with_end(pools: CephVolumes, scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario, and end the connection to Ceph."""

    async def main() -> None:
        try:
            await scenario()
        finally:
            await pools.close()

    asyncio.run(main())


async def settled(pools: CephVolumes, wanted: str) -> PoolHealth:
    """Wait until the pool is in a state."""
    while (health := await pools.pool_health(POOL)).state != wanted:
        await asyncio.sleep(0.2)
    return health


async def make_pool(pools: CephVolumes) -> None:
    await pools.ensure_pool(PoolPlan(name=POOL, backend="ceph", quota_bytes=1 << 30))


def test_pool_is_made_once_and_kept_as_wanted(ceph: CephLab, pools: CephVolumes) -> None:
    async def scenario() -> None:
        plan = PoolPlan(name="small", backend="ceph", replicas=2, quota_bytes=1 << 30)
        await pools.ensure_pool(plan)
        await pools.ensure_pool(plan)
        (row,) = [r for r in ceph.ceph("osd", "pool", "ls", "detail") if r["pool_name"] == "small"]
        assert (row["size"], row["min_size"], row["quota_max_bytes"]) == (2, 1, 1 << 30)
        await pools.ensure_volume("small", "v1", SIZE)
        with pytest.raises(BlixardError, match=r"POOL_IN_USE.*blixard-v1"):
            await pools.delete_pool("small")
        await pools.delete_volume("small", "v1")
        await pools.delete_pool("small")
        await pools.delete_pool("small")
        with pytest.raises(BlixardError, match="POOL_NOT_FOUND"):
            await pools.pool_health("small")

    with_end(pools, scenario)


def test_pool_of_others_is_left_alone(ceph: CephLab, pools: CephVolumes) -> None:
    ceph.do("ceph", "osd", "pool", "create", "theirs", "1", "1")
    ceph.do("ceph", "osd", "pool", "application", "enable", "theirs", "rgw")

    async def scenario() -> None:
        with pytest.raises(BlixardError, match="ALREADY_EXISTS"):
            await pools.ensure_pool(PoolPlan(name="theirs", backend="ceph"))

    with_end(pools, scenario)


def test_volumes_are_made_listed_enlarged_and_removed(pools: CephVolumes) -> None:
    async def scenario() -> None:
        await make_pool(pools)
        for uid in ("v2", "v1", "v1"):
            await pools.ensure_volume(POOL, uid, SIZE)
        await pools.resize_volume(POOL, "v2", 2 * SIZE)
        with pytest.raises(BlixardError, match="INVALID"):
            await pools.resize_volume(POOL, "v2", SIZE)
        found = [(v.uid, v.size_bytes) for v in await pools.list_volumes(POOL)]
        assert found == [("v1", SIZE), ("v2", 2 * SIZE)]
        for uid in ("v1", "v2", "v2"):
            await pools.delete_volume(POOL, uid)
        assert await pools.list_volumes(POOL) == []
        with pytest.raises(BlixardError, match="VOLUME_NOT_FOUND"):
            await pools.attach(POOL, "v1", name="data", node_uid=NODE, epoch=1)

    with_end(pools, scenario)


def test_two_nodes_never_have_one_volume(pools: CephVolumes) -> None:
    async def scenario() -> None:
        await make_pool(pools)
        await pools.ensure_volume(POOL, "shared", SIZE)
        tries = (
            pools.attach(POOL, "shared", name="data", node_uid=node, epoch=1)
            for node in (NODE, OTHER)
        )
        ended = await asyncio.gather(*tries, return_exceptions=True)
        assert 1 <= sum(isinstance(end, BlixardError) for end in ended) <= 2
        for node in (NODE, OTHER):
            await pools.detach(POOL, "shared", node_uid=node, epoch=1)
        await pools.attach(POOL, "shared", name="data", node_uid=OTHER, epoch=1)
        with pytest.raises(BlixardError, match=f"VOLUME_IN_USE.*{OTHER}"):
            await pools.attach(POOL, "shared", name="data", node_uid=NODE, epoch=1)
        with pytest.raises(BlixardError, match="VOLUME_IN_USE"):
            await pools.delete_volume(POOL, "shared")
        await pools.detach(POOL, "shared", node_uid=OTHER, epoch=1)
        await pools.delete_volume(POOL, "shared")

    with_end(pools, scenario)


def test_fenced_guest_writes_nothing_more(
    ceph: CephLab,
    pools: CephVolumes,
    state: pathlib.Path,
    base: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    """The old guest runs on, as on a node that nobody reaches; the next one reads its data."""
    runner = lab.make_plain_runner(base, tmp_path, WRITER)

    async def scenario(made: QemuHypervisor) -> None:
        try:
            await fenced(made)
        finally:
            await pools.close()

    async def fenced(made: QemuHypervisor) -> None:
        await make_pool(pools)
        await pools.ensure_volume(POOL, "data", SIZE)
        disk = await pools.attach(POOL, "data", name="data", node_uid=NODE, epoch=3)
        assert pathlib.Path(disk.key_file).stat().st_mode & 0o777 == 0o600
        await start(made, "guest1", runner, disk)
        await seen(made, "guest1", "wrote guest1")
        check_secret(pathlib.Path(disk.key_file).read_bytes(), state, await made.instances())
        with pytest.raises(BlixardError, match=f"VOLUME_IN_USE.*{NODE}"):
            await pools.attach(POOL, "data", name="data", node_uid=OTHER, epoch=1)

        await pools.fence(NODE, before_epoch=4)
        after = contents(ceph)
        await seen(made, "guest1", "failed guest1 at")
        assert contents(ceph) == after
        assert f"client.{disk.user}" not in ceph.do("ceph", "auth", "ls")
        with pytest.raises(BlixardError, match="FENCED"):
            await pools.attach(POOL, "data", name="data", node_uid=NODE, epoch=3)
        # Fencing again, as after a lost answer, does not touch who has it now.
        moved = await pools.attach(POOL, "data", name="data", node_uid=OTHER, epoch=1)
        await start(made, "guest2", runner, moved)
        await seen(made, "guest2", "disk data 196608 found=guest1")
        await seen(made, "guest2", "wrote guest2")
        await pools.fence(NODE, before_epoch=4)
        before = contents(ceph)
        while contents(ceph) == before:
            await asyncio.sleep(0.1)
        await made.kill("guest1")
        await made.kill("guest2")
        await pools.detach(POOL, "data", node_uid=OTHER, epoch=1)
        back = await pools.attach(POOL, "data", name="data", node_uid=NODE, epoch=4)
        keys = sorted(path.name for path in pathlib.Path(back.key_file).parent.glob("*.key"))
        assert keys == [f"blixard.{NODE}.4.key", f"blixard.{OTHER}.1.key"]
        await pools.detach(POOL, "data", node_uid=NODE, epoch=4)
        await pools.delete_volume(POOL, "data")

    lab.run(state, scenario, within_s=300.0)


def check_secret(key: bytes, state: pathlib.Path, instances: list[HypervisorInstance]) -> None:
    """The key is in no argument, no environment, no log and no other file of the hypervisor."""
    assert len(key) == 40
    (instance,) = instances
    process = pathlib.Path(f"/proc/{instance.pid}")
    told = [process / "cmdline", process / "environ", *state.rglob("*.log"), *state.rglob("*.json")]
    assert [path for path in told if key in path.read_bytes()] == []


class Pipe:
    """One end of a stream of frames in memory."""

    def __init__(self) -> None:
        self._here: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=8)
        self.other = self

    async def send(self, frame: bytes) -> None:
        await self.other._here.put(frame)

    async def receive(self) -> bytes | None:
        return await self._here.get()

    async def close(self) -> None:
        """Both ends have ended by themselves."""


async def move(here: QemuHypervisor, there: QemuHypervisor, uid: str) -> None:
    """Send a guest to where a process waits for it, and let it go on there."""
    one, other = Pipe(), Pipe()
    one.other, other.other = other, one
    await asyncio.gather(
        here.send_state(uid, one, live=False, switch=nothing), there.receive_state(uid, other)
    )
    await there.resume(uid)


async def nothing() -> None:
    """The owner is another one now."""


def test_guest_moves_with_its_volume(
    ceph: CephLab,
    pools: CephVolumes,
    state: pathlib.Path,
    base: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    """It writes on from where it was, and the source has nothing of it afterwards."""
    runner = lab.make_plain_runner(base, tmp_path, WRITER)
    second = pathlib.Path(tempfile.mkdtemp(prefix="bx-"))
    if (state / probe.CACHE).exists():
        shutil.copy(state / probe.CACHE, second)

    async def scenario(here: QemuHypervisor) -> None:
        try:
            async with lab.hypervisor(second) as there:
                await make_pool(pools)
                await pools.ensure_volume(POOL, "data", SIZE)
                await start(here, "guest1", runner, await attached(pools, LEFT))
                await seen(here, "guest1", "wrote guest1")
                disk = await attached(pools, REACHED, moves_from=LEFT)
                await there.start_paused(
                    lab.plan(runner, name="guest1", run=2, disks=(disk,), incoming=True)
                )
                await moved_well(ceph, pools, here, there)
        finally:
            await pools.close()

    lab.run(state, scenario, within_s=300.0)


async def attached(pools: CephVolumes, node: str, *, moves_from: str = "") -> DiskAttachment:
    return await pools.attach(
        POOL, "data", name="data", node_uid=node, epoch=1, moves_from=moves_from
    )


async def moved_well(
    ceph: CephLab, pools: CephVolumes, here: QemuHypervisor, there: QemuHypervisor
) -> None:
    """Neither that the source gives the volume back nor its fence touches who writes there."""
    before = count(ceph)
    await move(here, there, "guest1")
    await here.kill("guest1")
    await here.forget("guest1")
    await pools.detach(POOL, "data", node_uid=LEFT, epoch=1)
    await pools.fence(LEFT, before_epoch=2)
    reached = count(ceph)
    assert reached >= before
    while count(ceph) <= reached:
        await asyncio.sleep(0.1)
    assert sector(ceph, 184320) == "guest1"
    assert not [line for line in there.console_tail("guest1", 100) if "failed" in line]
    with pytest.raises(BlixardError, match=f"VOLUME_IN_USE.*{REACHED}"):
        await attached(pools, "node-c", moves_from=LEFT)
    await there.kill("guest1")
    await pools.detach(POOL, "data", node_uid=REACHED, epoch=1)
    await pools.delete_volume(POOL, "data")


def sector(ceph: CephLab, number: int) -> str:
    """Return the text in a sector of the volume, read as the administrator."""
    read = f"rbd export --no-progress {POOL}/blixard-data -"
    return ceph.do("sh", "-c", f"{read} | dd bs=512 skip={number} count=1 status=none").strip(
        " \n\0"
    )


def count(ceph: CephLab) -> int:
    return int(sector(ceph, 184319) or 0)


def contents(ceph: CephLab) -> str:
    """Return the digest of the volume, read as the administrator who locks nothing."""
    return ceph.do("sh", "-c", f"rbd export --no-progress {POOL}/blixard-data - | md5sum")


def test_health_follows_an_osd_that_dies_and_returns(ceph: CephLab, pools: CephVolumes) -> None:
    async def scenario() -> None:
        await make_pool(pools)
        await pools.ensure_volume(POOL, "kept", SIZE)
        healthy = await settled(pools, "healthy")
        assert (healthy.quorum, healthy.osds) == ((1, 1), (3, 3, 3))
        ceph.kill("osd.2")
        degraded = await settled(pools, "degraded")
        assert (degraded.osds, bool(degraded.reason)) == ((3, 2, 3), True)
        ceph.start_osd(2)
        healed = await settled(pools, "healthy")
        assert (healed.osds, healed.degraded_objects) == ((3, 3, 3), 0)
        await pools.delete_volume(POOL, "kept")

    with_end(pools, scenario)


def test_without_a_monitor_every_call_ends(ceph: CephLab, tmp_path: pathlib.Path) -> None:
    impatient = msgspec.structs.replace(ceph.config, call_s=LOST_S)
    pools = CephVolumes(impatient, str(tmp_path))

    async def scenario() -> None:
        assert "OSDs up" in await pools.answers()
        ceph.pause("mon")
        health = await pools.pool_health(POOL)
        assert (health.state, "no answer" in health.reason) == ("unknown", True)
        calls = (
            pools.ensure_pool(PoolPlan(name="late", backend="ceph")),
            pools.list_volumes(POOL),
            pools.attach(POOL, "late", name="data", node_uid=NODE, epoch=5),
            pools.fence(NODE, before_epoch=5),
        )
        for ended in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(ended, BlixardError)
            assert ended.code == "STORAGE_UNAVAILABLE"
        ceph.go_on("mon")
        await settled(pools, "healthy")

    with_end(pools, scenario)
