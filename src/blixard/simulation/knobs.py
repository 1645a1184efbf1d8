"""What a seed decides apart from the faults: how callbacks are scheduled, and small bounds."""

from __future__ import annotations

import random

import msgspec

from blixard.consensus.config import RaftConfig
from blixard.simulation.loop import Mode

_ELECTIONS = ((0.05, 10), (0.05, 10), (0.0271, 10), (0.05, 20), (0.1, 20))  # tick in s, ticks


class Knobs(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a run; ``change_points`` are those of the mode ``pct``."""

    mode: Mode = "fifo"
    change_points: int = 0
    raft: RaftConfig = RaftConfig(reserve_bytes=4096)


def draw_knobs(generator: random.Random) -> Knobs:
    """Draw settings, many of them far smaller than a cluster has them."""
    pick = generator.choice
    tick_s, election_ticks = pick(_ELECTIONS)
    raft = RaftConfig(
        tick_s=tick_s,
        election_ticks=election_ticks,
        snapshot_entries=pick((50, 100, 500, 10_000)),
        snapshot_chunk_bytes=pick((1 << 10, 512 << 10)),
        trailing_entries=pick((0, 10, 100)),
        segment_bytes=pick((16 << 10, 256 << 10, 16 << 20)),
        max_batch_entries=pick((1, 4, 1_024)),
        max_message_bytes=pick((512, 4 << 10, 512 << 10)),
        max_inflight_messages=pick((2, 16, 128)),
        max_apply_bytes=pick((1 << 10, 1 << 20)),
        max_uncommitted_bytes=pick((1 << 20, 32 << 20)),
        max_inbox_bytes=pick((256 << 10, 128 << 20)),
        max_pending_proposals=pick((16, 8_192)),
        reserve_bytes=4096,
        min_free_bytes=pick((0, 16 << 20)),
    )
    mode: Mode = pick(("fifo", "random", "pct"))
    return Knobs(mode=mode, change_points=pick((1, 3, 10)) if mode == "pct" else 0, raft=raft)
