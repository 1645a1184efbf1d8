"""Every scenario by name, and what it covers."""

from __future__ import annotations

from blixard.base.errors import BlixardError
from blixard.simulation.report import Report
from blixard.simulation.scenarios import (
    clients,
    commands,
    disks,
    divergence,
    functions,
    leaders,
    local_volumes,
    members,
    membership,
    migrations,
    moved_meanwhile,
    operations,
    partitions,
    pauses,
    recovery,
    restarts,
    sick_disks,
    snapshots,
    storage,
    undisturbed,
    versions,
)
from blixard.simulation.scenarios.stage import Scenario, play

_AREAS = (
    restarts,
    snapshots,
    disks,
    sick_disks,
    partitions,
    pauses,
    members,
    clients,
    versions,
    commands,
    operations,
    migrations,
    moved_meanwhile,
    undisturbed,
    leaders,
    membership,
    recovery,
    divergence,
    storage,
    local_volumes,
    functions,
)

SCENARIOS: tuple[Scenario, ...] = tuple(s for area in _AREAS for s in area.SCENARIOS)
BY_NAME: dict[str, Scenario] = {scenario.name: scenario for scenario in SCENARIOS}
assert len(BY_NAME) == len(SCENARIOS), "two scenarios of one name"


def run_scenario(name: str, seed: int) -> Report:
    """Run one scenario once.

    Raises:
        BlixardError: NOT_FOUND, for a name that is not in the table.
    """
    if name not in BY_NAME:
        raise BlixardError("NOT_FOUND", f"there is no scenario {name!r}")
    return play(BY_NAME[name], seed)


def rows_covered() -> dict[str, list[str]]:
    """Return the names of the scenarios by what they cover."""
    covered: dict[str, list[str]] = {}
    for scenario in SCENARIOS:
        for row in scenario.rows:
            covered.setdefault(row, []).append(scenario.name)
    return covered
