"""Nodes that die at named moments, alone and together, and come back."""

from __future__ import annotations

from blixard.consensus.config import RaftConfig
from blixard.simulation.scenarios.moments import DISK_STEPS, LOG, Moment
from blixard.simulation.scenarios.stage import Scenario, Stage
from blixard.simulation.world import Host

_MOMENT_S = 20.0
PLAIN = RaftConfig(reserve_bytes=4096)


def dies_at(stage: Stage, *moments: Moment) -> None:
    """Take the power from the leader, then from a follower, at each of the moments."""
    for moment in moments:
        for host in (stage.leader(), stage.follower()):
            stage.crash_at(host, moment, within_s=_MOMENT_S)
            stage.writes(3, within_s=_MOMENT_S)
            stage.back(host)
            stage.run_for(1)


def before_save(stage: Stage) -> None:
    """Power is lost when a log record is about to be written, and when it is not yet synced."""
    dies_at(stage, Moment("write", LOG, 5), Moment("written", LOG, 5), Moment("sync", LOG, 5))


def after_save(stage: Stage) -> None:
    """Power is lost when a log record has just become durable, and nobody knows of it."""
    dies_at(stage, Moment("synced", LOG, 5))


def around_apply(stage: Stage) -> None:
    """Power is lost when committed entries are about to be applied, and just after that."""
    dies_at(stage, Moment("apply", nth=5), Moment("applied", nth=5))


def mid_batch(stage: Stage) -> None:
    """Slow disks make batches; power is lost in the middle of applying one."""
    stage.slow_disks(0.04)
    dies_at(stage, Moment("applied one"), Moment("applied one", nth=3))


def killed_mid_sync(stage: Stage) -> None:
    """A daemon is killed during a sync, and power fails before, or just after, its next start."""
    for _ in range(3):
        host = stage.draw.choice(stage.world.hosts)
        stage.crash_at(host, Moment("sync", LOG, 3), within_s=_MOMENT_S, kill=True)
        if stage.draw.random() < 0.5:
            stage.back(host)
            stage.run_for(stage.draw.choice((0.0, 0.001, 0.01)))
        stage.crash(host)
        stage.writes(2, within_s=_MOMENT_S)
        stage.back(host)
        stage.run_for(1)


def any_disk_step(stage: Stage) -> None:
    """Power is lost at any step on the disk that the seed draws, again and again."""
    for _ in range(6):
        step, nth = stage.draw.choice(DISK_STEPS), stage.draw.randint(1, 3)
        host = stage.draw.choice(stage.world.hosts)
        trap = stage.trap(host, Moment(step, nth=nth), host.crash)
        stage.run_for(3)
        if not trap.sprung:
            host.crash()
        stage.run_for(stage.draw.random())
        stage.back(host)
        stage.run_for(1)


def _all_at_once(stage: Stage, host: Host, moment: Moment) -> None:
    def blackout() -> None:
        for other in stage.world.hosts:
            if other is not host:
                other.crash()
        host.crash()

    trap = stage.trap(host, moment, blackout)
    stage.until(_MOMENT_S, lambda: trap.sprung, f"all hosts at {moment.text()}")
    stage.happened("power loss of all")


def power_loss_of_all(stage: Stage) -> None:
    """All hosts lose power in the moment in which the leader acts on a record."""
    moments = [Moment("written", LOG, 3), Moment("synced", LOG, 3), Moment("applied", nth=3)]
    stage.draw.shuffle(moments)
    for moment in moments:
        _all_at_once(stage, stage.leader(), moment)
        stage.back(*stage.world.hosts)
        stage.leader()
        stage.writes(3, within_s=_MOMENT_S)


def power_loss_and_pause(stage: Stage) -> None:
    """The leader loses power while one follower is paused and another one is cut off."""
    for _ in range(2):
        leader = stage.leader()
        paused, cut, *rest = stage.others(leader)
        resume = stage.fault("pause", paused)
        stage.run_for(0.5)
        stage.crash_at(leader, Moment("synced", LOG, 2), within_s=_MOMENT_S)
        heal = stage.fault("partition", cut)
        stage.run_for(stage.draw.choice((0.2, 3.0)))
        resume()
        stage.run_for(2)
        stage.back(leader)
        stage.writes(2, within_s=_MOMENT_S)
        heal()
        stage.run_for(2)
        stage.expect(len(rest) == stage.options.nodes - 3, "all hosts have a part")


