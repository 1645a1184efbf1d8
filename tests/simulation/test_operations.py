"""VM operations in the simulated world: the commands are the product's, and planted bugs show."""

import pytest
from tests.simulation.mutants import patched
from tests.simulation.planted_leases import frees_what_still_ends

from blixard.app.main import ROOT
from blixard.cluster import kinds
from blixard.simulation.scenarios.shell import COMMANDS, Shell, serve
from blixard.simulation.scenarios.stage import Scenario, play
from blixard.simulation.scenarios.table import run_scenario
from blixard.vms.loops import Reconciler
from blixard.vms.rooms import Rooms

pytestmark = pytest.mark.simulation


def targets(group, before=""):
    found = {}
    for name, row in group.rows.items():
        if hasattr(row, "rows"):
            found.update(targets(row, f"{before}{name} "))
        else:
            found[before + name] = row.target
    return found


def test_commands_are_those_of_the_program():
    program = targets(ROOT)
    assert targets(COMMANDS).items() <= program.items()


def test_program_itself_runs_against_simulated_nodes():
    printed = []

    def act(stage):
        shell = Shell(stage, ROOT)
        printed.append(shell.good("cluster", "status"))
        printed.append(shell.good("get", "nodes", "-o", "name"))
        printed.append(shell("kv", "get", "absent").err)

    scenario = Scenario(
        name="test/program", rows=(), incident="none", act=act, prepare=serve, node=True, clients=1
    )
    assert play(scenario, 1).violations == ()
    assert "3 of 3 nodes ready" in printed[0]
    assert "node-3" in printed[1]
    assert "error[NOT_FOUND]" in printed[2]


@pytest.mark.parametrize("seed", [2, 4])
def test_any_sequence_of_operations_leaves_nothing_behind(seed):
    report = run_scenario("operations/sequences", seed)
    assert report.violations == ()
    assert report.faults["vm create"] > 0


def test_memory_of_a_guest_that_still_ends_is_nobody_elses():
    with frees_what_still_ends():
        report = run_scenario("operations/exchanged", 1)
    assert "capacity at" in " ".join(report.violations)


def forget_to_stop():
    """A node takes only new work over: what is no longer assigned runs on."""
    assign = Reconciler.assign

    def only_new(reconciler, assignments, networks):
        mine = {a.uid for a in assignments}
        gone = [w.assignment for uid, w in reconciler.workers.items() if uid not in mine]
        assign(reconciler, [*assignments, *(a for a in gone if a is not None)], networks)

    return patched(Reconciler, "assign", only_new)


def test_process_that_outlives_its_instance_is_caught():
    with forget_to_stop(), frees_what_still_ends():
        report = run_scenario("operations/sequences", 3)
    assert "no process without an instance" in " ".join(report.violations)


def test_more_guests_than_memory_are_caught():
    look = Rooms.__init__

    def generous(rooms, *given):
        look(rooms, *given)
        rooms._overcommit_memory = 4.0

    with patched(Rooms, "__init__", generous), patched(kinds, "_capacity", lambda *_: ""):
        report = run_scenario("operations/sequences", 2)
    assert "capacity at" in " ".join(report.violations)
