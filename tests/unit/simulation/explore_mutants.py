"""Lease and fencing decisions with one sentence of the architecture left out each."""

from __future__ import annotations

import msgspec

from blixard.cluster.apply import apply_transaction
from blixard.cluster.leases import LeaderLeases, NodeLease
from blixard.hypervisors.guard import deadlines
from blixard.node.authority import NodeAuthority
from blixard.simulation.explore.rules import Rules
from blixard.simulation.explore.search import Scope
from blixard.simulation.explore.state import Budget
from blixard.vms.reconcile import decide, start_step

SECOND_NS = 1_000_000_000


class _Impatient(LeaderLeases):
    def lost_at_s(self, node_uid):
        return super().lost_at_s(node_uid) - self.config.kill_s


class _Forgetful(LeaderLeases):
    def __init__(self, config, elected_at_s):
        super().__init__(config, elected_at_s - config.lost_after_s)


class _Generous(LeaderLeases):
    def acknowledge(self, node_uid, now_s):
        self.acknowledged_s[node_uid] = now_s
        return True


class _Hasty(LeaderLeases):
    """An attempt that never reached the log ends the doubt about an earlier one."""

    def fencing_answered(self, node_uid, code):
        if code == "OUTCOME_UNKNOWN":
            self.fencing[node_uid] = True
        else:
            self.fencing.pop(node_uid, None)


class _Unaware(LeaderLeases):
    def look(self, now_s):
        self.looked_s = now_s


class _LateLease(NodeLease):
    now_ns = 0

    def granted(self, epoch, sent_ns):
        super().granted(epoch, self.now_ns)


class _FromReceipt(NodeAuthority):
    def __init__(self, config):
        super().__init__(config)
        self.lease = _LateLease(config)

    def heartbeat_answered(self, *, now_ns, **answer):
        self.lease.now_ns = now_ns
        return super().heartbeat_answered(now_ns=now_ns, **answer)


class _NoLapse(NodeAuthority):
    """The lapse is noted by whoever looks meanwhile, and by nobody if the daemon was paused."""

    def heartbeat_answered(self, *, granted, epoch, asked_epoch, sent_ns, now_ns):
        if epoch > asked_epoch or not granted or epoch != asked_epoch:
            return "new epoch" if epoch > asked_epoch else "refused"
        self.lease.granted(epoch, sent_ns)
        assert now_ns
        return "renewed"


class _OldView(NodeAuthority):
    def view_read(self, epoch, now_ns):
        self.outdated = False
        return super().view_read(epoch, now_ns)


def _unarmed(after, *, fenced, allowed=None):
    assert fenced
    return start_step(after, fenced=False, allowed=allowed)


def _any_term(store, kinds, transaction, *, index, term):
    assert term
    free = msgspec.structs.replace(transaction, term=0)
    return apply_transaction(store, kinds, free, index=index, term=0)


def _reports_count(store, kinds, transaction, *, index, term):
    ops = tuple(
        msgspec.structs.replace(op, node_uid="") if hasattr(op, "node_uid") else op
        for op in transaction.ops
    )
    open_to_all = msgspec.structs.replace(transaction, ops=ops)
    return apply_transaction(store, kinds, open_to_all, index=index, term=term)


def _always(assignment, process, history, *, authority, **rest):
    assert authority in (True, False)
    return decide(assignment, process, history, authority=True, **rest)


class LeaseNotWaitedOut(Rules):
    leases = _Impatient


class NewLeaderWaitsNot(Rules):
    leases = _Forgetful


class GrantedWhileFenced(Rules):
    leases = _Generous


class UnknownTakenForRefused(Rules):
    leases = _Hasty


class PauseOfLeaderNotNoticed(Rules):
    leases = _Unaware


class LeaseFromReceipt(Rules):
    authority = _FromReceipt


class LapseNotNoticed(Rules):
    authority = _NoLapse


class ViewFromBeforeLapse(Rules):
    authority = _OldView


class GuardNotArmed(Rules):
    start_step = staticmethod(_unarmed)


class GuardTooLate(Rules):
    @staticmethod
    def extended(deadline_ns, asked_ns, now_ns):
        return deadlines.extended(deadline_ns, asked_ns + SECOND_NS, now_ns)


class TermNotChecked(Rules):
    apply = staticmethod(_any_term)


class ReportsNotFenced(Rules):
    apply = staticmethod(_reports_count)


class WorkerWithoutAuthority(Rules):
    decide = staticmethod(_always)


MUTANTS: dict[type[Rules], str] = {
    LeaseNotWaitedOut: "delays",
    NewLeaderWaitsNot: "leader change",
    GrantedWhileFenced: "delays",
    UnknownTakenForRefused: "unknown outcomes",
    PauseOfLeaderNotNoticed: "leader paused",
    LeaseFromReceipt: "delays",
    LapseNotNoticed: "delays",
    ViewFromBeforeLapse: "delays",
    GuardNotArmed: "delays",
    GuardTooLate: "delays",
    TermNotChecked: "leader change",
    ReportsNotFenced: "delays",
    WorkerWithoutAuthority: "delays",
}

SCOPES = {
    "delays": Scope(name="", swift=1, budget=Budget(fencings=1)),
    "leader change": Scope(name="", swift=1, silent=True, budget=Budget(elections=1, fencings=1)),
    "unknown outcomes": Scope(name="", swift=1, silent=True, budget=Budget(unknowns=2, fencings=1)),
    "leader paused": Scope(
        name="", swift=1, timely=True, budget=Budget(elections=1, leader_pauses=1)
    ),
}
