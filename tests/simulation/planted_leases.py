"""Bugs of leases and fencing, each one sentence of the architecture left out."""

from tests.simulation.mutants import patched
from tests.simulation.planted_raft import all_of

from blixard.cluster import kinds
from blixard.cluster.leases import LeaderLeases
from blixard.node import leader, views
from blixard.node.authority import NodeAuthority
from blixard.node.leader import LeaderDuties
from blixard.simulation.environment import SimEnvironment
from blixard.simulation.guest_world import GuestWorld
from blixard.vms import arming, launcher, loops, members
from blixard.vms.guarding import mode_of


def new_leader_does_not_wait():
    """A new leader takes all leases of before its election for ended."""
    init = LeaderLeases.__init__

    def hasty(self, config, elected_at_s):
        init(self, config, elected_at_s)
        self.since_s -= config.lost_after_s

    return patched(LeaderLeases, "__init__", hasty)


def acknowledges_without_a_round():
    """The leader grants leases without asking a quorum whether it still leads."""

    async def sure(_duties, _term):
        return None

    return patched(LeaderDuties, "_confirm", sure)


def fenced_without_a_new_epoch():
    """A lost node keeps its epoch."""
    lost = views.lost_status

    def same(node, reason, now_ms):
        return {**lost(node, reason, now_ms), "epoch": int(node.status.get("epoch", 0))}

    return patched(leader, "lost_status", same)


def guard_on_the_monotonic_clock():
    """The guard's deadlines run on a clock that stands still while the host is suspended."""

    def now_ns(guests):
        return guests.machine.clock.monotonic_ns(guests._now_ns())

    def fires_at_ns(guests, deadline_ns):
        return guests.machine.clock.world_at_ns(deadline_ns + guests.machine.clock.asleep_ns)

    return all_of(
        patched(GuestWorld, "boottime_ns", now_ns), patched(GuestWorld, "fires_at_ns", fires_at_ns)
    )


def leases_on_the_monotonic_clock():
    """Leases and the guard's deadlines run on a clock that stands still in a suspend."""

    def boottime_ns(env):
        return env.process.clock.monotonic_ns(env.process.loop.now_ns)

    return all_of(
        patched(SimEnvironment, "boottime_ns", boottime_ns), guard_on_the_monotonic_clock()
    )


def guard_is_not_armed():
    """Fenced guests run without a deadline."""
    tell = arming.tell_guard

    async def silent(uid, spec, tools, epoch):
        if mode_of(spec) != "fence":
            await tell(uid, spec, tools, epoch)

    return patched(arming, "tell_guard", silent)


def runs_before_it_is_armed():
    """The CPUs run first, then the guard is armed and the leader asked."""

    def backwards(after, *, fenced, allowed=None):
        assert allowed in (True, False, None)
        order = [None, "spawn", "resume", "ask", *(["arm"] if fenced else [])]
        place = order.index(after) + 1
        return order[place] if place < len(order) else None

    return patched(launcher, "start_step", backwards)


def acts_without_authority():
    """Workers act on what they know, whether the lease is valid or not."""
    return all_of(
        patched(NodeAuthority, "granted", lambda _self, _now_ns: True),
        patched(NodeAuthority, "may_resume", lambda _self, **_named: True),
    )


def kept_instances_are_moved():
    """What should be kept on a lost node is placed again elsewhere, though nobody kills it."""
    return all_of(
        patched(members.Member, "kept_away", False),
        patched(kinds, "_still_there", lambda *_given: ""),
    )


def guests_are_not_found_again():
    """A restarted daemon does not look for the guests of before, and others count on their end."""

    def blind(_reconciler, _processes):
        return None

    return all_of(patched(loops.Reconciler, "adopt", blind), frees_what_still_ends())


def frees_what_still_ends():
    """What is deleted or scaled away frees its memory while its guest still shuts down."""
    return all_of(
        patched(members.Member, "has_ended", True),
        patched(kinds, "_still_there", lambda *_given: ""),
    )
