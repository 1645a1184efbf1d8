"""Migrations by an author's own names: what came of them is told from what was asked for."""

import pytest

from blixard.simulation.author import BrokenPromiseError, create_simulation

pytestmark = pytest.mark.simulation


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
