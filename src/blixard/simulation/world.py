"""Hosts with disks, clocks, guests and a daemon each; what may happen to them."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

import msgspec

from blixard.ports.hypervisor import LaunchPlan
from blixard.simulation.backends import SimGuestBuilder, SimNetworkBackend
from blixard.simulation.ceph import SimCeph
from blixard.simulation.clock import HostClock
from blixard.simulation.disk import SimDisk
from blixard.simulation.disk_image import DiskImage
from blixard.simulation.environment import SimEnvironment, describe
from blixard.simulation.guest_disks import CephMedium, GuestDisk, Medium
from blixard.simulation.guest_processes import Observer
from blixard.simulation.guest_world import GuestWorld
from blixard.simulation.hypervisor import SimHypervisor
from blixard.simulation.local_volumes import LocalMedium, SimLocalVolumes
from blixard.simulation.loop import Mode, SimLoop
from blixard.simulation.network import Network
from blixard.simulation.process import Process
from blixard.simulation.streams import Streams
from blixard.simulation.trace import Trace
from blixard.simulation.transport import SimTransport
from blixard.simulation.volumes import SimVolumes
from blixard.storage.backends import Backends

MAX_DRIFT_PPB = 500_000
LOG_LINES = 200
GENERATION = 100  # raft ids of one host are so far apart

_BUGS = ("the Raft engine", "a task crashed")  # reasons that no disk excuses

LogLine = tuple[int, int, str, str, dict[str, object]]


class Daemon(msgspec.Struct):
    """One incarnation of a host's daemon: its process and what it sees."""

    process: Process
    env: SimEnvironment
    hypervisor: SimHypervisor
    incarnation: int
    backends: Backends


