"""An image that is declared in a cluster of whole nodes is built, whoever dies meanwhile."""

import pytest

from blixard.cluster.resources import Put
from blixard.simulation.scenarios.stage import Scenario, Stage

pytestmark = pytest.mark.simulation
SPEC = {"packages": ["image-of-a-test"]}


def status(stage):
    """Return the status of the image as the leader has it."""
    leaders = stage.leaders()
    voter = stage.node(leaders[0]).node.voter if leaders else None
    image = voter.machine.store.get("Image", "default", "web") if voter is not None else None
    return image.status if image is not None else {}


def builder_dies(stage):
    """The builder loses power in the middle of a build."""
    uid = stage.admin.new_id()
    stage.commit(Put(kind="Image", namespace="default", name="web", spec=SPEC, uid=uid))
    stage.until(10, lambda: status(stage).get("phase") == "Building", "a build begins")
    first = status(stage)["builder"]
    (host,) = [h for h in stage.world.hosts if stage.node(h).node.identity.name == first]
    stage.crash(host)
    stage.until(60, lambda: status(stage).get("phase") == "Ready", "another builds it")
    told = status(stage)
    stage.expect(told["builder"] != first, "the builder is another")
    stage.expect(told["nodes"] == [told["builder"]], f"{told['nodes']} hold it")
    stage.expect(told["sizeBytes"] > 0 and bool(told["digest"]), "size and digest are told")


@pytest.mark.parametrize("seed", [1, 2])
def test_lost_builders_image_is_built_by_another(seed):
    scenario = Scenario(
        name="images/builder", rows=(), incident="", act=builder_dies, node=True, ends="healed"
    )
    stage = Stage(scenario, seed)
    assert stage.run().violations == ()
