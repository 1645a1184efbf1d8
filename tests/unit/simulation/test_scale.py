"""The large cluster in small: more nodes than voters, and a rack with one of the voters."""

from blixard.simulation.scenarios.scale import hundred_nodes


def test_a_rack_dies_and_comes_back():
    said = []
    found = hundred_nodes(3, nodes=9, vms=24, rack=2, progress=said.append)
    assert (found.violations, len(said)) == ((), 4)
    assert min(found.joined_s, found.ready_s, found.moved_s) > 0.5
    assert 0 < found.converged_s < 30


def test_too_few_nodes_for_five_voters_is_a_violation():
    found = hundred_nodes(3, nodes=4, vms=1, rack=1)
    assert found.violations
    assert "liveness" in found.violations[0]
    assert found.converged_s == -1.0
