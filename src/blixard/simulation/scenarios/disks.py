"""Disks that lose, damage, refuse, hang, run full, and end up in another machine."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from blixard.consensus.config import RaftConfig
from blixard.simulation.inodes import FileNode
from blixard.simulation.scenarios.moments import DISK_STEPS, LOG, Moment
from blixard.simulation.scenarios.stage import Scenario, Stage
from blixard.simulation.world import Host

_MOMENT_S = 30.0
_TRIES = 10
SMALL = RaftConfig(
    snapshot_entries=60, trailing_entries=20, segment_bytes=4 << 10, reserve_bytes=4096
)


def lost_unsynced(stage: Stage) -> None:
    """At steps that the seed draws, a power loss takes all that was not synced, names included."""
    for _ in range(6):
        host = stage.draw.choice(stage.world.hosts)
        step = stage.draw.choice([s for s in DISK_STEPS if not s.startswith("unlink")])

        def lose(host: Host = host) -> None:
            host.image.lose_unsynced()
            host.crash()
            stage.happened("unsynced writes lost")

        stage.trap(host, Moment(step, nth=stage.draw.randint(1, 20)), lose)
        stage.run_for(4)
        stage.back(host)
        stage.run_for(1)


def lost_unsynced_everywhere(stage: Stage) -> None:
    """All hosts lose power at once, and with it all that was not synced."""
    for _ in range(3):
        stage.writes(stage.draw.randint(5, 20), within_s=_MOMENT_S)
        for host in stage.world.hosts:
            host.image.lose_unsynced()
            host.crash()
        stage.happened("unsynced writes lost")
        stage.back(*stage.world.hosts)
        stage.leader()


def _old_segment(host: Host) -> FileNode | None:
    """Return a segment of the log after which there is another one that a crash leaves."""
    segments = [node for path, node in host.image.files() if path.endswith(LOG)]
    if len(segments) < 2 or len(segments[0].durable) <= 512:
        return None
    # More than its head is durable: its name was made so before that was written.
    return segments[0] if len(segments[1].durable) > 128 else None


def _damaged(stage: Stage, what: str, damage: Callable[[FileNode], None]) -> None:
    """Damage an old segment of a node that is down; its start must notice, and it is replaced."""
    host, node = stage.follower(), None
    for _ in range(_TRIES):
        stage.until(60, lambda: _old_segment(host) is not None, "several segments")
        host.crash()
        node = _old_segment(host)
        if node is not None:
            break
        stage.back(host)  # the power loss took the name of the newest one
    assert node is not None
    damage(node)
    node.current = bytearray(node.durable)
    host.image.hurt = True
    stage.happened(what)
    replaced = stage.repairs.done
    stage.back(host)
    stage.until(60, lambda: stage.repairs.done > replaced, "the damaged node is replaced")


def truncated(stage: Stage) -> None:
    """A part of a node's log is cut off; the node says so, and is replaced by a new one."""

    def cut(node: FileNode) -> None:
        del node.durable[stage.draw.randrange(len(node.durable)) :]

    _damaged(stage, "truncated", cut)


def zero_filled(stage: Stage) -> None:
    """The end of a part of a node's log reads as zeros; the node is replaced by a new one."""

    def fill(node: FileNode) -> None:
        start = stage.draw.randrange(len(node.durable) - 64)
        node.durable[start:] = bytes(len(node.durable) - start)

    _damaged(stage, "zero-filled", fill)


def rot(stage: Stage) -> None:
    """Bits turn over on the disks of a minority, which is restarted, and replaced if it matters."""
    hosts = stage.draw.sample(stage.world.hosts, 2)
    for _ in range(4):
        for host in hosts:
            stage.fault("rot", host)
            stage.run_for(2)
            host.kill_daemon()
            stage.back(host)
            stage.until(90, lambda: stage.repairs.idle, "what is broken is replaced")
    stage.writes(5, within_s=_MOMENT_S)


