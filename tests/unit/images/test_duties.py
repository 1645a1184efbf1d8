"""Which node builds an image, and what its reports leave in the status."""

import pytest
from tests.unit.vms.states import Cluster

from blixard.cluster.resources import Delete, Put
from blixard.images.duties import (
    BUILDS_MAX,
    MESSAGE_MAX,
    NODES_MAX,
    RETRY_FIRST_S,
    RETRY_MAX_S,
    BuildQueue,
    ImageDuty,
    ImageReport,
    shortened,
)
from blixard.node.images import image_changes
from blixard.node.messages import Report, Reports
from blixard.node.views import ClusterView, builds_of
from blixard.ports.guests import GuestRecipe

RECIPE = {"packages": ["nginx"]}


class Images(Cluster):
    def image(self, name="web", **spec):
        uid = self.uid()
        spec = spec or RECIPE
        self.commit(Put(kind="Image", namespace="default", name=name, spec=spec, uid=uid))

    def of(self, name="web"):
        return self.store.get("Image", "default", name)

    def builder(self, name="web"):
        uid = self.of(name).metadata.uid
        duties = builds_of(self.store).items()
        return next((node for node, given in duties if uid in [d.uid for d in given]), "")

    def say(self, phase, node="u1", *, generation=0, epoch=1, items=(), name="web", **told):
        """Report like *node*, commit what it means; return the codes that it gets."""
        image = self.of(name)
        report = ImageReport(
            image.metadata.uid, generation or image.metadata.generation, phase, **told
        )
        return self.send(node, Reports(epoch, items, (report,) if phase else ()))

    def send(self, node, reports):
        changes = image_changes(self.store, self.store.by_uid(node), reports)
        results = self.apply(*changes.ops).results if changes.ops else ()
        return changes.codes(results)


@pytest.fixture
def cluster():
    made = Images()
    made.image()
    return made


def test_each_image_is_one_nodes_duty(cluster):
    for number in range(6):
        cluster.image(f"more-{number}")
    found = builds_of(cluster.store)
    uids = [duty.uid for duties in found.values() for duty in duties]
    assert sorted(uids) == sorted(i.metadata.uid for i in cluster.store.list("Image"))
    assert len(found) > 1


def test_a_node_has_few_duties_at_a_time_and_failed_ones_last():
    cluster = Images(nodes=1)
    for number in range(BUILDS_MAX + 2):
        cluster.image(f"more-{number}")
    cluster.say("Failed", name="more-0")
    duties = [duty.uid for duty in builds_of(cluster.store)["u1"]]
    assert duties == [cluster.of(f"more-{n}").metadata.uid for n in range(1, BUILDS_MAX + 1)]


def test_who_began_goes_on_and_a_lost_nodes_build_goes_to_another(cluster):
    other = next(u for u in ("u1", "u2", "u3") if u != cluster.builder())
    cluster.say("Building", other)
    assert cluster.builder() == other
    cluster.lose(cluster.store.by_uid(other).metadata.name)
    assert cluster.builder() not in ("", other)


@pytest.mark.parametrize("spec", [{"schedulable": False}, {"roles": ["control-plane"]}])
def test_nodes_that_take_no_vms_build_nothing(spec):
    cluster = Images(nodes=1)
    cluster.image()
    node = cluster.store.by_uid("u1")
    cluster.commit(Put(kind="Node", namespace="", name="node1", spec={**node.spec, **spec}))
    assert cluster.builder() == ""


def test_a_changed_recipe_is_built_again(cluster):
    cluster.say("Ready", digest="d", size_bytes=5)
    assert cluster.builder() == ""
    cluster.image(packages=["jq"])
    assert cluster.builder()
    assert cluster.say("Ready", generation=1) == ("NOT_FOUND",)
    cluster.say("Building", "u2")
    assert cluster.of().status == {
        "phase": "Building",
        "observedGeneration": 2,
        "builder": "node2",
    }


def test_a_build_is_told_step_by_step(cluster):
    cluster.say("Building", message="unpacking")
    assert cluster.of().status["message"] == "unpacking"
    cluster.say("Failed", message="no such package")
    assert (cluster.of().status["phase"], cluster.builder()) == ("Failed", "u1")
    cluster.say("Ready", digest="d", size_bytes=5)
    assert cluster.of().status == {
        "phase": "Ready",
        "observedGeneration": 1,
        "builder": "node1",
        "digest": "d",
        "sizeBytes": 5,
        "nodes": ["node1"],
    }


def test_what_came_late_does_not_undo_ready(cluster):
    cluster.say("Ready", digest="d", size_bytes=5)
    before = cluster.of()
    assert cluster.say("Building", "u2") == ("NOT_FOUND",)
    assert cluster.say("Failed", "u3") == ("NOT_FOUND",)
    assert cluster.say("Failed", "u1", epoch=7) == ("FENCED",)
    assert cluster.of() is before


def test_two_reports_from_one_state_conflict(cluster):
    image, node = cluster.of(), cluster.store.by_uid("u1")
    report = ImageReport(image.metadata.uid, 1, "Ready", digest="d", size_bytes=5)
    late = image_changes(cluster.store, node, Reports(1, (), (report,)))
    cluster.say("Building", "u2")
    refused = cluster.apply(*late.ops)
    assert refused.code == "CONFLICT"


