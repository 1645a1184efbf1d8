"""Clients that ask again and ask several nodes; bounds far smaller than anybody sets them."""

from __future__ import annotations

import msgspec

from blixard.consensus.config import RaftConfig
from blixard.simulation.scenarios.stage import Scenario, Stage

_MOMENT_S = 30.0


def retries(stage: Stage) -> None:
    """Answers get lost and leaders die: clients repeat requests, whose effects count once."""
    history = stage.history
    for _ in range(4):
        stage.fault("noise", strength=0.6, lasts_s=8)
        stage.run_for(stage.draw.uniform(1, 3))
        stage.fault("kill", stage.leader(), lasts_s=stage.draw.uniform(0.2, 3))
        stage.run_for(6)
    stage.until(_MOMENT_S, lambda: history.repeated > 0, "a request is applied a second time")
    stage.until(_MOMENT_S, lambda: history.unknown > 0, "an outcome stays unknown")
    for what in ("repeated", "unknown"):
        stage.happened(f"request {what}")


def several_members(stage: Stage) -> None:
    """Many clients ask all nodes for the same keys, also with old values, while leaders change."""
    history = stage.history
    for _ in range(4):
        stage.fault("partition", stage.leader(), lasts_s=3)
        stage.run_for(5)
    stage.until(_MOMENT_S, lambda: history.cas_done > 20, "comparisons succeed")
    stage.until(_MOMENT_S, lambda: history.stale_reads > 10, "old state is read on purpose")
    stage.happened("old revisions")


def no_quorum(stage: Stage) -> None:
    """A majority is away for a minute: every request ends, and work goes on afterwards."""
    others = stage.others(stage.leader())[:2]
    for host in others:
        stage.fault("pause", host, lasts_s=60)
    refused = stage.history.refused
    stage.run_for(55)
    stage.expect(stage.history.refused > refused, "requests are refused in time")
    stage.happened("no quorum")
    stage.run_for(10)
    stage.writes(5, within_s=_MOMENT_S)


def _tiny(stage: Stage) -> None:
    pick = stage.draw.choice
    tick_s, ticks = pick(((0.0271, 10), (0.05, 10), (0.1, 20)))
    stage.config = RaftConfig(
        tick_s=tick_s, election_ticks=ticks, snapshot_entries=pick((50, 70, 100)),
        trailing_entries=pick((0, 5)), snapshot_chunk_bytes=512, segment_bytes=pick((512, 2 << 10)),
        save_bytes=pick((256, 4 << 10)), max_batch_entries=pick((1, 2)), max_message_bytes=512,
        max_inflight_messages=2, max_apply_bytes=pick((256, 1 << 10)),
        max_uncommitted_bytes=4 << 10, max_inbox_bytes=8 << 10, max_pending_proposals=4,
        max_pending_reads=4, max_read_rounds=1, reserve_bytes=4096, catch_up_entries=2,
    )  # fmt: skip


def tiny_bounds(stage: Stage) -> None:
    """Every bound is tiny: one entry per batch, two messages in flight, snapshots all the time."""
    for kind in ("kill", "crash", "partition", "pause", "crash"):
        host = stage.draw.choice(stage.world.hosts)
        end = stage.fault(kind, host)
        stage.run_for(stage.draw.uniform(1, 4))
        end()
        stage.writes(10, within_s=_MOMENT_S)
    stage.happened("tiny bounds")


def _unlike(stage: Stage) -> None:
    ticks = ((0.029, 10), (0.1, 10), (0.101, 12), (0.05, 40), (0.0271, 10))
    snapshots = (50, 100, 1_000, 60, 500)
    order = stage.draw.sample(range(5), 5)
    base = RaftConfig(reserve_bytes=4096)
    for number, place in enumerate(order[: stage.options.nodes], 1):
        tick_s, election_ticks = ticks[place]
        stage.configs[number] = msgspec.structs.replace(
            base, tick_s=tick_s, election_ticks=election_ticks, snapshot_entries=snapshots[place],
            trailing_entries=stage.draw.choice((0, 50)),
            segment_bytes=stage.draw.choice((2 << 10, 1 << 20)),
            max_batch_entries=stage.draw.choice((1, 1_024)),
            max_message_bytes=stage.draw.choice((512, 512 << 10)),
        )  # fmt: skip


def unlike_settings(stage: Stage) -> None:
    """Nodes differ in tick, election time, snapshots, segments and batches, and are disturbed."""
    stage.happened(f"{len(set(stage.configs.values()))} kinds of settings")
    for kind in ("crash", "pause", "partition", "kill"):
        for host in (stage.leader(), stage.follower()):
            end = stage.fault(kind, host)
            stage.run_for(stage.draw.uniform(1, 6))
            end()
            stage.writes(3, within_s=_MOMENT_S)
    _unlike(stage)  # and all are restarted with other settings, on the same disks
    for host in stage.world.hosts:
        host.kill_daemon()
        stage.back(host)
        stage.run_for(2)


SCENARIOS = (
    Scenario(
        name="clients/retries", rows=("fault/16",),
        incident="TigerBeetle's clients repeat for ever; etcd #20221",
        act=retries, happens=("request repeated", "request unknown"), clients=8,
    ),
    Scenario(
        name="clients/several-members", rows=("fault/16",),
        incident="RedisRaft: aborted and stale reads when asked at several nodes",
        act=several_members, happens=("old revisions",), clients=12,
    ),
    Scenario(
        name="clients/no-quorum-for-a-minute", rows=("fault/16", "fault/9"),
        incident="raftify: calls that hang; TigerBeetle: endless repetition",
        act=no_quorum, happens=("no quorum",),
    ),
    Scenario(
        name="settings/tiny-bounds", rows=("fault/18",),
        incident="FoundationDB's and etcd's small knobs: rare branches become common",
        act=tiny_bounds, prepare=_tiny, happens=("tiny bounds", "snapshot installed"),
    ),
    Scenario(
        name="settings/unlike", rows=("fault/17", "fault/18"),
        incident="etcd #8501: nodes with different settings deadlock",
        act=unlike_settings, prepare=_unlike, nodes=5, happens=("5 kinds of settings",),
    ),
)  # fmt: skip
