"""A cgroup per instance where the host has them: v1 controllers, a v2 directory, or nothing."""

from __future__ import annotations

import contextlib
import os
import pathlib
import time

ROOT = pathlib.Path("/sys/fs/cgroup")
V1 = ("memory", "pids", "cpu")
PIDS_MAX = 256
OVERHEAD_MIB = 320  # of the hypervisor itself, with its translation cache
_REMOVE_S = 0.5


class Cgroups:
    """The directories of one guard, below ``blixard/NAME`` of each hierarchy that can be written."""

    def __init__(self, name: str) -> None:
        self._bases: dict[str, pathlib.Path] = {}
        if os.geteuid() != 0:
            return
        if (ROOT / "cgroup.controllers").exists():
            candidates = {"unified": ROOT}
        else:
            candidates = {controller: ROOT / controller for controller in V1}
            candidates["unified"] = ROOT / "unified"
        for controller, root in candidates.items():
            base = root / "blixard" / name
            with contextlib.suppress(OSError):
                if (root / "cgroup.procs").exists():
                    base.mkdir(parents=True, exist_ok=True)
                    self._bases[controller] = base

    def make(self, instance: str, memory_mib: int) -> list[str]:
        """Make an instance's directories with their limits; return its ``cgroup.procs`` files."""
        files = []
        for controller, base in self._bases.items():
            folder = base / instance
            try:
                folder.mkdir(exist_ok=True)
            except OSError:
                continue
            most = (memory_mib + OVERHEAD_MIB) << 20
            limits = {
                "memory": (("memory.limit_in_bytes", most),),
                "pids": (("pids.max", PIDS_MAX),),
                "unified": (("memory.max", most), ("pids.max", PIDS_MAX)),
            }.get(controller, ())
            for name, value in limits:
                with contextlib.suppress(OSError):
                    (folder / name).write_text(str(value))
            files.append(str(folder / "cgroup.procs"))
        return files

    def kill(self, instance: str) -> None:
        """Kill whatever is in an instance's directories."""
        base = self._bases.get("unified")
        if base is not None:
            with contextlib.suppress(OSError):
                (base / instance / "cgroup.kill").write_text("1")

    def remove(self, instance: str) -> None:
        """Remove an instance's directories; a dying process may hold them for an instant."""
        for base in self._bases.values():
            self._remove(base / instance)

    def close(self) -> None:
        """Remove the guard's own directories."""
        for base in self._bases.values():
            self._remove(base)

    def _remove(self, folder: pathlib.Path) -> None:
        until = time.monotonic() + _REMOVE_S
        while folder.exists():
            try:
                folder.rmdir()
            except OSError:
                if time.monotonic() > until:
                    return
                time.sleep(0.01)
