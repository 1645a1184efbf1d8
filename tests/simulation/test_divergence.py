"""One host applies differently from the others: it is found, and serves and leads no longer."""

import functools
from contextlib import nullcontext

import msgspec
import pytest
from tests.simulation.mutants import patched

from blixard.cluster.commands import decode_command, encode_command
from blixard.cluster.machine import ClusterMachine
from blixard.consensus.comparison import Comparison
from blixard.simulation.planning import Plan
from blixard.simulation.run import Options, Simulation
from blixard.simulation.whole import NodeApp

pytestmark = pytest.mark.simulation

BAD = 3
FROM_INDEX = 60


def looks_at_its_own_clock(machine):
    """Apply depends on the host: what is stored carries another time than elsewhere."""
    apply = machine.apply

    def impure(index, term, data):
        if index >= FROM_INDEX and data:
            command = decode_command(data)
            data = encode_command(msgspec.structs.replace(command, time_ms=command.time_ms + 7))
        return apply(index, term, data)

    machine.apply = impure


class DivergenceRun(Simulation):
    """A run in which host 3's first daemon applies wrongly; no other state may be wrong for long."""

    def __init__(self, options, plan=None):
        super().__init__(options, plan=plan)
        self.factory = functools.partial(self._planted, config=self.knobs.raft)
        applied, restored = self.oracles.applied, self.oracles.restored
        known = self.oracles.hashes

        def judged(host, index, term, data, state_hash):
            expected = known.get(index)
            first = applied(
                host, index, term, data, expected if host == BAD and expected else state_hash
            )
            if host == BAD and expected is None:
                del known[index]
            return first

        def judged_snapshot(host, state_hash, index):
            if host != BAD:
                restored(host, state_hash, index)

        self.oracles.applied, self.oracles.restored = judged, judged_snapshot
        self.oracles.contents.excused.add(BAD)

    def _planted(self, host, hosts, watch, *, config):
        app = NodeApp(host, hosts, watch, config=config)
        observe = app.node.on_voter

        def on_voter(voter):
            observe(voter)
            voter.raft.on_role_change(lambda: self._may_lead(host, voter.raft))

        app.node.on_voter = on_voter
        if host.number == BAD and host.daemon.incarnation == 1:
            start_voter = app.node._start_voter

            async def start_impure():
                with planted_machine():
                    await start_voter()

            app.node._start_voter = start_impure
        return app

    def _may_lead(self, host, raft):
        if raft.is_leader and raft.in_quarantine:
            self.oracles.fail("quarantine", f"host {host.number} leads in quarantine")

    def _compare(self, when):
        super()._compare(when)
        if self._failed():
            return
        states = {}
        for host in self.world.hosts:
            voter = self.apps[host.number].node.voter
            if not voter.raft.in_quarantine:
                machine = voter.machine
                states.setdefault(machine.encode(machine.freeze()), []).append(host.number)
        if len(states) > 1:
            self.oracles.fail("divergence", f"{when}, hosts {sorted(states.values())} differ")


def planted_machine():
    """Make the next state machine an impure one: the voter is made before its start waits."""
    init, made = ClusterMachine.__init__, []

    def impure_init(machine, kinds):
        init(machine, kinds)
        if not made:
            made.append(machine)
            looks_at_its_own_clock(machine)

    return patched(ClusterMachine, "__init__", impure_init)


def without_comparison():
    """Nobody compares."""

    async def nothing(_comparison):
        return None

    return patched(Comparison, "compare", nothing)


def quiet(seed, *, nodes=3, plant=nullcontext):
    options = Options(seed=seed, nodes=nodes, node=True, duration_s=20)
    simulation = DivergenceRun(options, plan=Plan((), 14_000))
    with plant():
        return simulation, simulation.run()


@pytest.mark.parametrize(("seed", "nodes"), [(1, 3), (2, 3), (3, 5)])
def test_host_with_another_state_is_quarantined(seed, nodes):
    simulation, report = quiet(seed, nodes=nodes)
    assert report.violations == ()
    found = [n for n, app in simulation.apps.items() if app.raft.in_quarantine]
    assert found == [BAD]  # also after the power loss at the end
    assert report.writes > 20


@pytest.mark.parametrize("seed", range(1, 5))
def test_divergence_under_faults_breaks_no_other_promise(seed):
    report = DivergenceRun(Options(seed=seed, nodes=3, node=True, duration_s=40)).run()
    assert report.violations == ()


def test_divergence_is_missed_without_comparison():
    _, report = quiet(1, plant=without_comparison)
    assert "divergence" in " ".join(report.violations)
