"""Processes and machines that stand still, and clocks that somebody sets or that run unlike."""

from __future__ import annotations

from blixard.simulation.scenarios.stage import Scenario, Stage
from blixard.simulation.world import MAX_DRIFT_PPB, Host

_MOMENT_S = 20.0


def leader(stage: Stage) -> None:
    """The leader is paused, another one takes writes, and the old one goes on with its queue."""
    for lasts_s in (2.0, 0.7, 8.0):
        old = stage.leader()
        resume = stage.fault("pause", old)
        stage.another(old)
        stage.writes(5, within_s=_MOMENT_S)
        stage.run_for(lasts_s)
        resume()
        stage.run_for(3)


def as_long_as_an_election(stage: Stage) -> None:
    """Every host is paused for about as long as an election takes, again and again, one by one."""
    for _ in range(12):
        host = stage.draw.choice(stage.world.hosts)
        stage.fault("pause", host, lasts_s=stage.config.election_s * stage.draw.uniform(0.5, 2))
        stage.run_for(stage.config.election_s * stage.draw.uniform(1, 4))
    stage.writes(5, within_s=_MOMENT_S)


def suspended(stage: Stage) -> None:
    """The machine that leads is suspended with its VMs, and wakes when others have taken over."""
    stage.until(60, stage.guests_ready, "the VMs run")
    for lasts_s in (stage.draw.uniform(1, 8), stage.draw.uniform(15, 40)):
        old = stage.leader()
        thaw = stage.fault("freeze", old)
        stage.another(old)
        stage.run_for(lasts_s)
        thaw()
        stage.until(90, stage.guests_ready, "the VMs run again")


def monotonic_clock_stops(stage: Stage) -> None:
    """Machines sleep for less and for more than a lease; their monotonic clocks stand meanwhile."""
    stage.until(60, stage.guests_ready, "the VMs run")
    for lasts_s in (2.0, stage.draw.uniform(3, 8), stage.draw.uniform(15, 40)):
        host = max(stage.world.hosts, key=lambda h: len(h.guests.running()))
        wake = stage.fault("suspend", host)
        stage.run_for(lasts_s)
        wake()
        stage.until(90, stage.guests_ready, "the VMs run again")


def _pids(hosts: list[Host]) -> dict[str, int]:
    """Return the process of every VM that runs on these hosts."""
    return {
        p.instance_uid: h.guests.get(p.instance_uid).pid for h in hosts for p in h.guests.running()
    }


def resumed_leader_revokes_nothing(stage: Stage) -> None:
    """A leader is paused for long and resumed: no VM on another host is stopped or started anew."""
    stage.until(60, stage.guests_ready, "the VMs run")
    assert stage.operator is not None
    stage.operator.stopped = True
    stage.run_for(20)  # the operator's last wish is carried out
    old = stage.leader()
    others = stage.others(old)
    before = _pids(others)
    stage.expect(bool(before), "VMs run on the other hosts")
    stage.fault("pause", old, lasts_s=30)
    stage.run_for(50)
    after = _pids(others)
    lost = {uid for uid, pid in before.items() if after.get(uid) != pid}
    stage.expect(not lost, f"healthy VMs were stopped: {sorted(lost)}")
    stage.happened("healthy VMs watched")


def wall_clocks(stage: Stage) -> None:
    """Wall clocks jump by minutes and years and stand still: who leads and what runs stays so."""
    stage.until(60, stage.guests_ready, "the VMs run")
    assert stage.operator is not None
    stage.operator.stopped = True
    stage.run_for(20)
    old, before = stage.leader(), _pids(stage.world.hosts)
    term = stage.raft(old).term
    for kind in ("wall_step", "wall_jump", "wall_freeze"):
        for host in stage.world.hosts:
            stage.fault(kind, host, lasts_s=6, strength=stage.draw.random())
            stage.run_for(3)
    stage.expect(stage.leader() is old and stage.raft(old).term == term, "the leader stays")
    stage.expect(_pids(stage.world.hosts) == before, "all VMs go on")


def _unlike(stage: Stage) -> None:
    signs = [stage.draw.choice((-1, 1)) for _ in stage.world.hosts]
    signs[0] = -signs[-1]
    for host, sign in zip(stage.world.hosts, signs, strict=True):
        host.drift_ppb = sign * MAX_DRIFT_PPB


def drift(stage: Stage) -> None:
    """Clocks drift as far apart as may be, while hosts are cut off, paused and frozen."""
    stage.until(60, stage.guests_ready, "the VMs run")
    stage.happened("clocks drift")
    for _ in range(3):
        host = stage.draw.choice(stage.world.hosts)
        kind = stage.draw.choice(("partition", "freeze", "pause"))
        end = stage.fault(kind, host)
        stage.run_for(stage.draw.uniform(5, 30))
        end()
        stage.until(90, stage.guests_ready, "the VMs run again")


SCENARIOS = (
    Scenario(
        name="pauses/leader", rows=("fault/9",),
        incident="etcd #20418: a paused leader answered reads from before the pause",
        act=leader, happens=("pause", "another leader"),
    ),
    Scenario(
        name="pauses/as-long-as-an-election", rows=("fault/9", "fault/14"),
        incident="etcd #14891: pauses around the election time-out",
        act=as_long_as_an_election, nodes=5, happens=("pause",),
    ),
    Scenario(
        name="pauses/suspended-machine", rows=("fault/9", "fault/14"),
        incident="patroni #2188 and pull request #2787: a resumed primary takes the lock",
        act=suspended, node=True, happens=("freeze", "another leader"),
    ),
    Scenario(
        name="pauses/resumed-leader-revokes-nothing", rows=("fault/9",),
        incident="etcd #15247: a resumed old leader revoked all leases",
        act=resumed_leader_revokes_nothing, node=True, nodes=5,
        happens=("pause", "healthy VMs watched"),
    ),
    Scenario(
        name="clocks/monotonic-stops", rows=("fault/14", "fault/9"),
        incident="Jepsen etcd 3.4.3, consul's sessions: a lease timed by a clock that sleeps too",
        act=monotonic_clock_stops, node=True, happens=("suspend",),
    ),
    Scenario(
        name="clocks/wall-clocks-set", rows=("fault/14",),
        incident="patroni #3560: frozen for five minutes after a step of five minutes",
        act=wall_clocks, node=True, happens=("wall_step", "wall_jump", "wall_freeze"),
    ),
    Scenario(
        name="clocks/drift", rows=("fault/14",),
        incident="etcd #12291, #6700; Jepsen etcd 3.4.3: leases are no locks",
        act=drift, prepare=_unlike, node=True, happens=("clocks drift",),
    ),
)  # fmt: skip
