"""Which images of the cache go; pure."""

from __future__ import annotations

from typing import NamedTuple

NEWEST = 4
GRACE_S = 3600.0


class Kept(NamedTuple):
    """One image: its key, size, when it was asked for last, and whether a process has it open.

    *superseded*: made by another version of builder or agent, so that no look-up finds it.
    """

    key: str
    size_bytes: int
    used_s: float
    in_use: bool
    superseded: bool


def evictable(kept: list[Kept], *, limit_bytes: int, now_s: float) -> list[str]:
    """Return the keys to remove, longest unused first.

    What is in use, was asked for within GRACE_S, or is one of the NEWEST stays. Of the rest,
    superseded ones go, and others until all together fit into *limit_bytes*.
    """
    ordered = sorted(kept, key=lambda image: (image.used_s, image.key))
    total = sum(image.size_bytes for image in kept)
    gone = []
    for image in ordered[: max(0, len(ordered) - NEWEST)]:
        if image.in_use or now_s - image.used_s < GRACE_S:
            continue
        if image.superseded or total > limit_bytes:
            gone.append(image.key)
            total -= image.size_bytes
    return gone
