"""One host applies differently from the others: it is found, and serves and leads no longer."""

from __future__ import annotations

from typing import Any

import msgspec

from blixard.cluster.commands import decode_command, encode_command
from blixard.simulation.cluster import App
from blixard.simulation.observed import Watch
from blixard.simulation.run import Simulation
from blixard.simulation.scenarios.stage import Scenario, Stage
from blixard.simulation.whole import NodeApp
from blixard.simulation.world import Host

BAD = 3
_FROM_INDEX = 60


def prepare(stage: Simulation) -> None:
    """Let the first daemon of one host apply with its own clock; its hashes are not to be believed.

    Its difference is what the scenario is about: the oracles judge all other hosts, and that one
    never leads once it is quarantined.
    """
    _believe_others(stage)
    make = stage.factory

    def made(host: Host, hosts: list[Host], watch: Watch) -> App:
        app = make(host, hosts, watch)
        assert isinstance(app, NodeApp)
        observe, daemon = app.node.on_voter, host.daemon
        first = daemon is not None and daemon.incarnation == 1

        def on_voter(voter: Any) -> None:
            if host.number == BAD and first:
                _looks_at_its_own_clock(voter.machine)
            observe(voter)
            voter.raft.on_role_change(lambda: _may_lead(stage, host, voter.raft))

        app.node.on_voter = on_voter
        return app

    stage.factory = made


def _looks_at_its_own_clock(machine: Any) -> None:
    """Make apply depend on the host: what is stored carries another time than elsewhere."""
    apply = machine.apply

    def impure(index: int, term: int, data: bytes) -> Any:
        if index >= _FROM_INDEX and data:
            command = decode_command(data)
            data = encode_command(msgspec.structs.replace(command, time_ms=command.time_ms + 7))
        return apply(index, term, data)

    machine.apply = impure


def _may_lead(stage: Simulation, host: Host, raft: Any) -> None:
    if raft.is_leader and raft.in_quarantine:
        stage.oracles.fail("quarantine", f"host {host.number} leads in quarantine")


def _believe_others(stage: Simulation) -> None:
    oracles = stage.oracles
    applied, restored, known = oracles.applied, oracles.restored, oracles.hashes

    def judged(host: int, index: int, term: int, data: bytes, state_hash: bytes) -> bool:
        expected = known.get(index)
        believed = expected if host == BAD and expected else state_hash
        first = applied(host, index, term, data, believed)
        if host == BAD and expected is None:
            del known[index]
        return first

    def judged_snapshot(host: int, state_hash: bytes, index: int) -> None:
        if host != BAD:
            restored(host, state_hash, index)

    oracles.applied = judged  # type: ignore[method-assign]
    oracles.restored = judged_snapshot  # type: ignore[method-assign]
    oracles.contents.excused.add(BAD)


def quarantined(stage: Stage) -> None:
    """One host's state is another one: it is quarantined, and stays so after a restart."""
    bad = stage.host(BAD)
    stage.until(30, lambda: stage.raft(bad).in_quarantine, "the host is in quarantine")
    stage.happened("quarantine")
    others = [h.number for h in stage.others(bad) if stage.raft(h).in_quarantine]
    stage.expect(not others, f"hosts {others} are in quarantine, and healthy")
    stage.writes(10, within_s=10)
    stage.crash(bad)
    stage.run_for(1)
    stage.back(bad)
    stage.run_for(5)
    stage.expect(stage.raft(bad).in_quarantine, "a restart has ended the quarantine")
    leader = stage.leader()
    stage.expect(leader is not bad, "a host in quarantine leads")


SCENARIOS = (
    Scenario(
        name="divergence/quarantined", rows=("complaint/15",), act=quarantined, prepare=prepare,
        incident="etcd 3.5: members differed for months, and nobody had enabled the detection",
        happens=("quarantine",), node=True, ends="healed",
    ),
)  # fmt: skip
