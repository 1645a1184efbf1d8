"""What goes wrong in a round, drawn from a seed: data only."""

from __future__ import annotations

import dataclasses
import random

ROUND_S, QUIET_S = 18.0, 3.0
BLACKOUT_SHARE, SECOND_LANE_SHARE, LEADER_SHARE = 0.15, 0.5, 0.5
# Kind: how long it lasts in seconds.
KINDS: dict[str, tuple[float, float]] = {
    "kill": (0.1, 5.0),
    "away": (6.0, 12.0),
    "kill on a full disk": (1.0, 6.0),
    "short stop": (0.05, 0.4),
    "long stop": (1.5, 6.0),
    "cut": (0.5, 8.0),
    "cut inwards": (0.5, 8.0),
    "cut outwards": (0.5, 8.0),
    "cut from one": (0.5, 8.0),
    "loss": (2.0, 8.0),
    "full disk": (1.0, 6.0),
    "hung disk": (0.3, 4.0),
    "slow disk": (2.0, 6.0),
    "power cut": (0.1, 3.0),
}


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault of a round; ``node`` is an index, ``leader`` prefers whoever leads then."""

    at_s: float
    kind: str
    node: int
    lasts_s: float
    leader: bool
    other: int = 0


def plan_round(draw: random.Random) -> list[Fault]:
    """Return the faults of one round: never more than two nodes at once, but in a blackout."""
    if draw.random() < BLACKOUT_SHARE:
        lasts = draw.uniform(*KINDS["power cut"])
        return [Fault(draw.uniform(2, 6), "blackout", 0, lasts, leader=False)]
    nodes = draw.sample(range(3), 3)
    lanes = 2 if draw.random() < SECOND_LANE_SHARE else 1
    faults = []
    for node in nodes[:lanes]:
        at_s = draw.uniform(0.5, 3)
        while at_s < ROUND_S - QUIET_S:
            kind = draw.choice(sorted(KINDS))
            lasts = min(draw.uniform(*KINDS[kind]), ROUND_S - at_s)
            leader = lanes == 1 and draw.random() < LEADER_SHARE
            faults.append(Fault(at_s, kind, node, lasts, leader, draw.randrange(2)))
            at_s += lasts + draw.uniform(0.3, 4)
    return sorted(faults, key=lambda fault: fault.at_s)
