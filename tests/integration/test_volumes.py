"""Volumes of VMs on real nodes: what a guest wrote is there after its restart, and on another node
after its own was lost, by way of a real Ceph cluster."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from ceph_lab import PROGRAMS, CephLab, ceph_lab
from control_plane import ControlPlane, NodeUnderTest, sh, until

from blixard.ports.guests import GuestRecipe, GuestService

MISSING = [program for program in PROGRAMS if shutil.which(program) is None]
pytestmark = [
    pytest.mark.guest,
    pytest.mark.netns,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="building guests needs root"),
    # Where the suite must be whole, a Ceph that is not there is a failure.
    pytest.mark.skipif(
        bool(MISSING) and "CI" not in os.environ, reason=f"{', '.join(MISSING)}: not installed"
    ),
]
# The guest of the documents: built once for all.
COMMAND = ("python3", "-m", "http.server", "8000")
RECIPE = GuestRecipe(
    packages=("python3-minimal",), services=(GuestService(name="hello", command=COMMAND),)
)
CREATE = ("--packages", "python3-minimal", "--service", f"hello={' '.join(COMMAND)}")
WRITE = "mkfs.ext4 -q /dev/vdb && mount /dev/vdb /mnt && echo kept > /mnt/word && umount /mnt"
READ = "mount /dev/vdb /mnt && cat /mnt/word"
READY_S = 180.0


class Whole:
    """Three nodes and a Ceph cluster that all of them reach."""

    def __init__(self, plane: ControlPlane, ceph: CephLab) -> None:
        self.plane = plane
        self.ceph = ceph

    @property
    def first(self) -> NodeUnderTest:
        return self.plane.nodes[0]

    def ran(self, *words: str) -> str:
        ran = self.first.cli(*words, timeout_s=READY_S)
        assert ran.code == 0, f"{words}\n{ran.out}{ran.err}"
        return ran.out

    def instance(self, vm: str) -> dict[str, Any]:
        (found,) = [
            item
            for item in self.first.json("get", "instances")["items"]
            if item["spec"]["vm"] == vm
        ]
        return found

    def where(self, vm: str) -> NodeUnderTest:
        uid = self.instance(vm)["spec"]["node"]
        named = {n["metadata"]["uid"]: n["metadata"]["name"] for n in self.nodes()}
        return next(node for node in self.plane.nodes if node.name == named[uid])

    def nodes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.first.json("get", "nodes")["items"]
        return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    plane = ControlPlane(tmp_path_factory.mktemp("volumes"))
    try:
        plane.make_hub()
        hub, address = f"{plane.tag}-hub", f"10.77.{plane.octet}.250"
        sh("ip", "-n", hub, "address", "add", f"{address}/24", "dev", "br0")
        sh("ip", "-n", hub, "link", "set", "lo", "up")
        plane.build(RECIPE)
        with ceph_lab(address, ("nsenter", f"--net=/run/netns/{hub}")) as ceph:
            extra = (
                f'\n[storage.ceph]\nconfig_file = "{ceph.config.conf}"\n'
                f'keyring = "{ceph.config.keyring}"\npg_num = 8\n'
            )
            plane.found(extra)
            for _ in range(2):
                plane.join(extra)
            plane.wait_voters(3)
            yield Whole(plane, ceph)
    finally:
        plane.remove()


def test_data_follow_a_vm_whose_node_is_lost(whole: Whole) -> None:
    whole.ran("storage", "pool", "create", "ssd", "--size", "1GB")
    assert "healthy" in whole.ran("storage", "status")
    create = ("vm", "create", "db", *CREATE, "--volume", "data:128MB@ssd")
    whole.ran(*create, "--on-partition", "fence", "--replicas", "1", "--timeout", "3m")
    whole.ran("vm", "exec", "db", "--", "sh", "-c", WRITE)
    lost = whole.where("db")
    user = f"client.blixard.{whole.instance('db')['spec']['node']}."
    assert user in whole.ceph.do("ceph", "auth", "ls")
    if lost is whole.first:
        whole.plane.nodes.append(whole.plane.nodes.pop(0))
    lost.kill()
    until(lambda: whole.where("db") is not lost, READY_S)
    whole.ran("wait", "vm/db", "--for", "ready", "--timeout", "3m")
    assert whole.ran("vm", "exec", "db", "--", "sh", "-c", READ) == "kept\n"
    assert user not in whole.ceph.do("ceph", "auth", "ls")


def test_data_of_a_local_volume_outlive_a_restart(whole: Whole) -> None:
    whole.ran("storage", "pool", "create", "fast", "--backend", "local")
    whole.ran("vm", "create", "box", *CREATE, "--volume", "data:64MB@fast", "--timeout", "3m")
    whole.ran("vm", "exec", "box", "--", "sh", "-c", WRITE)
    whole.ran("vm", "restart", "box", "--timeout", "3m")
    assert whole.ran("vm", "exec", "box", "--", "sh", "-c", READ) == "kept\n"
