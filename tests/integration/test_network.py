"""The node's network on the real kernel, in namespaces of the test's own."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0 and not os.environ.get("CI"), reason="needs root"),
]
HERE = pathlib.Path(__file__).parent
BRIDGE = "blxtestbr"


def sh(command: str) -> str:
    return subprocess.run(
        command.split(), check=True, capture_output=True, text=True, timeout=30
    ).stdout


@pytest.fixture
def nodes():
    names = ["blxtest-n1", "blxtest-n2"]
    sh(f"ip link add {BRIDGE} type bridge")
    sh(f"ip link set {BRIDGE} up")
    try:
        for n, name in enumerate(names, 1):
            sh(f"ip netns add {name}")
            sh(f"ip link add blxtestv{n} type veth peer name eth0 netns {name}")
            sh(f"ip link set blxtestv{n} master {BRIDGE} up")
            sh(f"ip -n {name} addr add 10.99.0.1{n}/24 dev eth0")
            sh(f"ip -n {name} link set eth0 up")
            sh(f"ip -n {name} link set lo up")
        yield names
    finally:
        for n, name in enumerate(names, 1):
            # A namespace dies later than its name; its cable must be gone for the next test.
            for command in (f"ip link del blxtestv{n}", f"ip netns del {name}"):
                with contextlib.suppress(subprocess.CalledProcessError):
                    sh(command)
        sh(f"ip link del {BRIDGE}")


def act(nodes, own, action):
    script = HERE / "network_node.py"
    out = sh(f"ip netns exec {nodes[own - 1]} {sys.executable} {script} {own} {action}")
    return json.loads(out)


def test_what_is_set_is_what_the_kernel_has(nodes):
    found = act(nodes, 1, "tap")
    assert found["set"] == found["kernel"]
    assert list(found["taps"]) == ["instance1"]


def test_a_restarted_daemon_finds_everything_as_it_was(nodes):
    first = act(nodes, 1, "tap")
    again = act(nodes, 1, "apply")
    assert again["taps"] == first["taps"]
    assert again["set"] == first["set"]


def test_the_overlay_carries_between_nodes(nodes):
    act(nodes, 1, "tap")
    act(nodes, 2, "tap")
    # The second node's bridge takes the second guest's address: what arrives came by the overlay.
    sh(f"ip -n {nodes[1]} addr add 10.42.0.3/32 dev blxb42")
    sh(f"ip -n {nodes[1]} link set blxb42 address 02:2a:0a:2a:00:03")
    sh(f"ip -n {nodes[1]} route add 10.99.0.11/32 dev eth0")
    out = sh(f"ip netns exec {nodes[0]} ping -c 3 -i 0.2 -W 2 -I 10.99.0.11 10.42.0.3")
    assert " 0% packet loss" in out


def test_a_released_tap_is_gone(nodes):
    act(nodes, 1, "tap")
    assert act(nodes, 1, "release")["taps"] == {}


def test_cleaning_up_leaves_nothing(nodes):
    act(nodes, 1, "tap")
    act(nodes, 1, "clean")
    assert "blx" not in sh(f"ip -n {nodes[0]} -o link show")
    assert "masquerade" not in sh(f"ip netns exec {nodes[0]} nft list ruleset")
