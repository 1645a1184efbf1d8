"""Each sentence of the order of a migration is needed: without it an oracle objects."""

import pytest
from tests.simulation import planted_moves as planted

from blixard.simulation.author import BrokenPromiseError, create_simulation
from blixard.simulation.scenarios.table import run_scenario

pytestmark = pytest.mark.simulation


@pytest.mark.parametrize(
    ("name", "plant", "oracle"),
    [
        ("storage/moved", planted.writes_while_it_stands_still, "stale write"),
        ("storage/moved-while-it-hangs", planted.leaves_with_a_write_under_way, "db-1-m1 is"),
        ("storage/moved", planted.mover_keeps_the_volumes, "only its node has the volume"),
        ("storage/moved", planted.gives_back_for_the_other_end, "only its node has"),
        ("migrations/outcome-unknown", planted.goes_on_without_asking, "double run"),
        ("migrations/preserve-state", planted.switches_without_the_pause, "double run"),
        ("migrations/preserve-state", planted.starts_before_the_switch, "double run"),
        ("migrations/no-room", planted.target_does_not_reserve, "capacity"),
        ("migrations/preserve-state", planted.sends_what_was_before_the_pause, "has other pages"),
        ("migrations/paused-and-restarted", planted.roll_back_is_forgotten, "all VMs are ready"),
        ("migrations/source-restarts", planted.memory_goes_where_nobody_takes_it, "booted anew"),
    ],
)
def test_oracles_notice_a_planted_bug(name, plant, oracle):
    with plant():
        report = run_scenario(name, 1)
    assert oracle in " ".join(report.violations)


def test_migration_of_the_documents_names():
    with create_simulation(5, seed=3) as simulation:
        simulation.create_vm_stack("webapp", replicas=3)
        (first,) = [h.number for h in (simulation.moves.home("webapp-1"),)]
        target = next(n for n in (4, 3) if n != first - 1)
        simulation.trigger_live_migration("webapp-1", f"node{target}")
        simulation.verify_vm_migrated_successfully("webapp-1")
        simulation.verify_no_vm_split_brain()
        simulation.verify_cluster_convergence(within_s=40)


def moves_to(number):
    """Move web-1 by *number* hosts, over ways that are cut."""
    with create_simulation(3) as simulation:
        simulation.create_vm_stack("web", replicas=1)
        home = simulation.moves.home("web-1").number - 1
        target = (home + number) % 3
        hosts = simulation.stage.world.hosts
        simulation.stage.world.network.block(hosts[home].uid, hosts[target].uid)
        simulation.trigger_live_migration("web-1", target, deadline_s=10)
        simulation.verify_vm_migrated_successfully("web-1")


def test_migration_to_where_it_is_says_so():
    with pytest.raises(BrokenPromiseError, match=r"it is on node-. already"):
        moves_to(0)


def test_migration_that_fails_is_not_taken_for_a_success():
    with pytest.raises(BrokenPromiseError, match=r"migration at .*Failed"):
        moves_to(1)
