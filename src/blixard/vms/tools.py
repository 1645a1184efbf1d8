"""What a worker and its parts are handed: the instance they are about, and the outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from blixard.ports.environment import Environment
from blixard.ports.guests import GuestBuilder
from blixard.ports.hypervisor import Hypervisor
from blixard.ports.network import NetworkBackend
from blixard.vms.disks import Disks
from blixard.vms.moves import MoveAnswer, MoveWord
from blixard.vms.reconcile import Assignment, History
from blixard.vms.spec import InstanceStatus, Phase


class Subject(Protocol):
    """The instance, read anew each time: all but its uid may be another after any await.

    ``assignment`` is None once the instance is no longer the node's, ``last`` is what it was then.
    """

    uid: str
    assignment: Assignment | None
    last: Assignment | None
    history: History


class Authority(Protocol):
    """What the node may do now, and whom to ask before a guest's CPUs run."""

    def granted(self) -> bool:
        """Tell whether the lease is valid and the assignments were read under its epoch."""

    @property
    def epoch(self) -> int:
        """The node's epoch."""

    @property
    def deadline_ns(self) -> int:
        """When the lease ends, CLOCK_BOOTTIME."""

    async def confirm_start(self, uid: str, run: int, epoch: int) -> bool:
        """Ask the leader, linearizably, whether this run in this epoch may start."""

    async def tell_move(self, word: MoveWord) -> MoveAnswer:
        """Tell the leader of a migration. Raises BlixardError: what came of it is unknown."""


class Tools(msgspec.Struct, frozen=True):
    """The outside of a worker."""

    env: Environment
    hypervisor: Hypervisor
    network: NetworkBackend
    builder: GuestBuilder
    authority: Authority
    report: Callable[[Assignment, InstanceStatus, tuple[Phase, ...]], None]
    network_of: Callable[[str], tuple[str, int, int]]
    disks: Disks = msgspec.field(default_factory=lambda: Disks({}, ""))
