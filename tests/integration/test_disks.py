"""Guests with disks: files of the node, locked by the launcher; what is written stays."""

from __future__ import annotations

import os
import pathlib
import shutil

import guest_lab as lab
import pytest
from disk_guest import WRITER, seen, start

from blixard.base.errors import BlixardError
from blixard.hypervisors.qemu.hypervisor import QemuHypervisor
from blixard.ports.volumes import PoolPlan
from blixard.storage.local.backend import LocalVolumes

pytestmark = [
    pytest.mark.guest,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="building guests needs root"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
]
SIZE = 96 << 20


def test_next_guest_reads_what_the_first_wrote(
    state: pathlib.Path,
    base: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    runner = lab.make_plain_runner(base, tmp_path, WRITER)
    pools = LocalVolumes(str(tmp_path / "volumes"))

    async def scenario(made: QemuHypervisor) -> None:
        await pools.ensure_pool(PoolPlan(name="fast", backend="local", replicas=1))
        await pools.ensure_volume("fast", "vol1", SIZE)
        disk = await pools.attach("fast", "vol1", name="data", node_uid="n1", epoch=1)
        await start(made, "guest1", runner, disk)
        await seen(made, "guest1", "disk data 196608 found=")
        # Beyond the limit of logs: a disk may grow to its size.
        await seen(made, "guest1", "wrote guest1")
        with pytest.raises(BlixardError, match="another process has the disk"):
            await start(made, "guest2", runner, disk)
        with pytest.raises(BlixardError, match="VOLUME_IN_USE"):
            await pools.delete_volume("fast", "vol1")
        await made.kill("guest1")
        await start(made, "guest2", runner, disk)
        await seen(made, "guest2", "disk data 196608 found=guest1")
        await made.kill("guest2")
        await pools.delete_volume("fast", "vol1")
        await pools.delete_pool("fast")

    lab.run(state, scenario)
