"""Leaders that could not do their work: full, stalled or unreadable disks, logs without a bound."""

from __future__ import annotations

import functools
import re

import msgspec

from blixard.base.errors import BlixardError
from blixard.consensus.config import RaftConfig
from blixard.simulation.cluster import App
from blixard.simulation.inodes import FileNode
from blixard.simulation.observed import Watch
from blixard.simulation.scenarios.disks import SMALL
from blixard.simulation.scenarios.restarts import PLAIN
from blixard.simulation.scenarios.stage import Scenario, Stage
from blixard.simulation.world import Host

_SICK_S = 12.0
_PATIENCE_S = 5.0
_SUFFIX = ".snap"
_LOG_BYTES_MAX = 64 << 10


def _hands_over(stage: Stage, kind: str) -> None:
    """The leader's disk falls ill; another host leads soon, and writes go on."""
    for _ in range(3):
        old = stage.leader()
        stage.fault(kind, old, lasts_s=_SICK_S)
        stage.run_for(_PATIENCE_S)
        leaders = stage.leaders()
        moved = len(leaders) == 1 and leaders[0] is not old
        stage.expect(moved, f"host {old.number}, its disk ill, leads on", "sick leader")
        stage.happened("sick leader handed over")
        stage.writes(5, within_s=5)
        stage.run_for(_SICK_S)


def full_disk(stage: Stage) -> None:
    """The leader's disk has no room: it says so, hands over, and restarts without room."""
    _hands_over(stage, "full")
    host = stage.follower()
    stage.fault("full", host, lasts_s=20)
    stage.run_for(2)
    stage.crash(host)
    stage.run_for(1)
    stage.back(host)
    stage.until(10, lambda: stage.apps[host.number].raft is not None, "it starts without room")
    stage.happened("restart without room")
    stage.writes(5, within_s=5)


def stalled_disk(stage: Stage) -> None:
    """The leader's disk hangs: it leads no longer, and another host does."""
    _hands_over(stage, "stall")


def unreadable_snapshot(stage: Stage) -> None:
    """The leader's snapshots are damaged on its disk, and a follower needs one: it gets another."""
    behind = stage.follower()
    stage.crash(behind)
    last = stage.raft(stage.leader()).status().last_index
    stage.until(150, lambda: _snapshot_index(stage) > last, "the log begins after what it has")
    leader = stage.leader()
    for path, node in leader.image.files():
        if path.endswith(_SUFFIX) and len(node.durable) > 64:
            middle = len(node.durable) // 2
            node.durable[middle] ^= 1
            node.current[middle] ^= 1
            stage.happened("snapshot damaged")
    leader.image.hurt = True
    for client in stage.clients[1:]:
        client.stopped = True  # few writes: the next snapshot by number of entries is far away
    stage.back(behind)
    stage.until(25, lambda: stage.near(behind), "the follower catches up")


def _snapshot_index(stage: Stage) -> int:
    return stage.raft(stage.leader()).status().snapshot_index


def bounded_growth(stage: Stage) -> None:
    """Clients write without end: log and snapshots stay within their bounds."""
    for _ in range(8):
        stage.run_for(10)
        for host in stage.world.hosts:
            files = {path: len(node.current) for path, node in host.image.files()}
            log = sum(size for path, size in files.items() if path.endswith(".log"))
            snapshots = [size for path, size in files.items() if path.endswith(_SUFFIX)]
            stage.expect(log < _LOG_BYTES_MAX, f"host {host.number}: {files}", "bounded disk")
            stage.expect(len(snapshots) <= 3, f"host {host.number}: {files}", "bounded disk")
        status = stage.raft(stage.leader()).status()
        kept = status.last_index - status.snapshot_index
        stage.expect(kept < 5 * SMALL.snapshot_entries, f"{kept} entries after the snapshot")
        stage.happened("size measured")
    stage.expect(_snapshot_index(stage) > 500, "the log was compacted many times")


def errors_name_their_cause(stage: Stage) -> None:
    """A damaged file stops a node: the error names file, offset and next step."""
    said: list[BlixardError] = []
    make = stage.factory

    def listening(host: Host, hosts: list[Host], watch: Watch) -> App:
        app = make(host, hosts, watch)
        run = app.run

        async def noted() -> None:
            try:
                await run()
            except BlixardError as error:
                said.append(error)
                raise

        app.run = noted  # type: ignore[method-assign]
        return app

    stage.factory = listening
    for suffix in (".log", _SUFFIX):
        host = stage.follower()
        stage.until(60, functools.partial(_has_two, host, suffix), "files")
        stage.crash(host)
        damaged = _solid(host, suffix)
        stage.may_stop(host, "LOG_CORRUPT")
        for file in damaged[:1] if suffix == ".log" else damaged:  # a snapshot has a second one
            for content in (file.durable, file.current):
                content[len(content) // 2] ^= 0x55
        host.image.hurt = True
        said.clear()
        stage.back(host)
        stage.until(10, lambda: bool(said), f"a damaged {suffix} is noticed")
        error = said[-1]
        named = re.search(rf"\S+\{suffix}\b.*\d", error.message)
        stage.expect(error.code == "LOG_CORRUPT" and bool(named), f"{error.code}: {error.message}")
        stage.expect(bool(error.hint), f"no next step: {error.message}")
        stage.happened(f"damaged {suffix}")
        stage.until(60, lambda: stage.repairs.idle, "the node is replaced")
        stage.run_for(5)


def _has_two(host: Host, suffix: str) -> bool:
    return len(_solid(host, suffix)) > 1


def _solid(host: Host, suffix: str) -> list[FileNode]:
    """Return the files with an end that hold something durable, oldest first."""
    files = [node for path, node in host.image.files() if path.endswith(suffix)]
    return [node for node in files if len(node.durable) > 256]


_FEW = RaftConfig(
    snapshot_entries=60, trailing_entries=0, segment_bytes=4 << 10, reserve_bytes=4096
)
_RARE = msgspec.structs.replace(_FEW, snapshot_entries=400)

SCENARIOS = (
    Scenario(
        name="leaders/full-disk", rows=("complaint/4",), act=full_disk, config=PLAIN,
        incident="etcd #3591, #5518: a full disk, a snapshot of no bytes, and no restart",
        happens=("sick leader handed over", "restart without room", "full"),
    ),
    Scenario(
        name="leaders/stalled-disk", rows=("complaint/5",), act=stalled_disk, config=PLAIN,
        incident="hashicorp/raft #503, #666: a leader whose disk hung led on and did nothing",
        happens=("sick leader handed over", "stall"),
    ),
    Scenario(
        name="leaders/unreadable-snapshot", rows=("complaint/12", "fault/15"), config=_RARE,
        act=unreadable_snapshot,
        incident="hashicorp/raft #522: the leader could not load its snapshot, nobody took over",
        happens=("snapshot damaged",),
    ),
    Scenario(
        name="leaders/bounded-growth", rows=("complaint/13",), act=bounded_growth, config=SMALL,
        incident="nomad #4477, #27442: 30 GB of raft.db, a snapshot of 3.7 GB",
        happens=("size measured",),
    ),
    Scenario(
        name="leaders/errors-name-their-cause", rows=("complaint/16",), config=_FEW,
        act=errors_name_their_cause,
        incident="etcd #4220: the file cannot be found, and no word of which",
        happens=("damaged .log", "damaged .snap"),
    ),
)  # fmt: skip
