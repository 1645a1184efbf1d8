"""What users of other systems complain about: each row has scenarios, and they notice the bug."""

import msgspec
import pytest
from tests.simulation.mutants import (
    acknowledge_before_sync,
    guard_armed_too_late,
    leader_fences_too_early,
    patched,
)

from blixard.cli.session import Session
from blixard.cluster import apply, members
from blixard.consensus import snapshots
from blixard.consensus.comparison import Comparison
from blixard.consensus.log import Log, corrupt
from blixard.consensus.membership import Membership
from blixard.consensus.saving import Saver
from blixard.consensus.transfer import SnapshotSender
from blixard.node import link, roster
from blixard.node.link import NodeLink
from blixard.simulation.scenarios.table import BY_NAME, rows_covered, run_scenario
from blixard.vms import replicas

pytestmark = pytest.mark.simulation

COMPLAINTS = 18
NAMED = ("SIM-24", "SIM-26", "SIM-29", "SIM-30", "SIM-31", "SIM-33", "SIM-34", "SIM-36", "SIM-38",
         "SIM-39", "SIM-41", "SIM-42", "SIM-43", "SIM-44", "SIM-45", "SIM-46", "SIM-47", "SIM-52", "SIM-53",
         "SIM-54", "SIM-55", "SIM-56", "SIM-57")  # fmt: skip


def test_every_complaint_has_a_scenario():
    covered = rows_covered()
    wanted = {*(f"complaint/{number}" for number in range(1, COMPLAINTS + 1)), *NAMED}
    assert wanted <= covered.keys()
    assert all(BY_NAME[name].happens for row in wanted for name in covered[row])


async def no_coroutine(*_args):
    """Do nothing."""


def removals_unchecked():
    return patched(Membership, "check_unvote", lambda _self, _id, _active: None)


def stays_with_a_stalled_disk():
    return patched(Saver, "pending_s", lambda _saver, _now: 0.0)


def impatient_with_disks():
    pending_s = Saver.pending_s
    return patched(Saver, "pending_s", lambda saver, now: 10 * pending_s(saver, now))


def everything_is_fenced():
    return patched(replicas, "is_fenced", lambda _spec: True)


def sends_what_it_cannot_read():
    return patched(SnapshotSender, "_readable", lambda _sender, _offer: True)


def log_is_kept_for_ever():
    async def keep(_log, _index):
        return 0

    return patched(Log, "remove_before", keep)


def removed_node_is_not_told():
    return patched(NodeLink, "_refused", lambda _link, _error: None)


def nobody_compares():
    return patched(Comparison, "compare", no_coroutine)


def damage_without_a_name():
    return patched(snapshots, "corrupt", lambda _path, _offset, what: corrupt("?", 0, what))


def patient_commands():
    return patched(Session, "timeout_s", lambda _session, *_default: 60.0)


def tokens_unchecked():
    return patched(apply, "_check_expected", lambda _op, _old: None)


def waits_for_each_voter():
    return patched(link, "PATIENCE_S", None)


def lost_voters_are_removed():
    """For ever, for a raft id is not used again."""

    def step(*facts, **limits):
        found = members.next_step(*facts, **limits)
        lost = found is not None and found.kind == "demote"
        return msgspec.structs.replace(found, kind="remove") if lost else found

    return patched(roster, "next_step", step)


def invites_the_same_again():
    def step(facts, *rest, **limits):
        forgotten = [msgspec.structs.replace(fact, refusals=0) for fact in facts]
        return members.next_step(forgotten, *rest, **limits)

    return patched(roster, "next_step", step)


def waits_for_laggards():
    return patched(members, "LAGS_AFTER_S", float("inf"))


def patience_by_the_wall_clock():
    def waited_s(self, _what, uid):
        node = self._cluster.store.by_uid(uid)
        lost_ms = node.status.get("lostAtMs", 0) if node is not None else 0
        return (self._env.wall_time_ms() - lost_ms) / 1000 if lost_ms else 0.0

    return patched(roster.Roster, "_waited_s", waited_s)


@pytest.mark.parametrize(
    ("name", "plant", "oracle"),
    [
        ("partitions/stack-of-three", waits_for_each_voter, "availability"),
        ("membership/removal-would-lose-quorum", removals_unchecked, "writes, within"),
        ("restarts/power-loss-of-all", acknowledge_before_sync, "durability"),
        ("leaders/stalled-disk", stays_with_a_stalled_disk, "sick leader"),
        ("undisturbed/slow-disks", impatient_with_disks, "writes, within"),
        ("undisturbed/fenced-in-time", guard_armed_too_late, "double run"),
        ("undisturbed/no-quorum", everything_is_fenced, "guests are kept"),
        ("undisturbed/leader-changes", leader_fences_too_early, ""),
        ("leaders/unreadable-snapshot", sends_what_it_cannot_read, "the follower catches up"),
        ("leaders/bounded-growth", log_is_kept_for_ever, "bounded disk"),
        ("membership/lost-for-long", lost_voters_are_removed, "all vote again"),
        ("membership/lost-for-long", patience_by_the_wall_clock, "patience"),
        ("membership/spare-that-refuses", invites_the_same_again, "another spare votes"),
        ("membership/learner-that-lags", waits_for_laggards, "another spare votes"),
        ("membership/removed-node-returns", removed_node_is_not_told, "does not know"),
        ("divergence/quarantined", nobody_compares, "quarantine"),
        ("leaders/errors-name-their-cause", damage_without_a_name, "LOG_CORRUPT: ?"),
        ("undisturbed/every-call-ends", patient_commands, "deadline"),
        ("undisturbed/old-lock-holder", tokens_unchecked, "fencing token"),
    ],
)
def test_scenario_notices_a_planted_bug(name, plant, oracle):
    with plant():
        report = run_scenario(name, 1)
    assert report.violations
    assert oracle in " ".join(report.violations)
