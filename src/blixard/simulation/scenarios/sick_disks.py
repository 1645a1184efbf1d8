"""Disks that fail, return too little, hang, and run full."""

from __future__ import annotations

from blixard.simulation.damage import Trouble
from blixard.simulation.disk_image import DEFAULT_CAPACITY
from blixard.simulation.scenarios.disks import SMALL
from blixard.simulation.scenarios.stage import Scenario, Stage

_MOMENT_S = 30.0


def errors(stage: Stage) -> None:
    """Reads, writes and syncs of one disk fail, each in its turn, and the node is restarted."""
    for kind in ("read_error", "write_error", "sync_error"):
        host = stage.draw.choice(stage.world.hosts)
        stops = stage.world.stops
        ill = stage.fault(kind, host, strength=0.9)
        for _ in range(8 if kind == "read_error" else 0):  # only a start reads
            if stage.world.stops > stops:
                break
            host.kill_daemon()
            stage.back(host)
            stage.run_for(1)
        stage.until(_MOMENT_S, lambda s=stops: stage.world.stops > s, kind)  # type: ignore[misc]
        stage.writes(5, within_s=_MOMENT_S)
        ill()
        stage.back(host)
        stage.until(90, lambda: stage.repairs.idle, "what is broken is replaced")
        stage.run_for(3)


def short_reads(stage: Stage) -> None:
    """Reads and writes move fewer bytes than they were asked for; the rest is asked for again."""
    for host in stage.world.hosts:
        host.image.trouble = Trouble(short=0.7)
    for host in stage.world.hosts:
        host.kill_daemon()
        stage.back(host)
        stage.run_for(3)
        stage.writes(5, within_s=_MOMENT_S)
    if all(host.image.cut_short for host in stage.world.hosts):
        stage.happened("reads and writes cut short")


def no_room_at_each_write(stage: Stage) -> None:
    """Room ends after so many bytes that each write site is hit: some part of it was written."""
    for room in (0, 40, 400, 4_000, 9_000, 20_000):
        host = stage.draw.choice(stage.world.hosts)
        host.image.trouble = Trouble(room_bytes=room + stage.draw.randint(0, 200))
        stage.until(_MOMENT_S, lambda h=host: stage.raft(h).disk_full, "it is full")  # type: ignore[misc]
        stage.happened("disk full")
        if stage.draw.random() < 0.5:
            host.crash()
            stage.back(host)
            stage.run_for(2)
        stage.writes(3, within_s=_MOMENT_S)
        host.image.trouble = None
        stage.run_for(3)


def all_disks_full(stage: Stage) -> None:
    """All disks run full: writes are refused and reads answered, and hosts restart without room."""
    stage.writes(3, within_s=_MOMENT_S)
    for host in stage.world.hosts:
        host.image.capacity = host.image.used + SMALL.min_free_bytes // 2
    refused, reads = stage.history.refused, stage.history.reads
    stage.until(_MOMENT_S, lambda: stage.history.refused > refused + 5, "writes are refused")
    stage.until(_MOMENT_S, lambda: stage.history.reads > reads + 5, "reads are answered")
    undo = [stage.fault("full", host) for host in stage.world.hosts]
    for host in stage.draw.sample(stage.world.hosts, 2):
        host.crash()
        stage.back(host)
        stage.run_for(2)
    for end in undo:
        end()
    for host in stage.world.hosts:
        host.image.capacity = DEFAULT_CAPACITY
    stage.writes(5, within_s=_MOMENT_S)


def hung_sync(stage: Stage) -> None:
    """The leader's disk hangs for long: another one leads, and takes writes."""
    for _ in range(2):
        leader = stage.leader()
        stage.fault("stall", leader, lasts_s=12)
        stage.another(leader, within_s=8)
        stage.writes(5, within_s=8)
        stage.run_for(10)


def full_leader(stage: Stage) -> None:
    """The leader's disk is full: it hands over to a node that has room."""
    leader = stage.leader()
    leader.image.capacity = leader.image.used + SMALL.min_free_bytes // 2
    stage.happened("leader's disk full")
    stage.another(leader, within_s=8)
    stage.writes(10, within_s=8)
    leader.image.capacity = DEFAULT_CAPACITY


SCENARIOS = (
    Scenario(
        name="disks/errors", rows=("fault/8",),
        incident="fsyncgate; hashicorp/raft #503",
        act=errors, config=SMALL, happens=("read_error", "write_error", "sync_error"),
    ),
    Scenario(
        name="disks/short-reads", rows=("fault/8",),
        incident="turmoil's and LazyFS' list of what a read may do",
        act=short_reads, config=SMALL, happens=("reads and writes cut short",),
    ),
    Scenario(
        name="disks/no-room-at-each-write", rows=("fault/8",),
        incident="etcd #3591, #4220, #5518: files of size zero after a full disk",
        act=no_room_at_each_write, config=SMALL, happens=("disk full",),
    ),
    Scenario(
        name="disks/all-full", rows=("fault/8",),
        incident="etcd #3591, patroni #1356: a full disk that nobody could start from",
        act=all_disks_full, config=SMALL, happens=("full",),
    ),
    Scenario(
        name="disks/all-full-with-guests", rows=("fault/8",),
        incident="etcd #3591, patroni #1356: a full disk that nobody could start from",
        act=all_disks_full, config=SMALL, node=True, happens=("full",),
    ),
    Scenario(
        name="disks/hung-sync", rows=("fault/8", "fault/15"),
        incident="hashicorp/raft #503: a leader whose disk hangs leads on",
        act=hung_sync, happens=("stall", "another leader"),
    ),
    Scenario(
        name="disks/full-leader", rows=("fault/8",),
        incident="etcd #21636, patroni #3102: a leader without room stays",
        act=full_leader, config=SMALL, happens=("leader's disk full", "another leader"),
    ),
)  # fmt: skip