def restart_of_all(stage: Stage) -> None:
    """All daemons are killed, and start at different times on disks and clocks of unlike speed."""
    for _ in range(3):
        for host in stage.world.hosts:
            (host.kill_daemon if stage.draw.random() < 0.5 else host.crash)()
        stage.happened("all stopped")
        order = list(stage.world.hosts)
        stage.draw.shuffle(order)
        stage.slow_disks(stage.draw.choice((0.01, 0.1)), order[0])
        for host in order:
            stage.back(host)
            stage.run_for(stage.draw.choice((0.0, 0.3, 2.0)))
        stage.leader()
        stage.writes(3, within_s=_MOMENT_S)
        stage.slow_disks(0.0005)


def power_loss_of_all_with_guests(stage: Stage) -> None:
    """All hosts of a cluster that runs VMs lose power, and come back one after the other."""
    stage.until(60, stage.guests_ready, "the VMs run")
    _all_at_once(stage, stage.leader(), Moment("synced", LOG, 3))
    stage.run_for(1)
    for host in stage.world.hosts:
        stage.back(host)
        stage.run_for(stage.draw.choice((0.0, 1.0, 5.0)))
    stage.until(90, stage.guests_ready, "the VMs run again")


SCENARIOS = (
    Scenario(
        name="restarts/before-save", rows=("fault/1",),
        incident="etcd #14370: a write was acknowledged before it was durable",
        act=before_save, happens=("at write .log", "at written .log", "at sync .log"),
    ),
    Scenario(
        name="restarts/after-save", rows=("fault/1",),
        incident="etcd #13766: killed under load, the data of members differed",
        act=after_save, happens=("at synced .log",),
    ),
    Scenario(
        name="restarts/around-apply", rows=("fault/1",),
        incident="etcd 3.5 post-mortem: the applied index was saved ahead of the data",
        act=around_apply, happens=("at apply", "at applied"),
    ),
    Scenario(
        name="restarts/mid-batch", rows=("fault/1",),
        incident="etcd #13766: killed in the middle of a batch",
        act=mid_batch, happens=("at applied one",), clients=30, config=PLAIN,
    ),
    Scenario(
        name="restarts/killed-mid-sync", rows=("fault/1", "fault/4"),
        incident="etcd #14143: what a killed process left in the cache was taken for durable",
        act=killed_mid_sync, happens=("at sync .log", "crash"),
    ),
    Scenario(
        name="restarts/any-disk-step", rows=("fault/1", "fault/2", "fault/3", "fault/4"),
        incident="etcd's failpoints around every save, snapshot and release",
        act=any_disk_step, nodes=5,
    ),
    Scenario(
        name="restarts/power-loss-of-all", rows=("fault/6", "complaint/3"),
        incident="NATS 2.12.1: 131,418 of 930,005 acknowledged writes lost at a power loss",
        act=power_loss_of_all, happens=("power loss of all",),
    ),
    Scenario(
        name="restarts/power-loss-and-pause", rows=("fault/6", "fault/9"),
        incident="PySyncObj #202: committed data overwritten after a restart",
        act=power_loss_and_pause, happens=("pause", "partition", "at synced .log"), nodes=5,
    ),
    Scenario(
        name="restarts/all-at-different-speeds", rows=("fault/13", "complaint/3"),
        incident="nomad #1589, RedisRaft: a full restart elected nobody, or lost all",
        act=restart_of_all, happens=("all stopped",),
    ),
    Scenario(
        name="restarts/power-loss-with-guests", rows=("fault/6", "fault/13", "complaint/3"),
        incident="PySyncObj #201/#202: a full restart of a Patroni cluster",
        act=power_loss_of_all_with_guests, happens=("power loss of all",), node=True,
    ),
)  # fmt: skip
