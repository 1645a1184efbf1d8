"""Planted bugs: each patches our own code for one run; an oracle must object."""

import asyncio
from contextlib import contextmanager

import msgspec

from blixard.cluster import apply, kinds
from blixard.cluster.leases import LeaseConfig
from blixard.consensus.log import Log
from blixard.consensus.node import RaftNode
from blixard.consensus.saving import Saver
from blixard.simulation.guest_world import GuestWorld
from blixard.simulation.register import RegisterMachine
from blixard.vms import arming, guarding, replicas


@contextmanager
def patched(owner, name, value):
    """Replace an attribute of a class for a while."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def acknowledge_before_sync():
    """The log says that it is durable at once."""

    async def sync(_log):
        await asyncio.sleep(0)

    return patched(Log, "sync", sync)


def forget_votes():
    """Term and vote are written with the next entries only."""
    make_durable = Saver._make_durable

    async def lazy(saver, payload, last_index):
        if last_index:
            await make_durable(saver, payload, last_index)

    return patched(Saver, "_make_durable", lazy)


def apply_out_of_order():
    """Entries of one batch are applied last one first."""
    apply = RaftNode._apply

    def backwards(node, committed):
        apply(node, [*committed[1::-1], *committed[2:]] if len(committed) > 1 else committed)

    return patched(RaftNode, "_apply", backwards)


def diverging_state():
    """The state depends on how many nodes have applied an entry before."""
    apply = RegisterMachine.apply
    before = []

    def impure(machine, index, term, data):
        if index == 40:
            machine._digest = bytes([len(before)]) * 16
            before.append(1)
        return apply(machine, index, term, data)

    return patched(RegisterMachine, "apply", impure)


def read_without_quorum():
    """A read is answered from what happens to be applied here."""

    async def at_once(node, timeout_s, *, leader_only):
        assert timeout_s > 0
        assert leader_only in (True, False)
        return node.applied_index

    return patched(RaftNode, "_read", at_once)


def forget_a_write():
    """One write in a hundred is answered and not kept."""
    apply = RegisterMachine.apply

    def forgetful(machine, index, term, data):
        before = dict(machine.values)
        result = apply(machine, index, term, data)
        if index % 100 == 0:
            machine.values = before
        return result

    return patched(RegisterMachine, "apply", forgetful)


def guard_armed_too_late():
    """The guard's deadlines lie ten leases in the future."""
    set_deadline = GuestWorld.set_deadline

    def late(world, uid, deadline_ns):
        set_deadline(world, uid, deadline_ns + 40 * 10**9)

    return patched(GuestWorld, "set_deadline", late)


def leader_fences_too_early():
    """The leader calls a node lost while its lease still runs."""
    return patched(LeaseConfig, "lost_after_s", property(lambda _config: 1.0))


def reports_of_any_run():
    """Apply takes a node's report whatever run and epoch it is of."""
    return patched(apply, "_check_not_fenced", lambda _draft, _op, _old: None)


@contextmanager
def _switching(step):
    """Let the leader change the guard's mode by *step*, and apply accept it."""
    with patched(replicas, "switched", step), patched(kinds, "_guard_step", lambda *_: ""):
        yield


def counted_before_the_word():
    """A change to fence counts at once, whatever the guard was told."""

    def step(spec, status, *, fence):
        return msgspec.structs.replace(guarding.switched(spec, status, fence=fence), fenced=fence)

    return _switching(step)


def disarmed_before_the_commit():
    """A change to keep counts only when the guard has disarmed, so that it disarms too early."""

    def step(spec, status, *, fence):
        new = guarding.switched(spec, status, fence=fence)
        told = (status.run, status.guard_seq, status.guard) == (new.run, new.guard_seq, "keep")
        waits = spec.fenced and not fence and not told
        return msgspec.structs.replace(new, fenced=waits or (new.fenced and fence))

    return _switching(step)


def older_words_count():
    """The guard does what it was told last, in whatever order that was said."""
    return patched(GuestWorld, "counts", lambda *_: True)


def renewed_while_it_was_armed():
    """A lease that is renewed while the guard is told to arm: that it was does not matter."""

    async def nothing(_tools, _armed_ns, _epoch):
        return

    return patched(arming, "_tell_renewed", nothing)


def crash_in_a_task():
    """A task of the node raises."""
    heard = RaftNode._on_ticks

    def broken(node, count, *, slept):
        if node.applied_index > 60:
            raise ValueError("planted")
        heard(node, count, slept=slept)

    return patched(RaftNode, "_on_ticks", broken)


RAFT_MUTANTS = {
    "acknowledge_before_sync": (acknowledge_before_sync, "durability"),
    "forget_votes": (forget_votes, "votes"),
    "apply_out_of_order": (apply_out_of_order, "apply order"),
    "diverging_state": (diverging_state, "state hash"),
    "read_without_quorum": (read_without_quorum, "linearizability"),
    "forget_a_write": (forget_a_write, ("acknowledged writes", "linearizability", "stale read")),
    "crash_in_a_task": (crash_in_a_task, "crash"),
}
GUARD_MUTANTS = {
    "counted_before_the_word": (counted_before_the_word, "double run"),
    "disarmed_before_the_commit": (disarmed_before_the_commit, "double run"),
    "older_words_count": (older_words_count, "double run"),
    "renewed_while_it_was_armed": (renewed_while_it_was_armed, "healthy"),
}
NODE_MUTANTS = {
    "guard_armed_too_late": (guard_armed_too_late, "double run"),
    "leader_fences_too_early": (leader_fences_too_early, "double run"),
}
