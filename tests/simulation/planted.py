"""All planted bugs: the rule that each leaves out, and where it is looked for."""

from collections.abc import Callable
from contextlib import contextmanager, nullcontext

import msgspec
from tests.simulation import mutants as first
from tests.simulation import planted_functions as functions
from tests.simulation import planted_leases as leases
from tests.simulation import planted_moves as moves
from tests.simulation import planted_raft as raft
from tests.simulation import planted_storage as storage
from tests.unit.simulation import explore_mutants as explored


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """One bug. ``engine``: it is in the Rust core, under the feature ``mutants``; ``rules``: as
    ``b1.3``, ``a6.1``, ``L5``; ``quick``: an oracle finds it in a few seeds, also in CI;
    ``says``: a part of what that oracle has to say."""

    name: str
    rules: tuple[str, ...]
    what: str
    bias: str
    plant: Callable = nullcontext
    engine: bool = False
    explored: type | None = None
    quick: bool = False
    says: str = ""


@contextmanager
def in_engine(name):
    """Plant a bug in the Rust core that was built for it."""
    from blixard import _raft

    _raft.plant(name)
    try:
        yield
    finally:
        _raft.plant("")


def _of(plant, rules, bias, *, quick=False, says=""):
    what = " ".join((plant.__doc__ or "").split())
    return Mutant(name=plant.__name__, rules=tuple(rules.split()), what=what, bias=bias,
                  plant=plant, quick=quick, says=says)  # fmt: skip


def _engine(name, rules, bias, what):
    return Mutant(name=name, rules=tuple(rules.split()), what=what, bias=bias, engine=True,
                  plant=lambda: in_engine(name))  # fmt: skip


def _explored(rules_class, rules, what):
    return Mutant(name=f"explored_{rules_class.__name__}", rules=tuple(rules.split()), what=what,
                  bias=f"model: {explored.MUTANTS[rules_class]}", explored=rules_class)  # fmt: skip


def _scene(plant, rules, scenario, says):
    """Return a bug that a scenario of its feature shows on its first seed."""
    return _of(plant, rules, scenario, quick=True, says=says)


