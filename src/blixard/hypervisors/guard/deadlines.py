"""The guard's decisions on deadlines. Pure; times are CLOCK_BOOTTIME nanoseconds, 0 is no deadline.

A deadline moves later, never earlier, and one that has passed stays passed.
"""

from __future__ import annotations


def expired(deadline_ns: int, now_ns: int) -> bool:
    """Tell whether an instance with that deadline is to be killed now."""
    return 0 < deadline_ns <= now_ns


def armed(deadline_ns: int, asked_ns: int) -> int:
    """Return the deadline of an instance that is armed until *asked_ns*."""
    return max(deadline_ns, asked_ns, 1)


def extended(deadline_ns: int, asked_ns: int, now_ns: int) -> int:
    """Return the deadline after a request to extend; unarmed and expired ones stay as they are."""
    if not deadline_ns or expired(deadline_ns, now_ns):
        return deadline_ns
    return max(deadline_ns, asked_ns)


def why_dead(*, ended: bool, deadline_ns: int, now_ns: int) -> str:
    """Return why an instance may neither be armed nor run, or an empty text."""
    if ended:
        return "the process has ended"
    return "its deadline has passed" if expired(deadline_ns, now_ns) else ""
