"""A bound on a function's memory inside its guest: it ends alone, before the guest has none left.

Without it a guest that runs short evicts the pages of its own programs again and again, and
answers nobody (kernel documentation, control group v2, ``memory.max``).
"""

from __future__ import annotations

import os

from blixard.guest.loop import Outlet, say
from blixard.guest.machine import metrics, mount

GROUPS_ROOT = "/sys/fs/cgroup"
GROUP_NAME = "blixard-function"
KEPT_BYTES = 16 << 20  # for the agent's next steps and the pages of its program
LEAST_BYTES = 16 << 20


def function_group(console: Outlet) -> str:
    """Return the control group for the next process; empty, and said so, if there can be none."""
    group = f"{GROUPS_ROOT}/{GROUP_NAME}"
    available = metrics().get("memory_available_bytes", 0.0)
    why = "" if os.path.ismount(GROUPS_ROOT) else mount("cgroup2", GROUPS_ROOT, "cgroup2")
    try:
        if not why:
            set_control(f"{GROUPS_ROOT}/cgroup.subtree_control", "+memory")
            os.makedirs(group, exist_ok=True)
            set_control(f"{group}/memory.max", str(max(LEAST_BYTES, int(available) - KEPT_BYTES)))
            return group
    except OSError as error:
        why = str(error)
    # Now only the kernel's choice protects the agent; a function that works is worth more.
    say(console, f"the function's memory has no bound of its own: {why}")
    return ""


def join_group(group: str) -> None:
    """Put this process into a group; none is no change."""
    if group:
        set_control(f"{group}/cgroup.procs", "0")


def set_control(path: str, text: str) -> None:
    """Write one setting of a group. Raises OSError."""
    with open(path, "w") as file:
        file.write(text)