def misdirected(stage: Stage) -> None:
    """A write of a follower lands too early in its file; its next start finds the damage."""
    host = stage.follower()
    stage.until(60, lambda: _old_segment(host) is not None, "several segments")
    stage.fault("misdirect", host)
    stage.until(60, lambda: host.image.hurt, "a write is misdirected")
    stage.happened("write misdirected")
    stage.run_for(stage.draw.random())
    host.kill_daemon()
    stage.back(host)
    stage.run_for(5)


def lost_disk(stage: Stage) -> None:
    """A host dies with its disk, and joins as a new node; then so does the next one."""
    for host in stage.draw.sample(stage.world.hosts, 2):
        stage.fault("lost_disk", host)()
        stage.until(90, lambda: stage.repairs.idle and stage._formed(), "it is replaced")
        stage.writes(3, within_s=_MOMENT_S)


def lost_disk_with_guests(stage: Stage) -> None:
    """A host that runs VMs dies with its disk; they run elsewhere, and it joins as a new node."""
    stage.until(60, stage.guests_ready, "the VMs run")
    host = max(stage.world.hosts, key=lambda h: len(h.guests.running()))
    stage.fault("lost_disk", host)()
    stage.until(120, lambda: stage.repairs.idle and stage.guests_ready(), "it is replaced")


def swapped(stage: Stage) -> None:
    """The disks of two machines are swapped: neither node starts as the other one."""
    one, other = stage.draw.sample(stage.world.hosts, 2)

    def swap() -> None:
        one.image.root, other.image.root = other.image.root, one.image.root

    for host in (one, other):
        host.crash()
    swap()
    for host in (one, other):
        stage.may_stop(host, "WRONG_CLUSTER")
    stops = stage.world.stops
    stage.back(one, other)
    stage.until(_MOMENT_S, lambda: stage.world.stops >= stops + 2, "both refuse to start")
    stage.happened("disks swapped")
    stage.writes(10, within_s=_MOMENT_S)
    for host in (one, other):
        host.crash()
    swap()
    stage.back(one, other)


SCENARIOS = (
    Scenario(
        name="disks/unsynced-lost", rows=("fault/4",),
        incident="etcd #14098, #14140, found with LazyFS: what was not synced is gone",
        act=lost_unsynced, config=SMALL, happens=("unsynced writes lost",),
    ),
    Scenario(
        name="disks/unsynced-lost-everywhere", rows=("fault/4", "fault/6"),
        incident="NATS 2.12.1: two minutes between syncs, and a power loss of all",
        act=lost_unsynced_everywhere, config=SMALL, happens=("unsynced writes lost",),
    ),
    Scenario(
        name="disks/truncated", rows=("fault/5",),
        incident="NATS 2.12.1: a truncated file made a node forget, and others follow it",
        act=truncated, config=SMALL, happens=("truncated",),
    ),
    Scenario(
        name="disks/zero-filled", rows=("fault/5",),
        incident="etcd #6379: a file full of zeros after a crash",
        act=zero_filled, config=SMALL, happens=("zero-filled",),
    ),
    Scenario(
        name="disks/rot", rows=("fault/5",),
        incident="NATS 2.12.1: 679,153 of 1,367,069 acknowledged writes lost after single bits",
        act=rot, config=SMALL, nodes=5, happens=("rot",),
    ),
    Scenario(
        name="disks/misdirected", rows=("fault/5",),
        incident="TigerBeetle 0.16.11 survived it; most systems do not look",
        act=misdirected, config=msgspec.structs.replace(SMALL, segment_bytes=12 << 10),
        happens=("misdirect", "write misdirected"),
    ),
    Scenario(
        name="disks/lost", rows=("fault/7",),
        incident="TigerBeetle 0.16.11: no way to come back after the loss of one disk",
        act=lost_disk, config=SMALL, happens=("lost_disk",),
    ),
    Scenario(
        name="disks/lost-with-guests", rows=("fault/7",),
        incident="TigerBeetle 0.16.11: no way to come back after the loss of one disk",
        act=lost_disk_with_guests, node=True, happens=("lost_disk",),
    ),
    Scenario(
        name="disks/swapped", rows=("fault/7",),
        incident="FoundationDB's simulation swaps the disks of machines",
        act=swapped, nodes=5, happens=("disks swapped",),
    ),
)  # fmt: skip
