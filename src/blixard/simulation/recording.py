"""A run with everything that a person wants to see of it: events, messages, guests, faults."""

from __future__ import annotations

import msgspec

from blixard.simulation.guest_runs import GuestRun
from blixard.simulation.planning import Plan
from blixard.simulation.report import Options, Report
from blixard.simulation.run import Simulation
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


class Recording(msgspec.Struct, kw_only=True):
    """What came out of a run, and all that happened in it."""

    options: Options
    report: Report
    plan: Plan
    events: list[Event]
    messages: list[Message]
    guests: list[GuestRun]
    dropped: int


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
    report = simulation.run()
    return Recording(
        options=options,
        report=report,
        plan=simulation.plan or Plan((), 0),
        events=simulation.world.trace.last(),
        messages=messages,
        guests=list(simulation.oracles.guest_runs.newest),
        dropped=dropped,
    )
