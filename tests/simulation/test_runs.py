"""Whole runs: promises kept, the same twice, and every planted bug found."""

import json
import os
import subprocess
import sys

import pytest
from tests.simulation.mutants import NODE_MUTANTS, RAFT_MUTANTS, patched

from blixard.base.errors import BlixardError
from blixard.consensus.node import RaftNode
from blixard.simulation.planning import Plan
from blixard.simulation.report import Options
from blixard.simulation.run import Simulation, simulate

pytestmark = pytest.mark.simulation

SEEDS_PER_MUTANT = 30
FINAL = """
import json, sys
from blixard.simulation.report import Options
from blixard.simulation.run import simulate
seeds = map(int, sys.argv[1:])
print(json.dumps([simulate(Options(seed=s, duration_s=25, node=True)).trace_hash for s in seeds]))
"""


@pytest.mark.parametrize("nodes", [3, 5])
@pytest.mark.parametrize("seed", range(1, 4))
def test_whole_node_keeps_its_promises(seed, nodes):
    report = simulate(Options(seed=seed, nodes=nodes, node=True))
    assert report.violations == ()
    assert report.writes > 50
    assert report.guest_runs >= 5


@pytest.mark.parametrize("seed", range(1, 9))
def test_consensus_alone_keeps_its_promises(seed):
    assert simulate(Options(seed=seed, duration_s=40)).violations == ()


# Runs that found a bug once: index past the follower's log after two appends were joined.
@pytest.mark.parametrize("seed", [203, 273, 334, 355])
def test_followers_acknowledge_only_what_they_have(seed):
    assert simulate(Options(seed=seed)).violations == ()


# Runs that found a bug once: a running instance became fenced while its node could not hear of it.
@pytest.mark.parametrize("seed", [36, 86])
def test_instance_started_unfenced_has_no_second_copy(seed):
    assert simulate(Options(seed=seed, node=True)).violations == ()


def start_that_fails_once(uid, code):
    """The first start of a voter cannot use its disk, after its first state was written."""
    start, failed = RaftNode.start, []

    async def failing(node):
        if node._uid == uid and not failed:
            failed.append(uid)
            raise BlixardError(code, "planted")
        await start(node)

    return patched(RaftNode, "start", failing)


def test_node_whose_start_failed_is_invited_again():
    simulation = Simulation(Options(seed=1, nodes=3, duration_s=12, node=True), plan=Plan((), 6000))
    with start_that_fails_once("node-2", "DISK_FULL"):
        assert simulation.run().violations == ()


def test_daemon_whose_disk_failed_as_it_became_a_voter_ends():
    simulation = Simulation(Options(seed=1, nodes=3, duration_s=12, node=True), plan=Plan((), 6000))
    with start_that_fails_once("node-2", "DISK_FAILED"):
        simulation.run()
    assert simulation.world.fatals == ["daemon-2.1: this node cannot become a voter: planted"]


def hashes(hash_seed):
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", FINAL, "1", "2", "3"],
        env=environment,
        capture_output=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_same_seed_gives_the_same_hash_in_two_processes():
    first = hashes("0")
    assert first == hashes("4242")
    assert len(set(first)) == 3


def caught_by(plant, *, node):
    for seed in range(1, SEEDS_PER_MUTANT + 1):
        with plant():
            report = simulate(Options(seed=seed, node=node))
        if not report.ok:
            return " ".join(report.violations)
    return ""


@pytest.mark.parametrize("name", sorted(RAFT_MUTANTS))
def test_planted_bug_in_consensus_is_caught(name):
    plant, oracles = RAFT_MUTANTS[name]
    caught = caught_by(plant, node=False)
    assert any(oracle in caught for oracle in ([oracles] if isinstance(oracles, str) else oracles))


@pytest.mark.parametrize("name", sorted(NODE_MUTANTS))
def test_planted_bug_in_fencing_is_caught(name):
    plant, oracle = NODE_MUTANTS[name]
    assert oracle in caught_by(plant, node=True)
