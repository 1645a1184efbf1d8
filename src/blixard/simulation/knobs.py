"""What a seed decides apart from the faults: how callbacks are scheduled, and small bounds."""

from __future__ import annotations

import random

import msgspec

from blixard.consensus.config import RaftConfig
from blixard.simulation.loop import Mode


class Knobs(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a run."""

    mode: Mode = "fifo"
    raft: RaftConfig = RaftConfig(reserve_bytes=4096)


def draw_knobs(generator: random.Random) -> Knobs:
    """Draw settings, most of them far smaller than a cluster has them."""
    mode: Mode = generator.choice(("fifo", "random"))
    raft = RaftConfig(
        snapshot_entries=generator.choice((50, 100, 500, 10_000)),
        trailing_entries=generator.choice((0, 10, 100)),
        segment_bytes=generator.choice((16 << 10, 256 << 10, 16 << 20)),
        max_message_bytes=generator.choice((4 << 10, 512 << 10)),
        reserve_bytes=4096,
    )
    return Knobs(mode=mode, raft=raft)
