"""The leader's decisions on migrations, and what apply enforces of them whoever asks."""

from __future__ import annotations

import msgspec
import pytest

from blixard.cluster.moves import move_problem
from blixard.cluster.resources import Delete, PatchStatus, Put
from blixard.node.views import ClusterView, may_start
from blixard.vms import migrations
from blixard.vms.migration_rules import instance_problems
from blixard.vms.moves import FINISHED_KEPT, MoveWord
from tests.unit.vms.states import Cluster


class Moves(Cluster):
    """web-1 runs on node1; words of nodes are answered as the leader does."""

    def __init__(self, **spec):
        super().__init__()
        self.vm(replicas=1, **spec)
        self.settle()
        self.all_ready()
        self.home = self.web.spec["nodeName"]
        self.other = "node2" if self.home != "node2" else "node3"

    @property
    def web(self):
        return self.store.get("Instance", "default", "web-1")

    def migration(self, name="m"):
        return self.store.get("Migration", "default", name)

    def wish(self, name="m", **spec):
        spec = {"instance": "web-1", **spec}
        put = Put(kind="Migration", namespace="default", name=name, uid=self.uid(), spec=spec,
                  expect=0)  # fmt: skip
        return self.apply(put)

    def migrate(self, *, overdue=frozenset()):
        for ops in migrations.MigrationPlanner(self.store, now_ms=7, overdue=overdue).plan():
            self.commit(*ops)

    def word(self, said, node, epoch=1):
        uid = self.store.get("Node", "", node).metadata.uid
        word = MoveWord(self.web.metadata.uid, self.migration().metadata.uid, epoch, said, "why")
        answer, ops = migrations.answer(self.store, uid, word, now_ms=8)
        if ops:
            outcome = self.apply(*ops)
            return not outcome.code
        return answer.done

    def begin(self, **spec):
        assert not self.wish(targetNode=self.other, **spec).code
        self.migrate()

    def copying(self):
        self.begin()
        assert self.word("prepared", self.other)

    def phase(self):
        return self.migration().status.get("phase"), self.migration().status.get("reason")

    def may_run(self, node, run):
        uid = self.store.get("Node", "", node).metadata.uid
        return may_start(self.store, uid, uid=self.web.metadata.uid, run=run, epoch=1)


@pytest.fixture
def moves():
    return Moves()


def test_all_problems_are_told_at_once():
    moves = Moves(persistent=True)
    moves.report("web-1", phase="Starting")
    moves.lose(moves.other)
    outcome = moves.wish(targetNode=moves.other)
    assert outcome.code == "INVARIANT"
    for part in ("persistent", "web-1 is Starting", f"{moves.other} is Lost"):
        assert part in outcome.message
    assert "does not exist" in moves.wish(instance="none", targetNode="node77").message


def test_an_instance_with_local_volumes_stays(moves):
    moves.begin()
    with_move = {**moves.web.spec, "volumes": [{"name": "data", "backend": "local"}]}
    without = {key: value for key, value in with_move.items() if key != "migration"}
    old, new = (msgspec.structs.replace(moves.web, spec=spec) for spec in (without, with_move))
    assert "without data on its node" in move_problem(moves.store, old, new)
    assert not move_problem(moves.store, old, old)
    assert instance_problems(old) == [f"the data of web-1 is on {moves.home}: volume data"]


def test_one_migration_of_an_instance_at_a_time(moves):
    moves.begin()
    assert "migration m of it is under way" in moves.wish("n").message


def test_a_move_reserves_on_both_nodes_until_it_is_switched_or_taken_back(moves):
    source, target = moves.web.spec["node"], moves.store.get("Node", "", moves.other).metadata.uid
    before = moves.store.reserved(source)
    moves.copying()
    assert moves.store.reserved(source) == moves.store.reserved(target) == before
    assert moves.word("paused", moves.home)
    assert (moves.store.reserved(source), moves.store.reserved(target)) == ((0, 0), before)


def test_the_target_is_told_of_what_is_to_come(moves):
    moves.begin()
    view = ClusterView(moves.store, {1})
    (coming,) = view.of(moves.store.get("Node", "", moves.other)).assignments
    (own,) = view.of(moves.store.get("Node", "", moves.home)).assignments
    assert (coming.incoming, own.incoming) == (True, False)


def test_whole_way_of_a_migration(moves):
    moves.copying()
    assert moves.phase()[0] == "Copying"
    assert not moves.may_run(moves.home, 1)
    assert not moves.may_run(moves.other, 2)
    assert moves.word("paused", moves.home)
    assert moves.word("paused", moves.home), "a repeated question has the same answer"
    assert moves.phase()[0] == "Switching"
    assert (moves.web.spec["nodeName"], moves.web.spec["run"]) == (moves.other, 2)
    assert not moves.may_run(moves.home, 1)
    assert moves.may_run(moves.other, 2)
    moves.migrate()
    assert moves.phase()[0] == "Switching"
    arrived = moves.migration().metadata.uid
    moves.report("web-1", phase="Running", ready=True, arrivedBy=arrived, arrivalMs=3)
    moves.migrate()
    assert moves.phase() == ("Succeeded", "")


def test_a_target_that_starts_anew_says_that_the_memory_was_lost(moves):
    moves.copying()
    moves.word("paused", moves.home)
    moves.report("web-1", phase="Building")
    moves.migrate()
    assert moves.phase() == ("Failed", f"its memory was lost: it starts anew on {moves.other}")


