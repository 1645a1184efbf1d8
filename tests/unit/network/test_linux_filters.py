"""What nft is told: whose address leaves a node, and which frames a guest may send."""

from blixard.network.linux import filters
from blixard.ports.network import Endpoint, NetworkView

GUEST = Endpoint(
    instance_uid="a", mac="02:2a:0a:2a:00:02", ip="10.42.0.2", node_uid="n1", node_address="1.1.1.1"
)
VIEW = NetworkView(
    name="default",
    vni=42,
    cidr="10.42.0.0/16",
    gateway="10.42.0.1",
    mtu=1450,
    peers=(),
    endpoints=(GUEST,),
)
ELEMENT = '"blxt1" . 02:2a:0a:2a:00:02 . 10.42.0.2'


def test_only_what_leaves_the_pool_is_translated():
    assert "ip saddr 10.42.0.0/16 ip daddr != 10.42.0.0/16 masquerade" in filters.nat_rules((VIEW,))


def test_answers_are_taken_out_before_translation():
    lines = filters.nat_rules((VIEW,)).splitlines()
    ends = [line.split()[-1] for line in lines if "saddr" in line]
    assert ends == ["accept", "accept", "masquerade"]


def test_a_guest_with_a_tap_here_may_use_its_own_addresses():
    assert ELEMENT in filters.guest_rules((VIEW,), {"a": "blxt1"})


def test_a_guest_elsewhere_is_not_named():
    assert "add element" not in filters.guest_rules((VIEW,), {"b": "blxt1"})


def test_the_last_word_on_a_tap_is_drop():
    rules = filters.guest_rules((VIEW,), {})
    assert [line.strip() for line in rules.splitlines() if line.strip() != "}"][-1] == (
        "counter drop"
    )
