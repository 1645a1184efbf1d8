"""The command line of one QEMU: written from typed values, never from users' text."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from blixard.hypervisors.qemu import disks
from blixard.ports.hypervisor import LaunchPlan

BINARY = "/usr/bin/qemu-system-x86_64"
TB_SIZE_MIB = 64
KERNEL_ARGUMENTS = "console=ttyS0 reboot=t panic=-1 quiet loglevel=3"
# An emulated guest is not protected by mitigations of a CPU that it does not have; self tests and
# security modules without a policy take a second of its boot.
EMULATED_ARGUMENTS = (
    "mitigations=off lsm=landlock,yama cryptomgr.notests initcall_blacklist=jent_mod_init"
)
# Without the instruction a guest collects randomness from timings: another second.
EMULATED_CPU = "qemu64,+rdrand"
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
QMP_SOCKET, CONSOLE_SOCKET, AGENT_SOCKET = "qmp.sock", "console.sock", "agent.sock"
CONSOLE_LOG = "console.log"
AGENT_PORT = "org.blixard.agent"
# A log that nobody cuts, because the daemon is away, stops growing here.
FILE_BYTES_MAX = 64 << 20


class Runner(msgspec.Struct, frozen=True):
    """``share/microvm/blixard.json`` of a runner: paths relative to the runner's directory.

    ``vmlinux`` is the same kernel unpacked: an emulated guest starts seconds earlier from it.
    """

    kernel: str
    initrd: str
    root: str = ""
    cmdline: str = ""
    vmlinux: str = ""


def load_runner(directory: str) -> Runner:
    """Return the description of a runner. Raises OSError, msgspec.DecodeError."""
    with open(os.path.join(directory, "share/microvm/blixard.json"), "rb") as file:
        return msgspec.json.decode(file.read(), type=Runner)


def files_of(directory: str, runner: Runner, *, accelerator: str = "") -> dict[str, str]:
    """Return the files that the launcher opens before privileges are dropped."""
    kernel = runner.vmlinux if accelerator == "tcg" and runner.vmlinux else runner.kernel
    names = {"kernel": kernel, "initrd": runner.initrd, "root": runner.root}
    return {
        name: os.path.realpath(os.path.join(directory, path))
        for name, path in names.items()
        if path
    }


def guard_plan(
    plan: LaunchPlan, runner: Runner, *, accelerator: str, tsc_khz: int = 0
) -> dict[str, Any]:
    """Return what the guard is asked to start."""
    return {
        "uid": plan.instance_uid,
        "launch": msgspec.to_builtins(plan),
        "argv": qemu_arguments(plan, runner, accelerator=accelerator, tsc_khz=tsc_khz),
        "files": {
            **files_of(plan.runner, runner, accelerator=accelerator),
            **disks.configurations(plan.disks),
        },
        "disks": disks.paths(plan.disks),
        "secrets": disks.secrets(plan.disks),
        "listen": {"qmp": QMP_SOCKET, "console": CONSOLE_SOCKET, "agent": AGENT_SOCKET},
        "append": {"console-log": CONSOLE_LOG},
        "tap": plan.tap,
        "memory_mib": plan.memory_mib,
        "vcpus": plan.vcpus,
        "file_bytes_max": max(FILE_BYTES_MAX, disks.file_bytes(plan.disks)),
    }


def kernel_command_line(plan: LaunchPlan, runner: Runner, accelerator: str, tsc_khz: int) -> str:
    """Return the kernel's arguments with the guest's identity and network.

    *tsc_khz* (0: not known) is the counter's rate. An emulated guest on a busy host cannot measure
    it, nor test its timer interrupt: it would wait for ever, or count ticks instead. So it is told.
    """
    words = [KERNEL_ARGUMENTS, runner.cmdline, f"blixard.host={plan.name}"]
    if plan.node:
        words.append(f"blixard.node={plan.node}")
    if accelerator == "tcg":
        words.append(EMULATED_ARGUMENTS)
    if accelerator == "tcg" and tsc_khz:
        words.append(f"no_timer_check tsc=reliable tsc_early_khz={tsc_khz}")
    if plan.address:
        words += [
            f"blixard.ip={plan.address}",
            f"blixard.gw={plan.gateway}",
            f"blixard.mtu={plan.mtu}",
        ]
    return " ".join(word for word in words if word)


def qemu_arguments(
    plan: LaunchPlan, runner: Runner, *, accelerator: str, tsc_khz: int = 0
) -> list[str]:
    """Return the argument list; ``{path:NAME}`` and ``{fd:NAME}`` are filled by the launcher.

    The machine starts with its CPUs stopped (``-S``), and waits for a state if the plan says so.
    Sockets, log, disk and tap come as descriptors: the process needs no right to any directory.
    """
    accel = f"tcg,tb-size={TB_SIZE_MIB}" if accelerator == "tcg" else accelerator
    arguments = [
        BINARY,
        "-name",
        plan.name,
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-S",
        "-display",
        "none",
        "-sandbox",
        SANDBOX,
        "-M",
        "microvm",
        "-accel",
        accel,
        "-m",
        f"{plan.memory_mib}M",
        "-smp",
        str(plan.vcpus),
        "-kernel",
        "{path:kernel}",
        "-initrd",
        "{path:initrd}",
        "-append",
        kernel_command_line(plan, runner, accelerator, tsc_khz),
        "-chardev",
        "socket,id=qmp,fd={fd:qmp},server=on,wait=off",
        "-mon",
        "chardev=qmp,mode=control",
        "-add-fd",
        "fd={fd:console-log},set=1",
        "-chardev",
        "socket,id=console,fd={fd:console},server=on,wait=off,logfile=/dev/fdset/1,logappend=on",
        "-serial",
        "chardev:console",
        "-device",
        "virtio-serial-device",
        "-chardev",
        "socket,id=agent,fd={fd:agent},server=on,wait=off",
        "-device",
        f"virtserialport,chardev=agent,name={AGENT_PORT}",
    ]
    arguments += ["-cpu", "host" if accelerator == "kvm" else EMULATED_CPU]
    if runner.root:
        arguments += [
            "-drive",
            "id=root,file={path:root},format=raw,if=none,readonly=on",
            "-device",
            "virtio-blk-device,drive=root",
        ]
    arguments += disks.arguments(plan.disks)
    if plan.tap:
        arguments += [
            "-netdev",
            "tap,id=net0,fd={fd:tap}",
            "-device",
            f"virtio-net-device,netdev=net0,mac={plan.mac}",
        ]
    return [*arguments, "-incoming", "defer"] if plan.incoming else arguments
