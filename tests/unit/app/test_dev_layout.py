"""Names, texts and entries of a cluster on one machine."""

import tomllib

from blixard.app import dev_layout as layout
from blixard.app.dev_layout import Machine
from blixard.base.config_keys import KEYS

D = "/srv/dev"


def test_nodes_have_their_own_addresses():
    found = layout.places(D, 3)
    assert [p.name for p in found] == ["node1", "node2", "node3"]
    assert [p.address for p in found] == ["10.77.0.11", "10.77.0.12", "10.77.0.13"]
    assert layout.place_named(found, "node2") == found[1]
    assert layout.place_named(found, "node9") is None


def test_link_names_fit_the_kernel():
    for place in layout.places(D, layout.NODES_MAX):
        assert len(place.port) <= 15


def test_socket_path_fits_the_kernel():
    assert len(layout.places("/var/lib/blixard-dev", 9)[-1].socket) < 108


def test_only_our_namespaces_are_ours():
    assert layout.is_node_namespace("blxdev-node1")
    assert not layout.is_node_namespace("blxdev-node10")
    assert not layout.is_node_namespace("blxdev-mine")
    assert not layout.is_node_namespace("node1")


def test_configuration_has_known_keys():
    place = layout.places(D, 3)[1]
    text = layout.config_text(place, Machine(9000, 4, "/cache", "staff"), 3)
    found = tomllib.loads(text)
    known = {key.path for key in KEYS}
    assert {f"{s}.{k}" for s, keys in found.items() for k in keys} <= known
    assert found["node"] == {"memory_mb": 2550, "vcpus": 4}
    assert found["cluster"]["data_dir"] == "/srv/dev/node2/data"
    assert found["api"]["socket_group"] == "staff"


def test_context_goes_in_and_out_again():
    before = 'current = "prod"\n\n[contexts."prod"]\naddress = "10.0.0.1:7443"\n'
    during = layout.with_context(before, "/a,/b")
    assert tomllib.loads(during)["current"] == "dev"
    assert tomllib.loads(during)["contexts"]["dev"] == {"address": "/a,/b"}
    assert tomllib.loads(layout.without_context(during)) == tomllib.loads(before)


def test_context_is_made_the_default_over_another():
    before = 'current = "prod"\n[contexts."prod"]\naddress = "10.0.0.1:7443"\n'
    assert tomllib.loads(layout.with_context(before, "/a"))["current"] == "dev"


def test_context_file_of_ours_alone_ends_empty():
    assert layout.without_context(layout.with_context("", "/a")).strip() == ""


def test_writing_the_context_twice_changes_nothing():
    once = layout.with_context("", "/a")
    assert layout.with_context(once, "/a") == once
