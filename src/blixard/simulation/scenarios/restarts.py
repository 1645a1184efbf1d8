"""Nodes that die at named moments, alone and together, and come back."""

from __future__ import annotations

from blixard.simulation.scenarios.moments import LOG, Moment
from blixard.simulation.scenarios.stage import Scenario, Stage

_MOMENT_S = 20.0


def _dies_at(stage: Stage, *moments: Moment) -> None:
    """Take the power from the leader, then from a follower, at each of the moments."""
    for moment in moments:
        for host in (stage.leader(), stage.follower()):
            stage.crash_at(host, moment, within_s=_MOMENT_S)
            stage.writes(3, within_s=_MOMENT_S)
            stage.back(host)
            stage.run_for(1)


def before_save(stage: Stage) -> None:
    """Power is lost when a log record is about to be written, and when it is not yet synced."""
    _dies_at(stage, Moment("write", LOG, 5), Moment("written", LOG, 5), Moment("sync", LOG, 5))


def after_save(stage: Stage) -> None:
    """Power is lost when a log record has just become durable, and nobody knows of it."""
    _dies_at(stage, Moment("synced", LOG, 5))


SCENARIOS = (
    Scenario(
        name="restarts/before-save",
        rows=("fault/1",),
        incident="etcd #14370: a write was acknowledged before it was durable",
        act=before_save,
        happens=("at write .log", "at written .log", "at sync .log"),
    ),
    Scenario(
        name="restarts/after-save",
        rows=("fault/1",),
        incident="etcd #13766: killed under load, the data of members differed",
        act=after_save,
        happens=("at synced .log",),
    ),
)
