"""Every scenario of the table on a seed or two; `blixard sim scenarios` runs the rest."""

import os
import pathlib
import runpy
import subprocess
import sys

import pytest
from tests.simulation.mutants import acknowledge_before_sync, patched

from blixard.base.errors import BlixardError
from blixard.cluster.kind import KindTable
from blixard.simulation.scenarios.stage import Scenario, play
from blixard.simulation.scenarios.table import BY_NAME, rows_covered, run_scenario

pytestmark = pytest.mark.simulation

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools/scenarios.py"


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_scenario_keeps_its_promises(name):
    report = run_scenario(name, 1)
    assert report.violations == ()
    assert all(report.faults.get(what) for what in BY_NAME[name].happens)


@pytest.mark.parametrize("row", [f"fault/{number}" for number in range(1, 19)])
def test_every_kind_of_fault_has_a_scenario(row):
    assert rows_covered().get(row)


def test_page_of_scenarios_is_current():
    tool = runpy.run_path(str(TOOL))
    assert tool["PAGE"].read_text() == tool["page"](), "run: python tools/scenarios.py"


def test_scenario_repeats_itself():
    first, second = (run_scenario("restarts/before-save", 3).trace_hash for _ in range(2))
    assert first == second
    assert first != run_scenario("restarts/before-save", 4).trace_hash


ALL = (
    "from blixard.simulation.scenarios.table import BY_NAME, run_scenario\n"
    "for name in sorted(BY_NAME): print(name, run_scenario(name, 1).trace_hash)"
)


@pytest.mark.slow
def test_every_scenario_is_the_same_in_another_process():
    children = [
        subprocess.Popen(
            [sys.executable, "-c", ALL], env={**os.environ, "PYTHONHASHSEED": str(seed)},
            stdout=subprocess.PIPE, text=True,
        )
        for seed in (1, 2)
    ]  # fmt: skip
    first, second = (child.communicate(timeout=600)[0].splitlines() for child in children)
    assert len(first) == len(BY_NAME)
    assert first == second


def test_unknown_scenario_is_refused():
    with pytest.raises(BlixardError, match="there is no scenario"):
        run_scenario("restarts/never", 1)


def test_planted_bug_breaks_a_scenario():
    with acknowledge_before_sync():
        assert "durability" in " ".join(run_scenario("restarts/before-save", 1).violations)


def new_rules_count_at_once():
    """A newer version applies by its own rules before the cluster's level is raised."""
    return patched(KindTable, "at", lambda table, name, _level: table.by_name.get(name))


def test_planted_bug_breaks_a_mixed_cluster():
    with new_rules_count_at_once():
        assert not run_scenario("versions/upgrade", 1).ok


def waits_in_vain(stage):
    """A condition that never holds."""
    stage.until(2, lambda: False, "the end of the world")


def does_nothing(_stage):
    """The counter that has to move does not."""


@pytest.mark.parametrize(
    ("act", "happens", "violation"),
    [
        (waits_in_vain, (), "the end of the world, within 2 s"),
        (does_nothing, ("crash",), "'crash' never happened"),
    ],
)
def test_scenario_that_shows_nothing_fails(act, happens, violation):
    scenario = Scenario(name="test/none", rows=(), incident="none", act=act, happens=happens)
    assert violation in " ".join(play(scenario, 1).violations)
