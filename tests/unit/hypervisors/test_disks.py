"""QEMU's disks: descriptors, no secret among the arguments, one writer of a file."""

from __future__ import annotations

import json
import os
import pathlib

import pytest

from blixard.hypervisors.guard import launch
from blixard.hypervisors.qemu import disks
from blixard.hypervisors.qemu.arguments import FILE_BYTES_MAX, guard_plan
from blixard.ports.volumes import DiskAttachment

from .test_arguments import RUNNER, plan

FILE = DiskAttachment(
    name="data", size_bytes=1 << 30, kind="file", pool="fast", volume="v1", path="/volumes/v1.raw"
)
RBD = DiskAttachment(
    name="a-name-of-more-than-twenty",
    size_bytes=1 << 30,
    kind="rbd",
    pool="ssd",
    volume="v2",
    image="blixard-v2",
    user="blixard.N1.3",
    conf="/ceph/guest.conf",
    key_file="/ceph/blixard.N1.3.key",
)


def test_guard_opens_what_the_disks_need() -> None:
    request = guard_plan(plan(disks=(FILE, RBD)), RUNNER, accelerator="tcg")
    launch.check_plan(request, launch.BINARIES)
    assert request["disks"] == {"disk0": "/volumes/v1.raw"}
    assert request["files"]["disk1-conf"] == "/ceph/guest.conf"
    assert request["secrets"] == {"disk1-key": "/ceph/blixard.N1.3.key"}
    assert request["file_bytes_max"] == 1 << 30
    names = ["disk0", "disk0-read", "disk1-conf", "disk1-key"]
    numbers = {name: number for number, name in enumerate(names, 7)}
    words = [launch._with_descriptors(word, numbers) for word in disks.arguments((FILE, RBD))]
    assert not [word for word in words if "{fd:" in word or "{path:" in word]
    assert "fd=7,set=2" in words
    assert "fd=8,set=2" in words
    assert "secret,id=disk1-key,format=base64,file=/proc/self/fd/10" in words
    assert "virtio-blk-device,drive=disk1,serial=a-name-of-more-than-" in words


def test_images_are_opened_as_the_node_epoch() -> None:
    words = disks.arguments((RBD,))
    block = json.loads(words[words.index("-blockdev") + 1])
    assert (block["driver"], block["pool"], block["image"]) == ("rbd", "ssd", "blixard-v2")
    assert (block["user"], block["key-secret"]) == ("blixard.N1.3", "disk0-key")


def test_without_disks_nothing_changes() -> None:
    request = guard_plan(plan(), RUNNER, accelerator="tcg")
    assert (request["disks"], request["secrets"]) == ({}, {})
    assert request["file_bytes_max"] == FILE_BYTES_MAX


@pytest.mark.parametrize("part", ["files", "disks", "secrets"])
def test_guard_refuses_relative_paths(part: str) -> None:
    request = {"argv": [launch.BINARIES[0]], part: {"disk0": "volumes/v1.raw"}}
    with pytest.raises(launch.BadPlan, match="must be an absolute path"):
        launch.check_plan(request, launch.BINARIES)


def test_disk_has_one_process_at_a_time(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "v1.raw"
    path.touch()
    request = {"disks": {"disk0": str(path)}}
    first = launch._open_all(request, str(tmp_path), 0)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BlockingIOError, match="another process has the disk"):
        launch._open_all(request, str(tmp_path), 0)
    assert len(os.listdir("/proc/self/fd")) == before
    for descriptor in first.values():
        os.close(descriptor)
    for descriptor in launch._open_all(request, str(tmp_path), 0).values():
        os.close(descriptor)


def test_link_in_place_of_a_disk_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "v1.raw").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        launch._open_all({"disks": {"disk0": str(tmp_path / "v1.raw")}}, str(tmp_path), 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives memory to another user")
def test_secret_is_readable_by_its_user_alone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"c2VjcmV0")
    path.chmod(0o600)
    descriptor = launch.open_secret(str(path), 70_001)
    try:
        found = os.fstat(descriptor)
        assert (found.st_uid, found.st_mode & 0o777) == (70_001, 0o400)
        assert pathlib.Path(f"/proc/self/fd/{descriptor}").read_bytes() == b"c2VjcmV0"
    finally:
        os.close(descriptor)
