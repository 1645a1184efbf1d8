"""Leases and deadlines as the real decisions take them, from what the model remembers and back."""

from __future__ import annotations

from blixard.cluster.leases import LeaderLeases
from blixard.node.authority import NodeAuthority
from blixard.simulation.explore.rules import Rules
from blixard.simulation.explore.state import NODES, Leader, Node, Process, pair

NS = 1_000_000_000
NOW = 1_000  # the tick that every absolute time is counted from
NOW_NS = NOW * NS


class Leases:
    """Translates between ticks from now and the objects of the leader, the node and the guard."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.waits_ticks = -(-int(rules.config.lost_after_s * 1000) // 1000)

    def book(self, leader: Leader) -> LeaderLeases:
        """Return the leases as the leader counts them."""
        book = self.rules.leases(self.rules.config, float(NOW - self.waits_ticks))
        book.looked_s = float(NOW + leader.looked)
        book.acknowledged_s = {u: float(NOW + t) for u, t in zip(NODES, leader.heard, strict=True)}
        book.fencing = {u: f == 2 for u, f in zip(NODES, leader.fencing, strict=True) if f}
        return book

    def booked(self, leader: Leader, book: LeaderLeases) -> Leader:
        """Return the leader as *book* has it now."""
        since = book.since_s
        heard = pair(
            max(-self.waits_ticks, int(max(book.acknowledged_s.get(u, since), since)) - NOW)
            for u in NODES
        )
        fencing = pair(1 + book.fencing[u] if u in book.fencing else 0 for u in NODES)
        return leader._replace(heard=heard, fencing=fencing, looked=int(book.looked_s) - NOW)

    def authority(self, node: Node) -> NodeAuthority:
        """Return what the daemon of a node believes of its lease and its duties."""
        authority = self.rules.authority(self.rules.config)
        authority.lease.epoch = node.epoch
        authority.lease.expires_ns = (NOW + node.expires) * NS
        authority.view_epoch = node.view_epoch
        authority.fresh, authority.outdated = node.fresh, node.outdated
        return authority

    def believed(self, node: Node, authority: NodeAuthority) -> Node:
        """Return the node as *authority* has it now."""
        lease = authority.lease
        expires = max(0, lease.expires_ns // NS - NOW)
        return node._replace(
            epoch=lease.epoch, expires=expires, fresh=authority.fresh,
            outdated=authority.outdated, view_epoch=authority.view_epoch,
            sound=node.sound and expires > 0,
        )  # fmt: skip

    def overdue(self, process: Process | None) -> bool:
        """Tell whether the guard must have killed by now."""
        return (
            process is not None
            and process.state != "exited"
            and self.rules.expired(absolute_ns(process.deadline), NOW_NS)
        )

    def extended(self, node: Node) -> Process | None:
        """Return the process after the guard was told how long the lease runs."""
        process = node.process
        if process is None or process.state == "exited" or process.deadline is None:
            return process
        asked_ns = (NOW + node.expires) * NS
        deadline_ns = self.rules.extended(absolute_ns(process.deadline), asked_ns, NOW_NS)
        return process._replace(deadline=deadline_ns // NS - NOW)


def absolute_ns(deadline: int | None) -> int:
    """Return a deadline as the guard holds it; 0: not armed."""
    return 0 if deadline is None else (NOW + deadline) * NS