def test_reports_of_images_that_are_gone_mean_nothing(cluster):
    gone = ImageReport(cluster.of().metadata.uid, 1, "Ready")
    cluster.commit(Delete(kind="Image", namespace="default", name="web"))
    assert cluster.send("u1", Reports(1, (), (gone, gone))) == ("NOT_FOUND", "NOT_FOUND")


def started(cluster, name, phase="Running"):
    found = cluster.store.get("Instance", "default", name)
    return Report(found.metadata.uid, "default", name, found.spec["run"], {"phase": phase})


def test_nodes_that_start_its_instances_are_noted(cluster):
    cluster.vm(replicas=3, image="web", recipe=None)
    cluster.settle()
    cluster.say("", "u2", items=(started(cluster, "web-1"),))
    assert "nodes" not in cluster.of().status, "nothing is known of an image that is not ready"
    cluster.say("Ready", "u1")
    cluster.say("", "u2", items=(started(cluster, "web-2", "Building"),))
    assert cluster.of().status["nodes"] == ["node1"]
    both = started(cluster, "web-2"), started(cluster, "web-3")
    cluster.say("", "u2", items=both)
    assert cluster.of().status["nodes"] == ["node1", "node2"]
    before = cluster.of()
    cluster.say("", "u2", items=both)
    assert cluster.of() is before


def test_instances_of_an_older_recipe_say_nothing(cluster):
    cluster.vm(replicas=1, image="web", recipe=None)
    cluster.settle()
    cluster.image(packages=["jq"])
    cluster.say("Ready", "u1")
    cluster.say("", "u2", items=(started(cluster, "web-1"),))
    assert cluster.of().status["nodes"] == ["node1"]


def test_the_list_of_nodes_is_bounded_and_forgets_removed_ones():
    cluster = Images(nodes=NODES_MAX + 2)
    cluster.image()
    for number in range(1, NODES_MAX + 2):
        cluster.say("Ready", f"u{number}", digest="d")
    assert len(cluster.of().status["nodes"]) == NODES_MAX
    cluster.commit(Delete(kind="Node", namespace="", name="node3"))
    cluster.say("Ready", f"u{NODES_MAX + 2}", digest="d")
    names = cluster.of().status["nodes"]
    assert "node3" not in names
    assert f"node{NODES_MAX + 2}" in names


def test_only_the_builder_hears_of_an_image(cluster):
    cluster.say("Ready")
    view = ClusterView(cluster.store, {1})
    before = {n.metadata.uid: view.digest(n) for n in cluster.store.list("Node")}
    cluster.say("", "u1")
    cluster.image("tools")
    assert not view.describes(cluster.store, {1})
    after = ClusterView(cluster.store, {1}, view)
    told = [n.metadata.uid for n in cluster.store.list("Node") if after.of(n).images]
    changed = [
        n.metadata.uid
        for n in cluster.store.list("Node")
        if after.digest(n) != before[n.metadata.uid]
    ]
    assert told == changed == [cluster.builder("tools")]
    cluster.say("Building", told[0], name="tools", message="unpacking")
    assert after.describes(cluster.store, {1})
    cluster.say("Ready", told[0], name="tools")
    assert not after.describes(cluster.store, {1})


def test_a_long_failure_keeps_its_end():
    said = shortened("mmdebstrap failed:\n" + "x" * 2000 + "\nthe last line")
    assert len(said) == MESSAGE_MAX
    assert said.startswith("mmdebstrap failed: x")
    assert said.endswith("the last line")


DUTY, OTHER = (ImageDuty(uid, 1, GuestRecipe()) for uid in ("a", "b"))


def test_a_failed_build_waits_longer_each_time_and_lets_others_pass():
    queue = BuildQueue()
    queue.take((DUTY, OTHER), 1)
    now_s, pauses = 0.0, []
    for _ in range(8):
        assert queue.next(now_s) == (DUTY, 0.0)
        queue.ended(DUTY, built=False, now_s=now_s)
        assert queue.next(now_s) == (OTHER, 0.0) if not pauses else queue.next(now_s)[0] is None
        queue.ended(OTHER, built=True, now_s=now_s)
        pauses.append(queue.next(now_s)[1])
        now_s += pauses[-1]
    assert pauses[:3] == [RETRY_FIRST_S, 2 * RETRY_FIRST_S, 4 * RETRY_FIRST_S]
    assert pauses[-1] == RETRY_MAX_S


def test_what_is_built_is_built_again_only_in_a_new_epoch():
    queue = BuildQueue()
    queue.take((DUTY,), 1)
    queue.ended(DUTY, built=True, now_s=0.0)
    queue.take((DUTY,), 1)
    assert queue.next(0.0) == (None, 0.0)
    queue.take((DUTY,), 2)
    assert queue.next(0.0) == (DUTY, 0.0)


def test_a_duty_that_went_is_forgotten_with_its_pause():
    queue = BuildQueue()
    queue.take((DUTY,), 1)
    queue.take((), 1)
    queue.ended(DUTY, built=False, now_s=0.0)
    queue.take((DUTY,), 1)
    assert queue.next(0.0) == (DUTY, 0.0)
