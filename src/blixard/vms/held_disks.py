"""The volumes that one instance has on its node, and giving them back, whoever has it then."""

from __future__ import annotations

import msgspec

from blixard.ports.hypervisor import HypervisorInstance
from blixard.ports.volumes import DiskAttachment
from blixard.vms.spec import InstanceSpec
from blixard.vms.tools import Subject, Tools


class HeldDisks:
    """What a worker holds for its instance, and gives back once."""

    def __init__(self, subject: Subject, tools: Tools) -> None:
        self._subject = subject
        self._tools = tools
        self._holds = True  # for all that is known
        self._used: tuple[DiskAttachment, ...] = ()  # by the last process that was seen here

    def note(self, process: HypervisorInstance | None) -> None:
        """Remember what a process uses: its daemon may not have seen what it was started with."""
        self._used = process.plan.disks if process is not None else self._used

    async def attach(
        self, spec: InstanceSpec, epoch: int, *, moves_from: str
    ) -> tuple[DiskAttachment, ...]:
        """Return the disks of a process that is to start. Raises as ``Disks.attach`` does."""
        self._holds = True
        self._used = await self._tools.disks.attach(spec, epoch, moves_from=moves_from)
        return self._used

    async def give_back(self) -> None:
        """No process has the volumes open: another node may, once this one says Stopped."""
        last = self._subject.last
        if self._holds and last is not None and last.spec.disks:
            await self._tools.disks.detach(last.spec, self._tools.authority.epoch)
        self._holds = False

    async def leave(self) -> None:
        """It is another node's, or nobody's: those who have its volumes meanwhile keep them.

        What a daemon has not seen itself it takes from the process that it found.
        """
        tools, epoch, last = self._tools, self._tools.authority.epoch, self._subject.last
        if self._holds and last is not None and last.spec.disks:
            alone = msgspec.structs.replace(last.spec, left=msgspec.UNSET)
            await tools.disks.detach(alone, epoch)
        elif self._holds and self._used:
            await tools.disks.leave(self._used, epoch)
        self._holds = False
