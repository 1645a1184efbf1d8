"""Starts one hypervisor process under the guard: descriptors in, privileges off, then exec.

The plan names a binary of a fixed list, arguments made by our own writer, files to open before the
privileges are dropped, a tap, a user id and limits. Nothing of it is a command line of a shell.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import struct
from typing import Any

BINARIES = ("/usr/bin/qemu-system-x86_64",)
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x400454CA, 0x0002, 0x1000, 0x4000
_NOFILE_MAX = 4096
_LIBC = ctypes.CDLL(None, use_errno=True)


class BadPlan(Exception):
    """The plan asks for something that the guard does not do."""


def check_plan(plan: dict[str, Any], binaries: tuple[str, ...]) -> None:
    """Refuse what is not of the agreed form. Raises BadPlan."""
    argv = plan.get("argv")
    if not isinstance(argv, list) or not argv or not all(isinstance(a, str) for a in argv):
        raise BadPlan("argv must be a list of texts")
    if argv[0] not in binaries:
        raise BadPlan(f"{argv[0]} is not in the list of binaries")
    if any("\0" in argument for argument in argv):
        raise BadPlan("an argument holds a NUL")
    if not os.path.isabs(str(plan.get("directory", ""))):
        raise BadPlan("directory must be absolute")
    for name, path in dict(plan.get("files", {})).items():
        if not os.path.isabs(str(path)):
            raise BadPlan(f"the file {name} must be an absolute path")


def start(plan: dict[str, Any], cgroups: list[str]) -> int:
    """Fork and exec; return the pid. The guard is single-threaded: fork is safe."""
    descriptors = _open_files(plan)
    try:
        argv = [_with_descriptors(argument, descriptors) for argument in plan["argv"]]
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _child(plan, argv, descriptors, cgroups, parent)
        return pid
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


def _open_files(plan: dict[str, Any]) -> dict[str, int]:
    descriptors: dict[str, int] = {}
    try:
        for name, path in dict(plan.get("files", {})).items():
            descriptors[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if plan.get("tap"):
            descriptors["tap"] = open_tap(str(plan["tap"]))
        descriptors["output"] = os.open(
            os.path.join(plan["directory"], "hypervisor.log"),
            os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW,
            0o600,
        )
    except OSError:
        for descriptor in descriptors.values():
            os.close(descriptor)
        raise
    return descriptors


def open_tap(name: str) -> int:
    """Return a descriptor of an existing tap. Raises OSError."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _with_descriptors(argument: str, descriptors: dict[str, int]) -> str:
    for name, descriptor in descriptors.items():
        argument = argument.replace(f"{{path:{name}}}", f"/proc/self/fd/{descriptor}")
        argument = argument.replace(f"{{fd:{name}}}", str(descriptor))
    return argument


def _child(
    plan: dict[str, Any],
    argv: list[str],
    descriptors: dict[str, int],
    cgroups: list[str],
    parent: int,
) -> None:
    """Run in the child, never return. Order: security-lab's recipe, death signal after the drop."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        for path in cgroups:
            with contextlib.suppress(OSError), open(path, "w") as file:
                file.write(str(os.getpid()))
        _limits()
        os.chdir(plan["directory"])
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(descriptors["output"], 1)
        os.dup2(descriptors["output"], 2)
        keep = sorted(d for name, d in descriptors.items() if name != "output")
        for descriptor in keep:
            os.set_inheritable(descriptor, True)
        _drop(int(plan.get("user", 0)))
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _close_others(keep)
        os.execve(argv[0], argv, {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"})
    except BaseException as error:  # noqa: BLE001 - the child must not run the guard's code
        os.write(2, f"start failed: {error}\n".encode())
    os._exit(127)


def _limits() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = min(_NOFILE_MAX, hard) if hard != resource.RLIM_INFINITY else _NOFILE_MAX
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _drop(user: int) -> None:
    if user and os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)


def _close_others(keep: list[int]) -> None:
    low = 3
    for descriptor in keep:
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, _NOFILE_MAX * 16)
