"""What the cache of guests takes for whole, and what it does not."""

import asyncio

from blixard.guest.bundle import agent_source
from blixard.images.debian import layout
from blixard.images.debian.builder import META, DebianGuestBuilder
from blixard.ports.guests import BuiltGuest, GuestRecipe

RECIPE = GuestRecipe(packages=("nginx-light",))
KEY = layout.recipe_key(RECIPE, agent_source())


def put(cache, text):
    runner = cache / "runners" / KEY
    runner.mkdir(parents=True)
    (runner / META).write_text(text)


def test_an_empty_description_is_no_image(tmp_path):
    put(tmp_path, "")
    assert asyncio.run(DebianGuestBuilder(str(tmp_path)).images()) == []


def test_a_kept_image_needs_no_tool(tmp_path):
    put(tmp_path, '{"runner": "/r", "digest": "d", "sizeBytes": 1, "buildS": 2.0}')
    said = []
    built = asyncio.run(DebianGuestBuilder(str(tmp_path)).build(RECIPE, said.append))
    assert built == BuiltGuest(runner="/r", digest="d", size_bytes=1, build_s=2.0)
    assert said == []


def test_order_of_packages_does_not_matter():
    one = GuestRecipe(packages=("a1", "b2", "a1"))
    assert layout.recipe_key(one, "") == layout.recipe_key(GuestRecipe(packages=("b2", "a1")), "")
