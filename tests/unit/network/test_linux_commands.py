"""What is said to the kernel: entries for local and remote guests, and their changes."""

import msgspec

from blixard.network.linux import commands as c
from blixard.ports.network import Endpoint, NetworkView

LOCAL = Endpoint(
    instance_uid="a", mac="02:2a:0a:2a:00:02", ip="10.42.0.2", node_uid="n1", node_address="1.1.1.1"
)
REMOTE = Endpoint(
    instance_uid="b", mac="02:2a:0a:2a:00:03", ip="10.42.0.3", node_uid="n2", node_address="1.1.1.2"
)
VIEW = NetworkView(
    name="default",
    vni=42,
    cidr="10.42.0.0/16",
    gateway="10.42.0.1",
    mtu=1450,
    peers=("1.1.1.2",),
    endpoints=(LOCAL, REMOTE),
)


def test_a_guest_elsewhere_is_behind_the_overlay():
    found = c.entries(VIEW, "n1", {})
    assert c.Entry("self", "blxv42", REMOTE.mac, "1.1.1.2") in found
    assert c.Entry("master", "blxv42", REMOTE.mac) in found


def test_a_local_guest_is_on_its_tap_once_it_exists():
    assert not any(e.device == "blxt1" for e in c.entries(VIEW, "n1", {}))
    assert c.Entry("master", "blxt1", LOCAL.mac) in c.entries(VIEW, "n1", {"a": "blxt1"})


def test_every_address_is_a_known_neighbour():
    found = c.entries(VIEW, "n1", {"a": "blxt1"})
    neighbours = {entry.key for entry in found if entry.table == "neigh"}
    assert neighbours == {"10.42.0.2", "10.42.0.3"}


def test_unknown_traffic_goes_to_every_peer():
    assert c.Entry("flood", "blxv42", "00:00:00:00:00:00", "1.1.1.2") in c.entries(VIEW, "n1", {})


def test_nothing_changed_means_nothing_said():
    same = c.entries(VIEW, "n1", {})
    assert c.entry_lines(same - same, same - same) == ([], [])


def test_a_guest_that_moves_here_leaves_the_overlay():
    before = c.entries(VIEW, "n1", {})
    moved = msgspec.structs.replace(REMOTE, node_uid="n1", node_address="1.1.1.1")
    view = msgspec.structs.replace(VIEW, endpoints=(LOCAL, moved))
    after = c.entries(view, "n1", {"b": "blxt2"})
    bridge_lines, _ = c.entry_lines(after - before, before - after)
    assert f"fdb del {REMOTE.mac} dev blxv42 master" in bridge_lines
    assert f"fdb replace {REMOTE.mac} dev blxt2 master static" in bridge_lines


def test_names_fit_the_kernel():
    assert len(c.tap_name("01M7YBSNFXWRWE3ZMMY7H2YBGW")) <= 15
    assert len(c.bridge_name(16_777_215)) <= 15
