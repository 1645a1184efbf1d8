"""Starts one hypervisor process under the guard: descriptors in, privileges off, then exec.

The plan names a binary of a fixed list, arguments made by our own writer, and what to open before
the privileges are dropped: files to read, disks to write and to lock, secrets, sockets to listen on
and logs to append to in the instance's directory, a tap. Nothing of it is a command line of a
shell, and the process needs no right to any directory.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import socket
import struct
import zlib
from typing import Any, NoReturn

from blixard.hypervisors.guard import door

BINARIES = ("/usr/bin/qemu-system-x86_64",)
USER_BASE, USERS = 70_000, 20_000
OUTPUT = "hypervisor.log"
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x400454CA, 0x0002, 0x1000, 0x4000
_NOFILE_MAX = 4096
_SECRET_BYTES_MAX = 4096
_OOM_SCORE = 300
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
    for part in ("files", "disks", "secrets"):
        for name, path in dict(plan.get(part, {})).items():
            if not os.path.isabs(str(path)):
                raise BadPlan(f"the file {name} must be an absolute path")
    for part in ("listen", "append"):
        for name, file in dict(plan.get(part, {})).items():
            if not isinstance(file, str) or not file or file[0] == "." or "/" in file:
                raise BadPlan(f"{name} must be a name in the instance's directory")


def pick_user(uid: str, used: set[int]) -> int:
    """Return a user id that no process of the host has: same users may trace each other.

    Several guards on one host draw from one range, hence the look at all processes.
    """
    if os.geteuid() != 0:
        return 0
    taken = used | _users_of_processes()
    first = zlib.crc32(uid.encode())
    for number in range(USERS):
        user = USER_BASE + (first + number) % USERS
        if user not in taken:
            return user
    raise BadPlan("all user ids are taken")


def _users_of_processes() -> set[int]:
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found.add(os.stat(f"/proc/{entry}").st_uid)
            except FileNotFoundError:
                continue
    return found


def start(plan: dict[str, Any], directory: str, user: int, cgroups: list[str]) -> int:
    """Fork and exec; return the pid. The guard is single-threaded: fork is safe."""
    descriptors = _open_all(plan, directory, user)
    try:
        argv = [_with_descriptors(argument, descriptors) for argument in plan["argv"]]
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _child(
                plan,
                argv,
                descriptors,
                directory=directory,
                user=user,
                cgroups=cgroups,
                parent=parent,
            )
        return pid
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


def _open_all(plan: dict[str, Any], directory: str, user: int) -> dict[str, int]:
    descriptors: dict[str, int] = {}
    try:
        for name, path in dict(plan.get("files", {})).items():
            descriptors[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        for name, path in dict(plan.get("secrets", {})).items():
            descriptors[name] = open_secret(str(path), user)
        for name, path in dict(plan.get("disks", {})).items():
            # QEMU asks for a disk in both ways, and takes each from a descriptor of that way.
            flags = os.O_CLOEXEC | os.O_NOFOLLOW
            descriptors[name] = os.open(path, os.O_RDWR | flags)
            descriptors[f"{name}-read"] = os.open(path, os.O_RDONLY | flags)
            _lock(descriptors[name], str(path))
        for name, file in dict(plan.get("listen", {})).items():
            descriptors[name] = door.listen(os.path.join(directory, file), 4).detach()
        for name, file in {**dict(plan.get("append", {})), "output": OUTPUT}.items():
            descriptors[name] = os.open(
                os.path.join(directory, file),
                os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW,
                0o600,
            )
        if plan.get("tap"):
            descriptors["tap"] = open_tap(str(plan["tap"]))
    except OSError:
        for descriptor in descriptors.values():
            os.close(descriptor)
        raise
    return descriptors


def _lock(descriptor: int, path: str) -> None:
    """Take a disk for as long as the process has it open. Raises BlockingIOError if it is taken."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BlockingIOError(error.errno, "another process has the disk", path) from error


def open_secret(path: str, user: int) -> int:
    """Return a descriptor of memory with a file's content that only *user* may read.

    The file is root's; the process opens the descriptor's path once more, as its own user.
    """
    with open(path, "rb") as file:
        secret = file.read(_SECRET_BYTES_MAX)
    descriptor = os.memfd_create("secret", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, secret)
        os.fchmod(descriptor, 0o400)
        if user:
            os.fchown(descriptor, user, user)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def open_tap(name: str) -> int:
    """Return a descriptor of an existing tap. Raises OSError."""
    # Root's request for a name that is not there would make a tap joined to nothing.
    socket.if_nametoindex(name)
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
    *,
    directory: str,
    user: int,
    cgroups: list[str],
    parent: int,
) -> NoReturn:
    """Run in the child. Order: security-lab's recipe, death signal after the drop."""
    try:
        _default_signals()
        os.setsid()
        os.chdir(directory)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(descriptors["output"], 1)
        os.dup2(descriptors["output"], 2)
        for path in cgroups:
            _note(path, str(os.getpid()))
        _note("/proc/self/oom_score_adj", str(_OOM_SCORE))
        _limits(int(plan.get("file_bytes_max", 0)))
        keep = sorted(d for name, d in descriptors.items() if name != "output")
        for descriptor in keep:
            os.set_inheritable(descriptor, True)
        _drop(user)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _close_others(keep)
        os.execve(argv[0], argv, {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"})
    except BaseException as error:
        # The child must never run on in the guard's code.
        os.write(2, f"start failed: {error}\n".encode())
    os._exit(127)


def _default_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    # A log at its limit must stop growing, not kill the guest.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def _note(path: str, text: str) -> None:
    """Write to a kernel file; what the host forbids is said in the instance's own log."""
    try:
        with open(path, "w") as file:
            file.write(text)
    except OSError as error:
        os.write(2, f"{path}: {error}\n".encode())


def _limits(file_bytes_max: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = min(_NOFILE_MAX, hard) if hard != resource.RLIM_INFINITY else _NOFILE_MAX
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if file_bytes_max:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, file_bytes_max))
    os.setpriority(os.PRIO_PROCESS, 0, 0)


def _drop(user: int) -> None:
    if user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _close_others(keep: list[int]) -> None:
    low = 3
    for descriptor in keep:
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, _NOFILE_MAX * 16)
