from __future__ import annotations

import pathlib

import msgspec
import pytest

from blixard.hypervisors.qemu.arguments import Runner, qemu_arguments
from blixard.hypervisors.qemu.likeness import (
    FileDigests,
    Likeness,
    descriptors_of,
    differences,
    machine_of,
)
from blixard.ports.hypervisor import LaunchPlan
from blixard.ports.volumes import DiskAttachment

RUNNER = Runner(kernel="kernel", initrd="initrd", root="root")
ALIKE = Likeness(version=1, qemu="7.2", machine=("-m", "256M"), files={"root": "aa"}, tsc_khz=10**6)


def arguments(**fields: object) -> list[str]:
    """Return the arguments of a process as the launcher fills them."""
    known: dict[str, object] = {
        "instance_uid": "u",
        "name": "web-1",
        "namespace": "default",
        "node_epoch": 1,
        "run": 1,
        "runner": "/runner",
        "memory_mib": 256,
        "vcpus": 1,
        "tap": "bx1",
        "mac": "02:00:00:00:00:01",
    }
    plan = LaunchPlan(**{**known, **fields})  # type: ignore[arg-type]
    words = qemu_arguments(plan, RUNNER, accelerator="tcg", tsc_khz=5)
    for number, name in enumerate(("kernel", "initrd", "root", "console-log"), int(plan.run) * 7):
        words = [w.replace(f"{{path:{name}}}", f"/proc/self/fd/{number}") for w in words]
        words = [w.replace(f"{{fd:{name}}}", str(number)) for w in words]
    return words


def test_process_that_waits_makes_the_same_machine() -> None:
    first, second = arguments(node="node1"), arguments(node="node2", run=2, incoming=True)
    assert second[-2:] == ["-incoming", "defer"]
    assert machine_of(first) == machine_of(second)


def disks(node: str, image: str) -> tuple[DiskAttachment, ...]:
    disk = DiskAttachment(
        name="data", size_bytes=1, kind="rbd", pool="p", volume="v", image=image, user=node
    )
    return (disk,)


def test_image_is_the_same_under_another_user() -> None:
    first, second, other = (
        machine_of(arguments(disks=disks(node, image)))
        for node, image in (("node1", "i"), ("node2", "i"), ("node1", "j"))
    )
    assert first == second != other


@pytest.mark.parametrize(
    "fields", [{"memory_mib": 512}, {"vcpus": 2}, {"mac": "02:00:00:00:00:02"}, {"tap": ""}]
)
def test_other_plan_makes_another_machine(fields: dict[str, object]) -> None:
    assert machine_of(arguments()) != machine_of(arguments(**fields))


def test_files_are_found_among_the_arguments() -> None:
    more = ["-drive", "id=data,file=/proc/self/fd/30,format=raw,if=none"]
    assert descriptors_of([*arguments(), *more]) == {"kernel": 7, "initrd": 8, "root": 9}


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("version", 2, "migration versions 1 and 2"),
        ("qemu", "8.0", "QEMU is 7.2 here and 8.0 there"),
        ("machine", ("-m", "512M"), "256M here, 512M there"),
        ("files", {"root": "bb"}, "root there is not the same, bit for bit"),
        ("cpu", "Xeon", "emulated here, Xeon there"),
        ("tsc_khz", 1_002_000, "1000000 kHz here and 1002000 kHz there"),
    ],
)
def test_each_difference_is_named(field: str, value: object, words: str) -> None:
    (found,) = differences(ALIKE, msgspec.structs.replace(ALIKE, **{field: value}))
    assert words in found


def test_small_difference_of_rates_is_none() -> None:
    assert differences(ALIKE, msgspec.structs.replace(ALIKE, tsc_khz=1_000_500)) == []
    assert differences(ALIKE, msgspec.structs.replace(ALIKE, tsc_khz=0)) == []


def test_digest_follows_the_file(tmp_path: pathlib.Path) -> None:
    digests, path = FileDigests(), tmp_path / "root"
    path.write_bytes(b"one")
    first = digests.of(str(path))
    assert digests.of(str(path)) == first
    path.write_bytes(b"other")
    assert digests.of(str(path)) != first
