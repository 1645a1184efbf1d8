"""Snapshots saved, sent, installed, and the log that is released after them."""

from __future__ import annotations

from blixard.consensus.config import RaftConfig
from blixard.simulation.scenarios.moments import (
    ASIDE,
    LOG,
    LOG_NAMES,
    SNAPSHOT,
    SNAPSHOT_NAMES,
    Moment,
)
from blixard.simulation.scenarios.restarts import dies_at
from blixard.simulation.scenarios.stage import Scenario, Stage
from blixard.simulation.world import Host

_MOMENT_S = 30.0
OFTEN = RaftConfig(
    snapshot_entries=25, trailing_entries=0, segment_bytes=4 << 10, reserve_bytes=4096,
    snapshot_chunk_bytes=1 << 10,
)  # fmt: skip


def saving(stage: Stage) -> None:
    """Power is lost at every step of writing a snapshot aside and giving it its name."""
    dies_at(
        stage, Moment("write", ASIDE), Moment("sync", ASIDE), Moment("synced", ASIDE),
        Moment("rename", SNAPSHOT), Moment("renamed", SNAPSHOT), Moment("sync_dir", SNAPSHOT_NAMES),
        Moment("synced_dir", SNAPSHOT_NAMES),
    )  # fmt: skip


def compaction(stage: Stage) -> None:
    """Power is lost at every step of removing old segments and old snapshots."""
    dies_at(
        stage, Moment("unlink", LOG), Moment("unlinked", LOG), Moment("unlinked", LOG, 2),
        Moment("sync_dir", LOG_NAMES, 2), Moment("synced_dir", LOG_NAMES, 2),
        Moment("unlink", SNAPSHOT), Moment("unlinked", SNAPSHOT),
    )  # fmt: skip


def new_segment(stage: Stage) -> None:
    """Power is lost at every step of beginning a new segment, whose name is not durable yet."""
    dies_at(
        stage, Moment("sync_dir", LOG_NAMES), Moment("synced_dir", LOG_NAMES),
        Moment("sync_dir", LOG_NAMES, 3),
    )  # fmt: skip


def _falls_behind(stage: Stage, host: Host) -> None:
    """Leave a host down until its log can be caught up with by a snapshot alone."""
    host.crash()
    stage.writes(60, within_s=60)


def installing(stage: Stage) -> None:
    """A node that was away gets a snapshot, and loses power at every step of installing it."""
    moments = (
        Moment("sync", ASIDE), Moment("install"), Moment("installed"), Moment("written", LOG),
        Moment("load"), Moment("loaded"), Moment("synced", LOG, 2),
    )  # fmt: skip
    for moment in moments:
        host = stage.follower()
        _falls_behind(stage, host)
        _dies_catching_up(stage, host, moment)


def _dies_catching_up(stage: Stage, host: Host, moment: Moment) -> None:
    """Start a host that is behind, take its power at a moment, and let it catch up then."""
    trap = stage.trap(host, moment, host.crash)
    stage.back(host)
    stage.until(2 * _MOMENT_S, lambda: trap.sprung, moment.text())
    stage.slow_disks(0.0005, host)
    stage.back(host)
    stage.until(_MOMENT_S, lambda: stage.near(host), "it catches up")


def two_in_succession(stage: Stage) -> None:
    """A slow node is sent one snapshot after the other, and loses power at the second one."""
    for moment in (Moment("loaded", nth=2), Moment("install", nth=2)):
        host = stage.follower()
        _falls_behind(stage, host)
        stage.slow_disks(0.5, host)
        stage.fault("lag", host, strength=1.0, lasts_s=20)
        trap = stage.trap(host, moment, host.crash)
        stage.back(host)
        stage.run_for(25)
        if not trap.sprung:  # by chance it kept up after the first one
            host.crash()
        stage.slow_disks(0.0005, host)
        stage.back(host)
        stage.until(_MOMENT_S, lambda h=host: stage.near(h), "it catches up")  # type: ignore[misc]


def slower_than_the_log(stage: Stage) -> None:
    """A node far away, with a slow disk, is sent snapshots more slowly than the log grows."""
    host = stage.follower()
    _falls_behind(stage, host)
    stage.slow_disks(0.5, host)
    near = stage.fault("lag", host, strength=1.0)
    stage.back(host)
    before = stage.history.writes
    stage.run_for(40)
    stage.expect(stage.history.writes - before > 100, "one slow node does not slow the others down")
    stage.expect(len(stage.leaders()) == 1, "and does not disturb who leads")
    near()
    stage.slow_disks(0.0005, host)
    stage.until(_MOMENT_S, lambda: stage.near(host), "it catches up")


def leader_cannot_read_its_snapshot(stage: Stage) -> None:
    """The leader's newest snapshot is damaged when a follower needs it: it gets a good one."""
    leader = stage.leader()
    host = stage.draw.choice(stage.others(leader))
    _falls_behind(stage, host)
    damaged = [n for path, n in leader.image.files() if path.endswith(SNAPSHOT)][-1:]
    for node in damaged:
        place = stage.draw.randrange(len(node.durable))
        node.durable[place] ^= 1
        node.current[place] ^= 1
        leader.image.hurt = True
        stage.happened("damaged snapshot")
    stage.back(host)
    stage.until(60, lambda: stage.near(host), "it catches up")


SCENARIOS = (
    Scenario(
        name="snapshots/saving", rows=("fault/2", "fault/4"),
        incident="etcd #18055 and the failpoints raftBefore/AfterSaveSnap",
        act=saving, config=OFTEN,
        happens=("at write .tmp", "at sync .tmp", "at synced .tmp", "at rename .snap",
                 "at renamed .snap", "at sync_dir raft/snap", "at synced_dir raft/snap"),
    ),
    Scenario(
        name="snapshots/compaction", rows=("fault/3", "fault/2"),
        incident="etcd #14685, #17780, #18089, #19179: crashes during compaction",
        act=compaction, config=OFTEN,
        happens=("at unlink .log", "at unlinked .log", "at sync_dir raft/log",
                 "at synced_dir raft/log", "at unlink .snap", "at unlinked .snap"),
    ),
    Scenario(
        name="snapshots/new-segment", rows=("fault/4",),
        incident="etcd #6368: a new segment's name was not durable when it was used",
        act=new_segment, config=OFTEN,
        happens=("at sync_dir raft/log", "at synced_dir raft/log"),
    ),
    Scenario(
        name="snapshots/installing", rows=("fault/2",),
        incident="tikv #9349, #11618 and the failpoints raftBefore/AfterApplySnap",
        act=installing, config=OFTEN,
        happens=("at sync .tmp", "at install", "at installed", "at written .log", "at load",
                 "at loaded", "snapshot installed"),
    ),
    Scenario(
        name="snapshots/two-in-succession", rows=("fault/2",),
        incident="tikv #9349: a second snapshot while the first was not persisted",
        act=two_in_succession, config=OFTEN, happens=("snapshot installed",),
    ),
    Scenario(
        name="snapshots/slower-than-the-log", rows=("fault/15",),
        incident="nomad #14915, #27442: a snapshot that never arrives before it is too old",
        act=slower_than_the_log, config=OFTEN, happens=("lag", "snapshot installed"),
    ),
    Scenario(
        name="snapshots/leader-cannot-read-its-own", rows=("fault/15", "fault/5"),
        incident="hashicorp/raft #522: the leader cannot load its snapshot, nobody takes over",
        act=leader_cannot_read_its_snapshot, config=OFTEN, happens=("damaged snapshot",),
    ),
)  # fmt: skip
