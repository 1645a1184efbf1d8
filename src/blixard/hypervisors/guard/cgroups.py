"""A cgroup per instance where the host has them: v1 controllers, a v2 directory, or nothing."""

from __future__ import annotations

import contextlib
import os
import pathlib

ROOT = pathlib.Path("/sys/fs/cgroup")
V1 = ("memory", "pids", "cpu")
PIDS_MAX = 256
OVERHEAD_MIB = 320  # of the hypervisor itself, with its translation cache


class Cgroups:
    """One guard's directories, below ``blixard/NAME`` of each hierarchy that can be written."""

    def __init__(self, name: str) -> None:
        self._bases: dict[str, pathlib.Path] = {}
        self._leaving: list[pathlib.Path] = []
        if os.geteuid() != 0:
            return
        for controller, root in _hierarchies().items():
            base = root / "blixard" / name
            with contextlib.suppress(OSError):
                if (root / "cgroup.procs").exists():
                    base.mkdir(parents=True, exist_ok=True)
                    self._bases[controller] = base
                    # Left by a guard that was killed; its instances died with it.
                    self._leaving += [folder for folder in base.iterdir() if folder.is_dir()]
        if self._bases.get("unified") == ROOT / "blixard" / name:
            # A directory offers its children what its parent has switched on.
            for folder in (ROOT, ROOT / "blixard", ROOT / "blixard" / name):
                for controller in V1:
                    _write(folder / "cgroup.subtree_control", f"+{controller}")

    def controllers(self) -> list[str]:
        """Return which hierarchies are used."""
        return sorted(self._bases)

    def make(self, instance: str, memory_mib: int, vcpus: int) -> list[str]:
        """Make an instance's directories with their limits; return its ``cgroup.procs`` files."""
        most = (memory_mib + OVERHEAD_MIB) << 20
        limits = {
            "memory": {"memory.limit_in_bytes": most},
            "pids": {"pids.max": PIDS_MAX},
            "cpu": {"cpu.shares": 1024 * vcpus},
            "unified": {
                "memory.max": most,
                "pids.max": PIDS_MAX,
                "cpu.weight": min(10_000, 100 * vcpus),
            },
        }
        files = []
        for controller, base in self._bases.items():
            folder = base / instance
            with contextlib.suppress(ValueError):
                self._leaving.remove(folder)
            try:
                folder.mkdir(exist_ok=True)
            except OSError:
                continue
            for name, value in limits[controller].items():
                _write(folder / name, str(value))
            files.append(str(folder / "cgroup.procs"))
        return files

    def kill(self, instance: str) -> None:
        """Kill whatever is in an instance's directories."""
        base = self._bases.get("unified")
        if base is not None:
            _write(base / instance / "cgroup.kill", "1")

    def remove(self, instance: str) -> None:
        """Remove an instance's directories; a dying process may hold them for a while."""
        self._leaving += [base / instance for base in self._bases.values()]
        self.sweep()

    def sweep(self) -> None:
        """Try again what could not be removed."""
        self._leaving = [folder for folder in self._leaving if not _removed(folder)]

    def close(self) -> None:
        """Remove the guard's own directories, and the one above if it was the last."""
        self.sweep()
        for base in self._bases.values():
            if _removed(base):
                _removed(base.parent)


def available() -> list[str]:
    """Return which of the limits this host offers; empty if it has no hierarchy to write to."""
    found = []
    for controller, root in _hierarchies().items():
        if os.access(root / "cgroup.procs", os.W_OK):
            found.append(controller)
            if root == ROOT:
                offered = (root / "cgroup.controllers").read_text().split()
                found += [name for name in V1 if name in offered]
    return found


def remove_abandoned() -> list[str]:
    """Remove the empty directories of guards that were killed; return the guards' names.

    A guard has its name among its arguments before it makes a directory: no process, no guard.
    """
    parents = [root / "blixard" for root in _hierarchies().values()]
    found = {folder.name for parent in parents for folder in _folders(parent)}
    removed = []
    for name in sorted(found - _words_of_processes()) if found else []:
        bases = [parent / name for parent in parents if (parent / name).is_dir()]
        for base in bases:
            for folder in (*_folders(base), base):
                _removed(folder)
        removed += [] if any(base.exists() for base in bases) else [name]
    return removed


def _folders(parent: pathlib.Path) -> list[pathlib.Path]:
    """Return the directories in one; none if another daemon has just removed it."""
    with contextlib.suppress(FileNotFoundError):
        return [folder for folder in parent.iterdir() if folder.is_dir()]
    return []


def _hierarchies() -> dict[str, pathlib.Path]:
    """Return where the host has its hierarchies: one of all controllers, or one for each."""
    if (ROOT / "cgroup.controllers").exists():
        return {"unified": ROOT}
    return {**{controller: ROOT / controller for controller in V1}, "unified": ROOT / "unified"}


def _words_of_processes() -> set[str]:
    words: set[str] = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                line = pathlib.Path("/proc", entry, "cmdline").read_bytes()
                words.update(line.decode(errors="replace").split("\0"))
    return words


def _write(path: pathlib.Path, text: str) -> None:
    """Write one setting; a host without it, or that forbids it, goes without."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


def _removed(folder: pathlib.Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
