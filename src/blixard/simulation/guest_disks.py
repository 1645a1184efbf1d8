"""What a simulated guest does with a volume: it reads all that is there, then writes on and on."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from blixard.ports.hypervisor import LaunchPlan
from blixard.ports.volumes import DiskAttachment
from blixard.simulation.ceph import OBJECTS, SECOND, Image, SimCeph, Write
from blixard.simulation.process import Process
from blixard.simulation.stored import Stored

if TYPE_CHECKING:
    from blixard.simulation.world import Host

_EVERY_S = 1.0
_RETRY_NS = SECOND // 2


class Medium(Protocol):
    """A volume that a guest has open."""

    uid: str

    def read(self, number: int) -> int | None:
        """Return what was written last to an object; None: it has to wait."""

    def write(self, number: int, value: int, done: Callable[[bool], None]) -> None:
        """Send a write; *done* is told whether it was taken, if ever."""


class CephMedium:
    """A volume of the simulated Ceph."""

    def __init__(
        self,
        ceph: SimCeph,
        host: Host,
        plan: LaunchPlan,
        disk: DiskAttachment,
        *,
        alive: Callable[[], bool],
    ) -> None:
        image = ceph.images.get(disk.volume)
        assert image is not None, f"{plan.name} starts with a volume that is not there"
        self.uid = image.uid
        self._ceph = ceph
        self._host = host
        self._image: Image = image
        self._user = disk.user
        self._alive = alive
        node_uid = ceph.keys.get(disk.user, ("", 0))[0]
        self._client = ceph.open(image, node_uid)
        ceph.stored.opened(disk.volume, self._client, plan)

    def read(self, number: int) -> int | None:
        """Return what was written last to an object; None: it has to wait."""
        return self._ceph.read(self._host, self._image, number)

    def write(self, number: int, value: int, done: Callable[[bool], None]) -> None:
        """Send a write; it may still be under way when its sender is gone."""
        write = Write(
            host=self._host, user=self._user, client=self._client, image=self._image,
            number=number, value=value, alive=self._alive, done=done,
        )  # fmt: skip
        self._ceph.submit(write)


class GuestDisk:
    """One volume in one run of a guest; all of it happens on the guest's machine.

    *alive*: tells whether the process is left; what it wrote may still be under way when it is not.
    *runs*: whether its CPUs run; while they stand still it begins nothing.
    """

    def __init__(
        self,
        medium: Medium,
        stored: Stored,
        machine: Process,
        *,
        alive: Callable[[], bool],
        runs: Callable[[], bool],
        generator: random.Random,
    ) -> None:
        self._medium = medium
        self._stored = stored
        self._machine = machine
        self._alive = alive
        self._runs = runs
        self._stands_still = False
        self.writing = False  # one write has no answer yet
        self.answered: Callable[[], None] = lambda: None
        self._random = generator
        self._unread = list(range(OBJECTS))
        self._last = 0

    def begin(self, at_ns: int) -> None:
        """Use the disk from a time of the world on: the guest has booted then."""
        self._machine.call_at_ns(at_ns, self._step)

    def _again(self, delay_ns: int) -> None:
        self._machine.call_at_ns(self._machine.loop.now_ns + delay_ns, self._step)

    def go_on(self) -> None:
        """The CPUs run again."""
        if self._stands_still:
            self._stands_still = False
            self._again(SECOND // 1000)

    def _step(self) -> None:
        if not self._alive():
            return
        if not self._runs():
            self._stands_still = True
            return
        if self._unread:
            number = self._unread[0]
            value = self._medium.read(number)
            if value is not None:
                self._unread.pop(0)
                self._last = max(self._last, value)
                self._stored.read(self._medium.uid, number, value)
            self._again(_RETRY_NS if value is None else SECOND // 1000)
            return
        self._last += 1
        self.writing = True
        self._medium.write(self._last % OBJECTS, self._last, self._answered)

    def _answered(self, taken: bool) -> None:
        """An answer is under way; a machine that stands still reads it later, a dead one never."""
        loop = self._machine.loop
        self._machine.call_at_ns(loop.now_ns + SECOND // 1000, self._heard, self._last, taken)

    def _heard(self, value: int, taken: bool) -> None:
        self.writing = False
        self.answered()
        if not taken or not self._alive():
            return  # the guest sees errors from now on
        self._stored.acknowledged(self._medium.uid, value % OBJECTS, value)
        self._again(int(_EVERY_S * (0.5 + self._random.random()) * SECOND))
