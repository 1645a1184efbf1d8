"""QEMU's command line, as written from typed values."""

from __future__ import annotations

import pathlib
from typing import Any

import msgspec
import pytest

from blixard.hypervisors.guard import launch
from blixard.hypervisors.qemu import arguments
from blixard.hypervisors.qemu.arguments import Runner, guard_plan, qemu_arguments
from blixard.hypervisors.qemu.probe import host_tsc_khz
from blixard.ports.hypervisor import LaunchPlan

GOLDEN = pathlib.Path(__file__).parents[2] / "golden/hypervisors"
RUNNER = Runner(kernel="share/microvm/kernel", initrd="share/microvm/initrd", root="share/root")


def plan(**more: Any) -> LaunchPlan:
    return LaunchPlan(
        **{
            "instance_uid": "01ABC",
            "name": "web-0",
            "namespace": "default",
            "node_epoch": 1,
            "run": 1,
            "runner": "/runners/web",
            "memory_mib": 256,
            "vcpus": 2,
            **more,
        }
    )


WITH_NETWORK = {
    "tap": "tap0",
    "mac": "52:54:00:00:00:01",
    "address": "10.1.0.2/24",
    "gateway": "10.1.0.1",
}


@pytest.mark.parametrize("accelerator", ["tcg", "kvm"])
@pytest.mark.parametrize("network", [False, True], ids=["alone", "networked"])
def test_arguments_are_as_recorded(accelerator: str, network: bool) -> None:
    given = plan(**(WITH_NETWORK if network else {}))
    words = qemu_arguments(given, RUNNER, accelerator=accelerator, tsc_khz=2_500_000)
    name = f"qemu-{accelerator}-{'networked' if network else 'alone'}.txt"
    assert "\n".join(words) + "\n" == (GOLDEN / name).read_text()


def test_machine_starts_stopped() -> None:
    assert "-S" in qemu_arguments(plan(), RUNNER, accelerator="tcg")


def test_the_guest_is_told_its_node() -> None:
    words = qemu_arguments(plan(node="node1"), RUNNER, accelerator="tcg")
    assert "blixard.node=node1" in words[words.index("-append") + 1].split()


def test_what_is_written_passes_the_guard() -> None:
    request = guard_plan(plan(**WITH_NETWORK), RUNNER, accelerator="tcg")
    launch.check_plan(request, launch.BINARIES)
    assert request["files"]["kernel"] == "/runners/web/share/microvm/kernel"
    assert msgspec.convert(request["launch"], LaunchPlan) == plan(**WITH_NETWORK)


def test_every_placeholder_is_filled() -> None:
    request = guard_plan(plan(**WITH_NETWORK), RUNNER, accelerator="tcg")
    names = [*request["files"], *request["listen"], *request["append"], "tap"]
    numbers = {name: number for number, name in enumerate(names, 3)}
    filled = [launch._with_descriptors(word, numbers) for word in request["argv"]]
    assert not [word for word in filled if "{" in word]


def test_runner_is_read_from_its_directory(tmp_path: pathlib.Path) -> None:
    share = tmp_path / "share/microvm"
    share.mkdir(parents=True)
    (share / "blixard.json").write_bytes(msgspec.json.encode(RUNNER))
    assert arguments.load_runner(str(tmp_path)) == RUNNER


def test_counter_rate_is_known_only_if_constant() -> None:
    info = "processor\t: 0\ncpu MHz\t\t: 2500.125\nflags\t\t: fpu {}tsc\n"
    assert host_tsc_khz(info.format("constant_tsc ")) == 2_500_125
    assert host_tsc_khz(info.format("")) == 0
