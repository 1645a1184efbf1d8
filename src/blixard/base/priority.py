"""Who gets the CPU first: nice levels, and a scheduling group for those who must not wait.

Nice counts within a group only. Linux makes a group of every session (sched(7), "The autogroup
feature"; Debian has it on) and of every control group; guests have control groups. A daemon at
nice -5 in a session of its own was seen to wait 0.8 s for a CPU beside eight booting guests.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

GROUP = "blixard-daemons"
_UNIFIED, _V1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/cpu")
_WEIGHT, _SHARES = "1000", "10240"  # ten times that of all guests together


def come_first(level: int) -> None:
    """Give this process and its session a nice level; what the system refuses stays as it is.

    A session with a terminal is somebody's shell: that keeps its level.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, level)
    if not _has_terminal():
        _set_session_level("self", level)


def join_daemons() -> None:
    """Put this process into the group of the daemons and guards of this machine.

    Not where somebody else, as systemd does, has put it into one, nor without the right to.
    """
    root = _root()
    if cpu_group("self") != "/":
        return
    unified = root == _UNIFIED
    with contextlib.suppress(OSError):
        if unified:
            (root / "cgroup.subtree_control").write_text("+cpu")
        (root / GROUP).mkdir(exist_ok=True)
        name, weight = ("cpu.weight", _WEIGHT) if unified else ("cpu.shares", _SHARES)
        (root / GROUP / name).write_text(weight)
        (root / GROUP / "cgroup.procs").write_text(str(os.getpid()))


def leave_daemons() -> None:
    """Leave that group; the last one removes it."""
    if cpu_group("self") == f"/{GROUP}":
        with contextlib.suppress(OSError):
            (_root() / "cgroup.procs").write_text(str(os.getpid()))
            (_root() / GROUP).rmdir()


def come_last(pid: int, level: int) -> None:
    """Let a child in a session of its own, which can wait, leave the CPU to others."""
    if cpu_group(pid) == f"/{GROUP}":
        with contextlib.suppress(OSError):
            (_root() / "cgroup.procs").write_text(str(pid))
    _set_session_level(pid, level)


def _root() -> Path:
    return _UNIFIED if (_UNIFIED / "cgroup.controllers").exists() else _V1


def cpu_group(pid: int | str) -> str:
    """Return the control group for the CPU of a process, empty if there is none."""
    groups: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            groups |= dict.fromkeys(controllers.split(","), path)
    return groups.get("" if _root() == _UNIFIED else "cpu", "")


def _set_session_level(pid: int | str, level: int) -> None:
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(level))


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