@pytest.mark.parametrize("who", ["home", "other"])
def test_either_side_can_take_it_back_and_then_no_switch_is_possible(moves, who):
    moves.copying()
    assert moves.word("failed", getattr(moves, who))
    assert moves.phase() == ("Failed", "why")
    assert moves.may_run(moves.home, 1)
    assert not moves.word("paused", moves.home)
    assert moves.web.spec["nodeName"] == moves.home


def test_words_of_others_and_of_older_epochs_count_nothing(moves):
    moves.copying()
    third = ({"node1", "node2", "node3"} - {moves.home, moves.other}).pop()
    for said, node, epoch in (
        ("paused", moves.other, 1), ("paused", third, 1), ("paused", moves.home, 0),
        ("failed", third, 1), ("prepared", moves.home, 1),
    ):  # fmt: skip
        assert not moves.word(said, node, epoch)
    assert moves.phase()[0] == "Copying"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.lose(m.other), "was lost"),
        (lambda m: m.lose(m.home), "its node was lost"),
        (lambda m: m.patch("Node", m.other, removing=True), "is to be removed"),
        (lambda m: m.report("web-1", phase="Failed"), "the guest is Failed"),
        (lambda m: m.commit(Delete(kind="Migration", namespace="default", name="m")), "deleted"),
    ],
)
def test_what_cannot_go_on_is_rolled_back(moves, change, reason):
    moves.copying()
    change(moves)
    moves.migrate()
    assert "migration" not in moves.web.spec
    moves.migrate()
    if moves.migration() is not None:
        assert moves.phase()[0] == "Failed"
        assert reason in moves.phase()[1]


def test_deadline_rolls_back(moves):
    moves.copying()
    moves.migrate(overdue=frozenset({moves.migration().metadata.uid}))
    assert moves.phase() == ("Failed", "its deadline passed")
    assert "migration" not in moves.web.spec


@pytest.mark.parametrize(
    "spec", [{"running": False}, {"memory": 256}, {"recipe": {"packages": ["curl"]}}]
)
def test_a_change_of_the_vm_ends_its_migration(moves, spec):
    moves.copying()
    moves.vm(replicas=1, **spec)
    moves.settle()
    assert "migration" not in moves.web.spec
    moves.migrate()
    assert moves.phase()[0] == "Failed"


def test_a_change_that_does_not_touch_the_guest_leaves_it():
    moves = Moves(onPartition="keep")
    moves.copying()
    moves.vm(replicas=2, onPartition="keep")
    moves.settle()
    assert moves.web.spec["migration"]["step"] == "copy"


def moved(moves, **changes):
    spec = {k: v for k, v in moves.web.spec.items() if k != "migration"}
    target = moves.store.get("Node", "", moves.other).metadata.uid
    spec |= {"node": target, "nodeName": moves.other, "run": 2, **changes}
    return Put(kind="Instance", namespace="default", name="web-1", spec=spec)


def said_paused(moves, uid):
    uid_of = moves.web.metadata.uid
    return PatchStatus(kind="Instance", namespace="default", name="web-1", uid=uid_of,
                       status={"pausedFor": uid}, node_uid=moves.web.spec["node"], node_epoch=1,
                       run=1)  # fmt: skip


def test_nobody_moves_an_instance_that_was_not_paused_for_it(moves):
    moves.copying()
    refusal = moves.apply(moved(moves))
    assert (refusal.code, refusal.message) == (
        "INVARIANT", f"it may still run on {moves.home}",
    )  # fmt: skip
    moves.commit(said_paused(moves, "another"))
    assert moves.apply(moved(moves)).code == "INVARIANT"


@pytest.mark.parametrize(
    "changes", [{"run": 3}, {"nodeEpoch": 2}, {"fenced": False}, {"vcpus": 2}, {"guardSeq": 9}]
)
def test_a_switch_changes_nothing_but_the_place(moves, changes):
    moves.copying()
    moves.commit(said_paused(moves, moves.migration().metadata.uid))
    assert moves.apply(moved(moves, **changes)).code == "INVARIANT"
    assert moves.apply(moved(moves)).code == ""


def test_no_switch_after_a_roll_back_nor_to_a_lost_node(moves):
    moves.copying()
    moves.commit(said_paused(moves, moves.migration().metadata.uid))
    moves.lose(moves.other)
    assert moves.apply(moved(moves)).code == "INVARIANT"
    moves.commit(*migrations.roll_back(moves.web))
    moves.patch("Node", moves.other, state="Ready", epoch=1 + 1)
    assert moves.apply(moved(moves)).code == "INVARIANT"


def test_finished_migrations_are_kept_in_bounds(moves):
    for number in range(FINISHED_KEPT + 3):
        uid = moves.uid()
        moves.commit(
            Put(kind="Migration", namespace="default", name=f"old{number}", uid=uid, expect=0,
                spec={"instance": "web-1"}),
            PatchStatus(kind="Migration", namespace="default", name=f"old{number}", uid=uid,
                        status={"phase": "Failed", "endedAtMs": number}),
        )  # fmt: skip
    moves.migrate()
    left = {m.metadata.name for m in moves.store.list("Migration")}
    assert left == {f"old{n}" for n in range(3, FINISHED_KEPT + 3)}


def test_specs_without_a_migration_are_stored_as_before():
    spec = Moves().web.spec
    assert "migration" not in spec
    assert "pausedFor" not in Moves().web.status
    assert msgspec.json.encode(spec)
