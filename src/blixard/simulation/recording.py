"""A run with everything that a person wants to see of it: events, messages, guests, faults."""

from __future__ import annotations

import msgspec

from blixard.ports.hypervisor import LaunchPlan
from blixard.simulation.planning import Plan
from blixard.simulation.run import Options, Report, Simulation
from blixard.simulation.trace import Event

EVENTS_MAX = 2_000_000
MESSAGES_MAX = 300_000


class Message(msgspec.Struct, frozen=True, array_like=True):
    """One thing sent; times in ns, ``arrives_ns`` 0: it was lost."""

    sent_ns: int
    arrives_ns: int
    source: str
    target: str
    what: str


class GuestRun(msgspec.Struct, array_like=True):
    """One run of an instance on a host; ``end_ns`` 0: it ran to the end."""

    host: int
    uid: str
    run: int
    begin_ns: int
    end_ns: int = 0


class Recording(msgspec.Struct, kw_only=True):
    """What came out of a run, and all that happened in it."""

    options: Options
    report: Report
    plan: Plan
    events: list[Event]
    messages: list[Message]
    guests: list[GuestRun]
    dropped: int


class _Guests:
    """Keeps when guests ran, beside the oracles."""

    def __init__(self, simulation: Simulation) -> None:
        self.runs: list[GuestRun] = []
        self._open: dict[tuple[int, str], GuestRun] = {}
        self._now_ns = simulation.world.now_ns
        oracles = simulation.oracles
        self._started, self._ended = oracles.started, oracles.ended
        oracles.started = self.started  # type: ignore[method-assign]
        oracles.ended = self.ended  # type: ignore[method-assign]

    def started(self, host: int, plan: LaunchPlan) -> None:
        """Note a start and let the oracles judge it."""
        run = GuestRun(host, plan.instance_uid, plan.run, self._now_ns())
        self._open[(host, plan.instance_uid)] = run
        self.runs.append(run)
        self._started(host, plan)

    def ended(self, host: int, plan: LaunchPlan) -> None:
        """Note an end."""
        run = self._open.pop((host, plan.instance_uid), None)
        if run is not None:
            run.end_ns = self._now_ns()
        self._ended(host, plan)


def record(options: Options, plan: Plan | None = None) -> Recording:
    """Run and keep everything, up to the bounds of this module; the run itself is the same."""
    simulation = Simulation(options, plan=plan)
    messages: list[Message] = []
    dropped = 0

    def sent(*fields: int | str) -> None:
        nonlocal dropped
        if len(messages) < MESSAGES_MAX:
            messages.append(Message(*fields))  # type: ignore[arg-type]
        else:
            dropped += 1

    simulation.world.trace.keep_all(EVENTS_MAX)
    simulation.world.network.on_sent = sent
    guests = _Guests(simulation)
    report = simulation.run()
    return Recording(
        options=options,
        report=report,
        plan=simulation.plan or Plan((), 0),
        events=simulation.world.trace.last(),
        messages=messages,
        guests=guests.runs,
        dropped=dropped,
    )
