"""What a simulated guest does with a volume: it reads all that is there, then writes on and on."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from blixard.ports.hypervisor import LaunchPlan
from blixard.ports.volumes import DiskAttachment
from blixard.simulation.ceph import OBJECTS, SECOND, Image, SimCeph, Write

if TYPE_CHECKING:
    from blixard.simulation.world import Host

_EVERY_S = 1.0
_RETRY_NS = SECOND // 2


class GuestDisk:
    """One volume in one run of a guest; all of it happens on the guest's machine.

    *alive*: tells whether the process is left; what it wrote may still be under way when it is not.
    *runs*: whether its CPUs run; while they stand still it begins nothing.
    """

    def __init__(
        self,
        ceph: SimCeph,
        host: Host,
        plan: LaunchPlan,
        disk: DiskAttachment,
        *,
        alive: Callable[[], bool],
        runs: Callable[[], bool],
        generator: random.Random,
    ) -> None:
        image = ceph.images.get(disk.volume)
        assert image is not None, f"{plan.name} starts with a volume that is not there"
        self._ceph = ceph
        self._host = host
        self._machine = host.machine
        self._image: Image = image
        self._user = disk.user
        self._alive = alive
        self._runs = runs
        self._stands_still = False
        self.writing = False  # one write has no answer yet
        self.answered: Callable[[], None] = lambda: None
        self._random = generator
        self._unread = list(range(OBJECTS))
        self._last = 0
        node_uid = ceph.keys.get(disk.user, ("", 0))[0]
        self._client = ceph.open(image, node_uid)
        ceph.stored.opened(disk.volume, self._client, plan)

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
            value = self._ceph.read(self._host, self._image, number)
            if value is not None:
                self._unread.pop(0)
                self._last = max(self._last, value)
                self._ceph.stored.read(self._image.uid, number, value)
            self._again(_RETRY_NS if value is None else SECOND // 1000)
            return
        self._last += 1
        self.writing = True
        write = Write(
            host=self._host, user=self._user, client=self._client, image=self._image,
            number=self._last % OBJECTS, value=self._last, alive=self._alive, done=self._answered,
        )  # fmt: skip
        self._ceph.submit(write)

    def _answered(self, taken: bool) -> None:
        """An answer is under way; a machine that stands still reads it later, a dead one never."""
        loop = self._machine.loop
        self._machine.call_at_ns(loop.now_ns + SECOND // 1000, self._heard, self._last, taken)

    def _heard(self, value: int, taken: bool) -> None:
        self.writing = False
        self.answered()
        if not taken or not self._alive():
            return  # the guest sees errors from now on
        self._ceph.stored.acknowledged(self._image.uid, value % OBJECTS, value)
        self._again(int(_EVERY_S * (0.5 + self._random.random()) * SECOND))
