"""The calls that a simulation is written with: they play a story, and each objects when it should."""

import msgspec
import pytest
from tests.simulation.mutants import guard_armed_too_late

from blixard.simulation.author import BrokenPromiseError, create_simulation
from blixard.simulation.scenarios.guests import guests

pytestmark = pytest.mark.simulation


def raises(*parts):
    """Expect a broken promise that names all of these."""
    return pytest.raises(BrokenPromiseError, match="(?s)" + ".*".join(parts))


def tolerates_partition(seed):
    with create_simulation(5, seed=seed) as simulation:
        simulation.create_vm_stack("webapp", replicas=3, memory="512MiB", on_partition="fence")
        simulation.partition_nodes([0, 1], [2, 3, 4])
        simulation.run_for(20)
        simulation.verify_no_vm_split_brain()
        simulation.verify_vm_availability("webapp", at_least=3, within_s=40)
        assert {host.number for host in simulation.serving("webapp")} == {3, 4, 5}
        simulation.heal_partition()
        simulation.verify_cluster_convergence(within_s=40)
        simulation.verify_no_vm_split_brain()
        return simulation.finish()


def test_stack_of_three_tolerates_a_partition():
    report = tolerates_partition(1)
    assert report.ok
    assert report.faults["partition"] == 1
    assert report.trace_hash == tolerates_partition(1).trace_hash
    assert report.trace_hash != tolerates_partition(2).trace_hash


def test_no_availability_while_all_hosts_are_down():
    seen = ("availability at .*: 1 of web answer, within 0 s; seen: web-1 .* ran on node-. from ",
            "connected: none", r"again: .*create_simulation\(3, seed=1, clients=1\)")  # fmt: skip
    with raises(*seen), create_simulation(3) as simulation:
        simulation.create_vm_stack("web")
        simulation.verify_vm_availability("web")
        for host in simulation.stage.world.hosts:
            simulation.stage.crash(host)
        simulation.verify_vm_availability("web")


def test_replica_with_the_minority_is_not_available():
    with raises("web-1 .* runs on", "connected: node-., node-"), create_simulation(3) as simulation:
        simulation.create_vm_stack("web", on_partition="keep")
        (home,) = simulation.serving("web")
        simulation.partition_nodes([home.number - 1])
        simulation.verify_vm_availability("web", within_s=5)


def test_replica_that_runs_twice_is_named():
    seen = "double run at .* starts on host .* while single-1 .* runs on node-. since "
    with raises(seen), guard_armed_too_late(), create_simulation(3) as simulation:
        simulation.create_vm_stack("single", on_partition="fence")
        (home,) = simulation.serving("single")
        simulation.partition_nodes([home.number - 1])
        simulation.run_for(60)


def test_two_replicas_of_one_name_are_a_split_brain():
    seen = "split brain at .*: web-1 .* runs on node-. since .*, and web-1 .* runs on node-"
    with raises(seen), create_simulation(3) as simulation:
        simulation.create_vm_stack("web")
        simulation.verify_no_vm_split_brain()
        ((home, plan),) = guests(simulation.stage, "web")
        elsewhere = simulation.stage.others(home)[0].guests
        elsewhere.spawn(msgspec.structs.replace(plan, instance_uid="another"))
        elsewhere.run("another")
        simulation.verify_no_vm_split_brain()


def test_split_brain_without_guests_is_no_question():
    with raises("no VM has run yet"), create_simulation(3) as simulation:
        simulation.verify_no_vm_split_brain()


def test_cluster_in_parts_has_not_converged():
    seen = ("the cluster converges, within 12 s; seen: ", "node-5 has applied ")
    with raises(*seen), create_simulation(5) as simulation:
        simulation.partition_nodes([4])
        simulation.verify_cluster_convergence(within_s=12)


def test_stack_that_fits_nowhere_is_not_ready():
    seen = "huge is ready, within 5 s; seen: no instance of huge has run"
    with raises(seen), create_simulation(3) as simulation:
        simulation.create_vm_stack("huge", memory="64GiB", within_s=5)


def test_broken_promise_stays_broken():
    with raises("pigs fly", "again: "), create_simulation(3) as simulation:
        with raises("pigs fly, within 1 s"):
            simulation.run_until(lambda: False, within_s=1, what="pigs fly")
        with raises("pigs fly"):
            simulation.verify_no_vm_split_brain()
        with raises("pigs fly"):
            simulation.finish()


def test_partition_cuts_all_groups_and_the_rest():
    with create_simulation(5) as simulation:
        simulation.partition_nodes([3])
        simulation.partition_nodes([0, 1], [2])
        assert parts(simulation) == [{1, 2}, {3}, {4, 5}]
        simulation.stage.fault("partition", simulation.stage.host(5))
        simulation.heal_partition()
        assert parts(simulation) == [{1, 2, 3, 4}, {5}]
        for wrong in ([0, 0],), ([0], [0, 1]), ([5],), ([-1],):
            with pytest.raises(ValueError, match="at most once"):
                simulation.partition_nodes(*wrong)


@pytest.mark.parametrize(("nodes", "clients"), [(0, 1), (4, 1), (3, 0)])
def test_simulation_without_odd_nodes_or_clients_is_refused(nodes, clients):
    with pytest.raises(ValueError, match="an odd number of nodes, and a client"):
        create_simulation(nodes, clients=clients)


def parts(simulation):
    """Return the groups of hosts that reach each other."""
    hosts, found = simulation.stage.world.hosts, []
    blocked = simulation.stage.world.network.is_blocked
    for host in hosts:
        part = {o.number for o in hosts if not blocked(host.uid, o.uid)}
        found += [part] if part not in found else []
    return found