class Host:
    """One machine."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.uid = f"node-{number}"
        self.raft_id = number
        self.generation = 0
        self.address = f"10.0.0.{number}:7000"
        self.image = DiskImage(world.streams.get(f"disk/{number}"))
        self.image.on_sync = self._synced
        self.local_volumes = SimLocalVolumes()
        self.lost: dict[int, DiskImage] = {}  # the disks of the members before, by their raft id
        self.daemon: Daemon | None = None
        self.up = False
        self.frozen = False
        self.boot_s: float | None = None  # of each guest, where it is given
        self._suspended_ns: int | None = None  # since when
        self.drift_ppb: int | None = None  # drawn at each boot unless it is given
        self._incarnations = 0
        self._boots = 0
        self._clocks = world.streams.get(f"clock/{number}")

    @property
    def incarnation(self) -> int:
        """Which daemon runs on it, counted from 1; the last one if none runs."""
        return self._incarnations

    def boot(self) -> None:
        """Switch the machine on; the daemon is started separately."""
        assert not self.up
        world = self.world
        self._boots += 1
        drift = self._clocks.randint(-MAX_DRIFT_PPB, MAX_DRIFT_PPB)
        if self.drift_ppb is not None:
            drift = self.drift_ppb
        offset = self._clocks.randint(0, 10**12) if self._boots == 1 else 0
        clock = HostClock(base_ns=world.loop.now_ns, offset_ns=offset, drift_ppb=drift)
        clock.step_wall(self._clocks.randint(-2000, 2000))
        clock.asleep_ns = world.streams.get(f"asleep/{self.number}").randint(0, offset)
        self.machine = Process(world.loop, f"machine-{self.number}", host=self.number, clock=clock)
        guests = world.streams.get(f"guests/{self.number}/{self._boots}")
        self.guests = GuestWorld(self.machine, guests, world.now_ns, world.observer)
        self.guests.use_disks = self._use_disks
        self.guests.boot_s = self.boot_s
        self.network_backend = SimNetworkBackend()
        self.builder = SimGuestBuilder()
        self.up = True

    def _use_disks(
        self, plan: LaunchPlan, at_ns: int, alive: Callable[[], bool], runs: Callable[[], bool]
    ) -> list[GuestDisk]:
        """A guest with volumes begins to run."""
        used = []
        ceph, stored = self.world.ceph, self.world.ceph.stored
        draw = self.world.streams.get(f"writes/{plan.instance_uid}/{plan.run}/{self.number}")
        for disk in plan.disks:
            medium: Medium
            if disk.kind == "rbd":
                medium = CephMedium(ceph, self, plan, disk, alive=alive)
            else:
                medium = LocalMedium(
                    self.local_volumes, stored, self.machine, plan, disk, alive=alive
                )
            made = GuestDisk(medium, stored, self.machine, alive=alive, runs=runs, generator=draw)
            made.begin(at_ns)
            used.append(made)
        return used

    def renew(self) -> None:
        """Become a new node with an empty disk; the daemon is gone."""
        assert self.daemon is None
        before = self.raft_id
        self.generation += 1
        self.uid = f"node-{self.number}.{self.generation}"
        self.raft_id = self.number + self.generation * GENERATION
        self.lost[before] = self.image.replace()
        self.local_volumes = SimLocalVolumes()

    def start_daemon(self) -> Daemon:
        """Start a new incarnation of the daemon."""
        assert self.up
        assert self.daemon is None
        world = self.world
        self._incarnations += 1
        name = f"daemon-{self.number}.{self._incarnations}"
        process = Process(world.loop, name, host=self.number, clock=self.machine.clock)
        generator = world.streams.get(f"node/{self.number}/{self._incarnations}")
        env = world.environment(process, self.uid, SimDisk(self.image, process, world.now_ns),
                                generator=generator)  # fmt: skip
        hypervisor = SimHypervisor(self.guests, process, generator)
        backends: Backends = {
            "ceph": SimVolumes(world.ceph, self, process, generator), "local": self.local_volumes,
        }  # fmt: skip
        self.daemon = Daemon(process, env, hypervisor, self._incarnations, backends)
        if self.frozen:
            process.pause()
        world.network.attach(env.transport)
        world.note(self.number, "start", self._incarnations)
        return self.daemon

    def kill_daemon(self) -> None:
        """SIGKILL: the system keeps what was written, guests run on."""
        if self.daemon is not None:
            self.world.note(self.number, "kill", self.daemon.incarnation)
            self.daemon.process.kill()
            self.world.network.detach(self.daemon.env.transport)
            self.daemon = None

    def crash(self) -> None:
        """Power loss: daemon and guests are gone, and what was not synced is in doubt."""
        if not self.up:
            return
        self.world.note(self.number, "crash")
        self.kill_daemon()
        for uid in sorted(self.guests.instances):
            self.guests.end(uid, code=-1)
        self.machine.kill()
        self.image.crash()
        self.up = self.frozen = False
        self._suspended_ns = None

    def pause_daemon(self) -> None:
        """SIGSTOP of the daemon alone."""
        if self.daemon is not None and not self.daemon.process.paused:
            self.world.note(self.number, "pause")
            self.daemon.process.pause()

    def resume_daemon(self) -> None:
        """SIGCONT."""
        if self.daemon is not None and self.daemon.process.paused and not self.frozen:
            self.world.note(self.number, "resume")
            self.daemon.process.resume()

    def freeze(self) -> None:
        """The whole machine stands still: daemon, guard and guests."""
        if self.up and not self.frozen:
            self.world.note(self.number, "freeze")
            self.frozen = True
            for plan in self.guests.running():
                self.world.observer.ended(self.number, plan)
            self.machine.pause()
            self.pause_daemon()

    def suspend(self) -> None:
        """Like :meth:`freeze`, and the monotonic clock stands still with it."""
        if self.up and not self.frozen:
            self.freeze()
            self._suspended_ns = self.world.loop.now_ns
            if self.daemon is not None:
                self.daemon.process.sleep()

    def thaw(self) -> None:
        """It goes on; the guard is the first to look at the clock."""
        if self.frozen:
            self.world.note(self.number, "thaw")
            self.frozen = False
            self._count_sleep()
            before = self.guests.running()
            self.guests.expire()
            alive = {plan.instance_uid for plan in self.guests.running()}
            for plan in before:
                if plan.instance_uid in alive:
                    self.world.observer.started(self.number, plan)
            self.machine.resume()
            self.resume_daemon()

    def _count_sleep(self) -> None:
        since_ns, now_ns = self._suspended_ns, self.world.loop.now_ns
        self._suspended_ns = None
        if since_ns is not None:
            self.machine.clock.slept(since_ns, now_ns)
            if self.daemon is not None:
                self.daemon.process.wake(now_ns - since_ns)

    def _synced(self, size: int, checksum: int) -> None:
        self.world.trace.add(self.world.loop.now_ns, self.number, "sync", size, checksum)


class World:
    """Everything outside the nodes, from one seed."""

    def __init__(
        self,
        seed: int,
        nodes: int,
        *,
        mode: Mode,
        observer: Observer,
        max_steps: int = 0,
        change_points: int = 0,
    ) -> None:
        self.streams = Streams(seed)
        order = self.streams.get("scheduler")
        self.loop = SimLoop(
            order=order, mode=mode, max_steps=max_steps, change_points=change_points
        )
        self.trace = Trace()
        self.observer = observer
        self.network = Network(self.loop, self.streams.get("network"), self.trace)
        self.lines: deque[LogLine] = deque(maxlen=LOG_LINES)
        self.bugs: list[str] = []
        self.fatals: list[str] = []
        self.stops = 0
        self.on_fatal: Callable[[], None] = lambda: None
        self.on_stopped: Callable[[Host, str], None] = lambda _host, _code: None
        self.excused: dict[int, str] = {}  # host -> how a reason begins that it may stop for
        self.ceph = SimCeph(self)
        self.hosts = [Host(self, number) for number in range(1, nodes + 1)]

    def now_ns(self) -> int:
        """Return the world's time."""
        return self.loop.now_ns

    def note(self, host: int, kind: str, value: int | str = 0) -> None:
        """Put an event of the world into the trace."""
        self.trace.add(self.loop.now_ns, host, kind, value)

    def environment(
        self, process: Process, uid: str, disk: SimDisk, *, generator: random.Random
    ) -> SimEnvironment:
        """Return the outside of a process; its transport is not attached yet."""
        transport = SimTransport(
            uid, process, self.network, trace=self.trace,
            on_crash=lambda name, error: self._bug(process, describe(name, error)),
        )  # fmt: skip
        return SimEnvironment(
            process,
            generator=generator,
            disk=disk,
            transport=transport,
            log=self._log,
            on_fatal=self._fatal,
            on_bug=self._bug,
        )

    def client(self, number: int) -> SimEnvironment:
        """Return the outside of a client: a process with a transport and no host of its own."""
        process = Process(self.loop, f"client-{number}", host=100 + number, clock=HostClock())
        image = DiskImage(self.streams.get(f"client-disk/{number}"))
        generator = self.streams.get(f"client/{number}")
        env = self.environment(
            process, f"client-{number}", SimDisk(image, process, self.now_ns), generator=generator
        )
        env.transport.knows_all = True
        self.network.attach(env.transport)
        return env

    def _log(self, host: int, level: str, event: str, fields: dict[str, object]) -> None:
        self.trace.add(self.loop.now_ns, host, event)
        self.lines.append((self.loop.now_ns, host, level, event, fields))

    def host_of(self, raft_id: int) -> Host:
        """Return the host on which a member ran or runs."""
        return self.hosts[(raft_id - 1) % GENERATION]

    def stopped(self, process: Process, code: str) -> None:
        """A daemon gave up because of its disk, as it should."""
        self.note(process.host, f"stopped:{code}")
        self.stops += 1
        host = self.hosts[process.host - 1]
        if process.alive:
            host.kill_daemon()
            self.on_stopped(host, code)

    def _fatal(self, process: Process, reason: str) -> None:
        excuse = self.excused.get(process.host)
        excused = excuse is not None and reason.startswith(excuse)
        if excused or (self._may_stop(process) and not reason.startswith(_BUGS)):
            self.stopped(process, "fatal")
            return
        self.note(process.host, "fatal")
        self.fatals.append(f"{process.name}: {reason}")
        if process.alive and process.host <= len(self.hosts):
            self.hosts[process.host - 1].kill_daemon()
        self.on_fatal()

    def _may_stop(self, process: Process) -> bool:
        return process.host <= len(self.hosts) and self.hosts[process.host - 1].image.hurt

    def _bug(self, process: Process, text: str) -> None:
        self.bugs.append(f"{process.name}: {text}")
        self._fatal(process, "a task crashed")

    def close(self) -> None:
        """End the world; nothing that still lies in memory can run or change anything."""
        for host in self.hosts:
            if host.daemon is not None:
                host.daemon.process.kill()
        self.loop.close()
