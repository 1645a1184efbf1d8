"""Lease arithmetic: when a node may run fenced instances, and when the leader may call it lost.

Theory. A node's lease runs from the *send* time of an acknowledged heartbeat for L, on the node's
CLOCK_BOOTTIME. The leader acknowledges only after a quorum round that began after the heartbeat
arrived, so at the acknowledgement it was still the leader. It declares a node lost only when

    L * (1 + 2 * rho) + kill time + margin

have passed on its own clock since its last acknowledgement, or since its election if that is later.
``rho`` bounds the relative drift of any clock, hence twice: the node's may be slow, the leader's
fast.
A new leader needs no memory of its predecessor: some voter answered the predecessor's round after
the heartbeat was sent and before it voted, so every older lease started before the election.
The guard kills at the end of the lease, whatever the daemon does; *kill time* is what that may
take.
"""

from __future__ import annotations

import msgspec

# Answers of apply: the entry stands in the log, and so does every earlier one of this leadership.
_DECIDED = frozenset(
    ("", "STALE_TERM", "CONFLICT", "NOT_FOUND", "ALREADY_EXISTS", "INVARIANT", "FENCED")
)


class LeaseConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in seconds; ``drift`` is rho."""

    lease_s: float = 4.0
    heartbeat_s: float = 1.0
    drift: float = 0.001
    kill_s: float = 1.0
    margin_s: float = 0.5

    @property
    def lost_after_s(self) -> float:
        """How long the leader waits after its last acknowledgement."""
        return self.lease_s * (1 + 2 * self.drift) + self.kill_s + self.margin_s


class LeaderLeases:
    """What one leadership knows of the nodes' leases; made anew at each election.

    All times are seconds of the leader's own monotonic clock.
    """

    def __init__(self, config: LeaseConfig, elected_at_s: float) -> None:
        self.config = config
        self.since_s = elected_at_s
        self.looked_s = elected_at_s
        self.acknowledged_s: dict[str, float] = {}
        # True: some commit of its next epoch has an unknown outcome and may still be applied.
        self.fencing: dict[str, bool] = {}

    def acknowledge(self, node_uid: str, now_s: float) -> bool:
        """Record an acknowledgement that leaves now; False while the node is being fenced."""
        if node_uid in self.fencing:
            return False
        self.acknowledged_s[node_uid] = now_s
        return True

    def look(self, now_s: float) -> None:
        """Notice a gap: a leader that was paused waits again before it calls anybody lost.

        Waiting longer is always safe; without this a resumed leader would fence nodes whose
        heartbeats wait unread in its own queues.
        """
        if now_s - self.looked_s > self.config.heartbeat_s:
            self.since_s = now_s
        self.looked_s = now_s

    def lost_at_s(self, node_uid: str) -> float:
        """Return the time from which the node may be declared lost."""
        last = max(self.acknowledged_s.get(node_uid, self.since_s), self.since_s)
        return last + self.config.lost_after_s

    def is_lost(self, node_uid: str, now_s: float) -> bool:
        """Tell whether every lease that the node may hold has surely ended."""
        return now_s >= self.lost_at_s(node_uid)

    def begin_fencing(self, node_uid: str) -> None:
        """Stop acknowledging: from here on the commit of the next epoch may be under way."""
        self.fencing.setdefault(node_uid, False)

    def fencing_answered(self, node_uid: str, code: str) -> None:
        """Take the outcome of the commit; acknowledge again only if none of them can still apply.

        An attempt that never reached the log says nothing of an earlier one that is in it.
        """
        if code in _DECIDED:
            self.fencing.pop(node_uid, None)
        elif code == "OUTCOME_UNKNOWN":
            self.fencing[node_uid] = True
        elif not self.fencing.get(node_uid, False):
            self.fencing.pop(node_uid, None)

    def heard_s(self, node_uid: str) -> float | None:
        """Return when the node was last acknowledged in this leadership."""
        return self.acknowledged_s.get(node_uid)


class NodeLease:
    """The node's side: what it may believe. Times are nanoseconds of its CLOCK_BOOTTIME."""

    def __init__(self, config: LeaseConfig) -> None:
        self.config = config
        self.epoch = 0
        self.expires_ns = 0

    def granted(self, epoch: int, sent_ns: int) -> None:
        """A heartbeat sent at *sent_ns* under *epoch* was acknowledged.

        An acknowledgement of an older epoch, late on its way, is nothing; a new epoch starts a new
        lease and never inherits the old end.
        """
        expires_ns = sent_ns + int(self.config.lease_s * 1e9)
        if epoch > self.epoch:
            self.epoch, self.expires_ns = epoch, expires_ns
        elif epoch == self.epoch:
            self.expires_ns = max(self.expires_ns, expires_ns)

    def valid(self, now_ns: int) -> bool:
        """Tell whether fenced instances may run now."""
        return now_ns < self.expires_ns

    def revoke(self) -> None:
        """Forget the lease: the epoch was ended by the cluster."""
        self.expires_ns = 0
