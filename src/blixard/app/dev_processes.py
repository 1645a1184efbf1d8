"""Processes of a node: started detached, found again by namespace and start time, killed by pid."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from blixard.app.dev_layout import Place
from blixard.app.dev_network import NAMESPACES
from blixard.app.dev_root import without_traces
from blixard.base.errors import BlixardError

START_S = 10.0
KILL_S = 10.0
# The shell writes pid and start time before it becomes the daemon: none is ever without its file.
_WRITE_PID = 'echo "$$ $(cut -d" " -f22 /proc/$$/stat)" >"$0"; exec "$@"'
_GUARD = "blixard.hypervisors.guard.process"


def inside(place: Place, argv: list[str]) -> list[str]:
    """Return the command line that runs *argv* in the node's namespace.

    ``ip netns exec`` would hide the host's cgroups below a fresh /sys.
    """
    return ["nsenter", f"--net={NAMESPACES}/{place.namespace}", "--", *argv]


def blixard(*arguments: str) -> list[str]:
    """Return the command line of this program."""
    return [sys.executable, "-m", "blixard.app.main", *arguments]


def environment() -> dict[str, str]:
    """Return the environment without our own variables: files say what a node's settings are."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("BLIXARD_")}
    path = kept.get("PATH", "/usr/bin:/bin")
    kept["PATH"] = f"{path}:/usr/sbin:/sbin"
    return {**without_traces(kept), "BLIXARD_HINTS": "0"}


def call(place: Place, argv: list[str], *, timeout_s: float) -> str:
    """Run a command in the node's namespace to its end.

    Raises:
        BlixardError: INTERNAL, with its last words.
    """
    try:
        done = subprocess.run(
            inside(place, argv),
            env=environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BlixardError("TIMEOUT", f"{place.name}: {' '.join(argv[2:])} did not end") from error
    if done.returncode != 0:
        words = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise BlixardError("INTERNAL", f"{place.name}: {' '.join(argv[2:])}: {words}")
    return done.stdout


def start_daemon(place: Place) -> None:
    """Start the daemon in a session of its own, a child of init."""
    argv = blixard("node", "run", "--config-file", place.config)
    shell = ["sh", "-c", _WRITE_PID, place.pid_file, *inside(place, argv)]
    with open(place.log, "ab") as log:
        subprocess.run(
            ["setsid", "--fork", *shell],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=environment(),
            check=True,
            timeout=START_S,
        )
    deadline = time.monotonic() + START_S
    while daemon_pid(place) is None:
        if time.monotonic() > deadline:
            raise BlixardError("INTERNAL", f"{place.name}: the daemon did not start: {place.log}")
        time.sleep(0.01)


def daemon_pid(place: Place) -> int | None:
    """Return the daemon's pid; None if it ended, or if the pid is somebody else's now."""
    try:
        with open(place.pid_file) as file:
            pid, started = file.read().split()
    except (OSError, ValueError):
        return None
    return int(pid) if start_time(int(pid)) == started else None


def start_time(pid: int) -> str:
    """Return when a process started, in ticks; empty if there is none or if it is a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def members(namespace: str) -> list[int]:
    """Return the pids of all processes in a network namespace."""
    try:
        wanted = os.stat(f"{NAMESPACES}/{namespace}")
    except FileNotFoundError:
        return []
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            its = os.stat(f"/proc/{entry}/ns/net")
            if (its.st_ino, its.st_dev) == (wanted.st_ino, wanted.st_dev):
                found.append(int(entry))
    return sorted(found)


def kill_daemon(place: Place) -> bool:
    """Kill the daemon alone; return whether it ran."""
    pid = daemon_pid(place)
    if pid is None:
        return False
    _kill([pid])
    _until_gone(lambda: daemon_pid(place) is not None, place.name)
    return True


def kill_all(namespace: str, first: int | None = None) -> int:
    """Kill every process in a namespace; return how many there were.

    The daemon (*first*) and the guard go before the guests, so that nobody is left to tell of it.
    """
    found = members(namespace)
    order = [p for p in found if p == first]
    order += [p for p in found if p not in order and _is_guard(p)]
    _kill([*order, *(p for p in found if p not in order)])
    _until_gone(lambda: bool(_kill(members(namespace))), namespace)
    return len(found)


def guests(namespace: str) -> int:
    """Return how many hypervisor processes run in a namespace."""
    return sum(_argument(pid, 0).endswith("qemu-system-x86_64") for pid in members(namespace))


def _kill(pids: list[int]) -> list[int]:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return pids


def _until_gone(is_there: Callable[[], bool], name: str) -> None:
    deadline = time.monotonic() + KILL_S
    while is_there():
        if time.monotonic() > deadline:
            raise BlixardError("TIMEOUT", f"{name}: processes do not end")
        time.sleep(0.01)


def _is_guard(pid: int) -> bool:
    return _argument(pid, 2) == _GUARD


def _argument(pid: int, number: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return ""
    return words[number].decode(errors="replace") if number < len(words) else ""
