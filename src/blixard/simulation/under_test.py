"""The cluster of one run: its hosts with their daemons, its clock, and what may be asked of it."""

from __future__ import annotations

import functools
from collections.abc import Callable

from blixard.base.errors import BlixardError
from blixard.simulation.cluster import App, Factory, RaftApp
from blixard.simulation.knobs import Knobs, draw_knobs
from blixard.simulation.observed import Watch, watch_votes
from blixard.simulation.oracles import Oracles
from blixard.simulation.repair import Repairs
from blixard.simulation.report import Options
from blixard.simulation.streams import Streams
from blixard.simulation.whole import NodeApp
from blixard.simulation.world import Host, World

SECOND = 1_000_000_000
_POLL_NS = SECOND // 10
_RESTART_S = 2
_MAY_STOP = ("LOG_CORRUPT", "DISK_FAILED")
_MAX_STEPS = 20_000_000


class ClusterUnderTest:
    """Hosts, daemons and oracles; *knobs* are drawn from the seed if they are not given."""

    def __init__(self, options: Options, *, factory: Factory | None, knobs: Knobs | None) -> None:
        self.options = options
        self.knobs = knobs or draw_knobs(Streams(options.seed).get("knobs"))
        self.oracles = Oracles()
        self.world = World(
            options.seed, options.nodes, mode=self.knobs.mode, observer=self.oracles,
            max_steps=_MAX_STEPS, change_points=self.knobs.change_points,
        )  # fmt: skip
        self.world.on_fatal = self.world.loop.stop
        self.world.on_stopped = self._stopped
        self.repairs = Repairs(self.world, self.oracles.happened)
        self.oracles.now_ns = self.world.now_ns
        self.oracles.on_violation = self.world.loop.stop
        self.oracles.stored = self.world.ceph.stored
        self.world.ceph.stored.fail = self.oracles.fail
        self.world.ceph.stored.happened = self.oracles.happened
        self.watch = Watch(self.world, self.oracles)
        app = NodeApp if options.node else RaftApp
        self.factory = factory or functools.partial(app, config=self.knobs.raft)
        self.apps: dict[int, App] = {}

    # hosts

    def start(self, host: Host) -> None:
        """Start a daemon on a host that is up."""
        if not host.up or host.daemon is not None:
            return
        daemon = host.start_daemon()
        watch_votes(daemon.env.transport, host.raft_id, self.watch)
        app = self.factory(host, self.world.hosts, self.watch)
        self.apps[host.number] = app
        daemon.env.spawn(self._serve(host, app), name="app")

    async def _serve(self, host: Host, app: App) -> None:
        """Run the application; a disk that failed is a reason not to start."""
        daemon = host.daemon
        assert daemon is not None
        try:
            await app.run()
        except BlixardError as error:
            if not self._excused(host, error.code):
                if error.code not in _MAY_STOP:
                    raise
                self.oracles.fail("recovery", f"host {host.number}, whose disk is whole: {error}")
                return
            self.world.stopped(daemon.process, error.code)

    def _excused(self, host: Host, code: str) -> bool:
        """Tell whether a daemon may refuse to start, or stop, with this error."""
        if host.image.hurt and code in _MAY_STOP:
            return True
        return host.image.no_room and code == "DISK_FULL"

    def _stopped(self, host: Host, code: str) -> None:
        """Start the daemon again as a service manager does; have a damaged node replaced."""
        if code == "LOG_CORRUPT":
            self.repairs.replace(host)
        when_ns = self.world.loop.now_ns + _RESTART_S * SECOND
        self.world.loop.root.call_at_ns(when_ns, self._restart, host)

    def _restart(self, host: Host) -> None:
        if host.up and host.daemon is None:
            self.start(host)

    # clock

    def _to(self, until_ns: int) -> None:
        if not self._failed():
            self.world.loop.run_until(until_ns)

    def _wait(self, seconds: float, condition: Callable[[], bool]) -> bool:
        """Run until *condition* holds; False after *seconds*."""
        end_ns = self.world.loop.now_ns + int(seconds * SECOND)
        while not self._failed() and self.world.loop.now_ns < end_ns:
            if condition():
                return True
            self.world.loop.run_until(self.world.loop.now_ns + _POLL_NS)
        return not self._failed() and condition()

    # questions

    def _failed(self) -> bool:
        world = self.world
        return bool(self.oracles.violations or world.fatals or world.bugs or world.loop.errors)

    def _unless_failed(self, name: str, text: str) -> None:
        if not self._failed():
            self.oracles.fail(name, text)

    def _live(self) -> list[App]:
        return [self.apps[host.number] for host in self.world.hosts if host.daemon is not None]

    def _formed(self) -> bool:
        nodes = self.options.nodes
        return all(app.formed(nodes) for app in self._live()) and self._led()

    def _led(self) -> bool:
        return any(app.raft is not None and app.raft.is_leader for app in self._live())

    def _indexes(self) -> list[int]:
        """Return what each host has applied; -1: it does not run."""
        rafts = [app.raft for app in self._live()]
        applied = [raft.applied_index if raft is not None else -1 for raft in rafts]
        return applied + [-1] * (len(self.world.hosts) - len(applied))

    def _converged(self) -> bool:
        return len(set(self._indexes())) == 1

    def _unsettled(self) -> list[str]:
        live = self._live()
        confs = [app.raft.membership.conf for app in live if app.raft and app.raft.is_leader]
        texts = [f"the members are still joint: {conf}" for conf in confs if conf[2]]
        return texts + [text for app in live for text in app.unsettled()]

    def _settled(self) -> bool:
        return not self._unsettled()