MUTANTS = (
    _of(raft.answers_before_sync, "b1.1", "consensus", quick=True),
    _of(first.acknowledge_before_sync, "b1.2", "consensus", quick=True),
    _of(first.forget_votes, "b1.2", "consensus"),
    _engine("appends_are_joined", "b1.2", "lossy",
            "A follower acknowledges joined entries that it does not have."),
    _of(raft.failed_sync_is_forgotten, "b1.3", "bad syncs", quick=True),
    _of(raft.names_are_not_synced, "b1.4", "small"),
    _of(raft.short_writes_count_as_whole, "b1.4 b1.5", "short calls"),
    _of(raft.checksums_are_not_checked, "b1.5", "rot"),
    _of(raft.damage_is_cut_off, "b1.5", "rot"),
    _of(first.apply_out_of_order, "b1.6", "consensus", quick=True),
    _of(raft.snapshot_of_an_older_index, "b1.6 b1.8", "small", quick=True),
    _of(first.diverging_state, "b1.6", "consensus", quick=True),
    _of(raft.acknowledged_when_appended, "b1.7", "consensus", quick=True),
    _of(raft.unknown_is_called_failed, "b1.7", "consensus"),
    _of(raft.snapshot_is_not_synced, "b1.8", "small"),
    _of(raft.snapshot_is_never_reported, "b1.9", "small"),
    _of(first.read_without_quorum, "b1.10", "consensus"),
    _of(raft.read_before_applied, "b1.10", "consensus"),
    _engine("transfer_never_ends", "b1.11", "hand-over",
            "A hand-over that comes to nothing blocks proposals for ever."),
    _of(raft.snapshot_loses_a_member, "b1.12", "small"),
    _engine("swallowed_change_counts", "b1.12 a6.4", "two changes",
            "A second change is proposed at once, and counts though the engine swallowed it."),
    _of(raft.ticks_of_the_wall_clock, "b1.13", "clocks"),
    _of(raft.leads_with_a_stalled_disk, "b1.14", "stalled leader", quick=True),
    _of(raft.leads_with_a_full_disk, "b1.14", "full leader"),
    _of(raft.proposals_without_bound, "b1.15", "crowd"),
    _of(raft.log_is_never_cut, "b1.15", "crowd"),
    _engine("uncommitted_without_bound", "b1.15 a6.7", "cut crowd",
            "The engine's buffer of uncommitted entries has no bound."),
    _engine("one_context_for_all_reads", "a6.1", "held back", "All reads ask under one context."),
    _engine("reads_by_lease", "a6.2", "handed over", "The engine answers reads by lease."),
    Mutant(name="removed_leader_stays", rules=("a6.3",), bias="removed leader", engine=True,
           what="A leader whose removal is applied goes on leading, and is listened to.",
           plant=lambda: raft.all_of(in_engine("removed_leader_stays"), raft.all_may_speak())),
    _engine("joint_for_ever", "a6.5", "joint", "A joint membership is left by nobody."),
    _of(raft.read_joins_an_older_round, "a6.8", "read from afar"),
    _of(first.reports_of_any_run, "L1 L14", "leases"),
    _of(leases.acknowledges_without_a_round, "L3", "deposed leader"),
    _of(first.leader_fences_too_early, "L5", "leases"),
    _of(leases.new_leader_does_not_wait, "L6 L18", "leader change"),
    _of(leases.fenced_without_a_new_epoch, "L8", "leases"),
    _of(first.guard_armed_too_late, "L9", "leases"),
    _of(leases.leases_on_the_monotonic_clock, "L2", "asleep"),
    _of(leases.guard_on_the_monotonic_clock, "L9", "asleep"),
    _of(leases.guard_is_not_armed, "L9 L12", "leases"),
    _of(leases.guests_are_not_found_again, "L10", "leases"),
    _of(leases.runs_before_it_is_armed, "L12", "late start"),
    _of(leases.acts_without_authority, "L13", "leases"),
    _of(leases.kept_instances_are_moved, "L16", "leases", quick=True),
    _of(leases.frees_what_still_ends, "L23", "full nodes", quick=True),
    _scene(storage.starts_before_the_storage_fence, "L15", "storage/fenced-writer", "stale write"),
    _scene(storage.fences_locks_only, "L15", "storage/fenced-writer", "stale write"),
    _scene(storage.attaches_with_an_older_key, "L15", "storage/fenced-writer",
           "db runs elsewhere"),
    _scene(storage.forgets_to_detach, "S1", "storage/operations", "storage is whole"),
    _scene(storage.deletes_what_is_bound, "S2", "storage/deleted-in-use", "kept volume"),
    _scene(storage.any_node_will_do, "S5", "storage/never-ready", "placement by storage"),
    _scene(storage.known_once_it_is_ready, "S5", "storage/never-ready", "placement by storage"),
    _scene(moves.writes_while_it_stands_still, "S3", "storage/moved", "stale write"),
    _scene(moves.leaves_with_a_write_under_way, "S3", "storage/moved-while-it-hangs",
           "left with a write under way"),
    _scene(moves.mover_keeps_the_volumes, "S4", "storage/moved", "only its node has the volume"),
    _scene(moves.gives_back_for_the_other_end, "S4", "storage/moved",
           "only its node has the volume"),
    _scene(moves.target_does_not_reserve, "M1", "migrations/no-room", "capacity"),
    _scene(moves.sends_what_was_before_the_pause, "M2", "migrations/preserve-state",
           "has other pages"),
    _scene(moves.memory_goes_where_nobody_takes_it, "M3", "migrations/source-restarts",
           "booted anew"),
    _scene(moves.switches_without_the_pause, "M4", "migrations/preserve-state",
           "nobody stopped with"),
    _scene(moves.starts_before_the_switch, "M5", "migrations/preserve-state", "double run"),
    _scene(moves.roll_back_is_forgotten, "M6", "migrations/paused-and-restarted",
           "all VMs are ready"),
    _scene(moves.goes_on_without_asking, "M7", "migrations/outcome-unknown", "double run"),
    _scene(functions.every_node_has_the_whole_limit, "F1", "functions/limits", "limit at"),
    _scene(functions.calls_wait_for_ever, "F2", "functions/limits", "honest answers"),
    _scene(functions.busy_instances_are_given_out, "F3", "functions/thousand-at-once",
           "one call"),
    _scene(functions.worn_instances_are_used_again, "F4", "functions/under-faults",
           "worn instance"),
    _scene(functions.leftovers_are_taken_for_idle, "F5", "functions/under-faults", "leftover"),
    _scene(functions.memory_of_ending_guests_counts_as_free, "F6", "functions/under-faults",
           "function memory"),
    _scene(functions.answers_of_the_call_before, "F7", "functions/thousand-at-once",
           "another's result"),
    _scene(functions.lost_calls_are_repeated, "F8", "functions/under-faults", "at most once"),
    _explored(explored.LeaseFromReceipt, "L2", "The lease runs from the receipt of the answer."),
    _explored(explored.LeaseNotWaitedOut, "L5", "The leader does not wait for the kill."),
    _explored(explored.NewLeaderWaitsNot, "L6", "A new leader does not wait."),
    _explored(explored.PauseOfLeaderNotNoticed, "L5", "A leader's pause is not noticed."),
    _explored(explored.TermNotChecked, "L3 L8", "A fencing counts in any term."),
    _explored(explored.UnknownTakenForRefused, "L8", "A fencing in doubt counts as refused."),
    _explored(explored.GrantedWhileFenced, "L8", "A node is granted leases while it is fenced."),
    _explored(explored.GuardTooLate, "L9", "The guard kills a second late."),
    _explored(explored.GuardNotArmed, "L9 L12", "The guard is not armed."),
    _explored(explored.LapseNotNoticed, "L13", "A lapse of the lease is not noted."),
    _explored(explored.ViewFromBeforeLapse, "L13", "Duties asked for before a lapse are believed."),
    _explored(explored.WorkerWithoutAuthority, "L13", "A worker acts without a lease."),
    _explored(explored.ReportsNotFenced, "L1 L14", "Reports of older runs count."),
)  # fmt: skip
