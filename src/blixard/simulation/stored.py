"""What must hold of volumes: one writer, no write of an older run, nothing acknowledged is lost,
and whoever's data are files of one host runs nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from blixard.ports.hypervisor import LaunchPlan

if TYPE_CHECKING:
    from blixard.simulation.world import World


class Stored:
    """Follows every volume; judges each open, each accepted write and each read after a start."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._newest: dict[str, tuple[int, str]] = {}  # volume: the last client that opened it
        self._acknowledged: dict[tuple[str, int], int] = {}
        self._running: dict[str, tuple[int, LaunchPlan]] = {}  # volume: whose CPUs run, and where
        self.fail: Callable[[str, str], None] = lambda _name, _text: None
        self.happened: Callable[[str], None] = lambda _what: None
        self.writes = 0
        self._clients = 0
        self._homes: dict[str, int] = {}  # volumes that are files: the host of their first guest

    def client(self) -> int:
        """Return the number of a new client of a volume."""
        self._clients += 1
        return self._clients

    def started(self, host: int, plan: LaunchPlan) -> None:
        """The CPUs of a guest run: nobody else may have one of its volumes."""
        for disk in plan.disks:
            other = self._running.setdefault(disk.volume, (host, plan))
            if other != (host, plan) and other[1].instance_uid != plan.instance_uid:
                self.fail(
                    "two writers",
                    f"{plan.name} starts on host {host} with {disk.volume}, which "
                    f"{other[1].name} has on host {other[0]}",
                )

    def ended(self, host: int, plan: LaunchPlan) -> None:
        """They run no longer."""
        for disk in plan.disks:
            if self._running.get(disk.volume) == (host, plan):
                del self._running[disk.volume]

    def opened(self, volume: str, client: int, plan: LaunchPlan) -> None:
        """A guest opened a volume, at the start of its CPUs."""
        self._newest[volume] = (client, f"{plan.name}, run {plan.run}, epoch {plan.node_epoch}")

    def lies(self, volume: str, host: int, plan: LaunchPlan) -> None:
        """A guest opened a volume that is a file of its host."""
        home = self._homes.setdefault(volume, host)
        if home != host:
            self.fail(
                "placement by storage",
                f"{plan.name} starts on host {host}, and its volume {volume} lies on host {home}",
            )

    def accepted(self, volume: str, client: int, user: str) -> None:
        """No write of an older client is accepted after a newer one has started."""
        self.writes += 1
        newest, who = self._newest.get(volume, (0, ""))
        if client < newest:
            self.fail(
                "stale write",
                f"{volume} takes a write of {user} after {who} has started",
            )

    def acknowledged(self, volume: str, number: int, value: int) -> None:
        """A guest was told that a write is durable."""
        self._acknowledged[volume, number] = value

    def read(self, volume: str, number: int, value: int) -> None:
        """A guest that starts finds every write of before."""
        known = self._acknowledged.get((volume, number), 0)
        if value < known:
            self.fail(
                "lost write",
                f"object {number} of {volume} holds write {value}, {known} was acknowledged",
            )
