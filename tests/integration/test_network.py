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
CLIENT = "blxtest-c"
MAC, IP = "02:2a:0a:2a:00:03", "10.42.0.3"
# Binds, says where, asks if there is whom, and prints what comes and from where.
ASK = """
import socket, sys
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own.settimeout(5)
own.bind(("10.99.0.20", 5353))
print("bound", flush=True)
if len(sys.argv) > 1:
    own.sendto(b"who am I", (sys.argv[1], 53))
text, sender = own.recvfrom(100)
print(text.decode(), *sender)
"""


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


@pytest.fixture
def client(nodes):
    """A machine outside; its way to the guests is the first node."""
    try:
        sh(f"ip netns add {CLIENT}")
        sh(f"ip link add blxtestvc type veth peer name eth0 netns {CLIENT}")
        sh(f"ip link set blxtestvc master {BRIDGE} up")
        sh(f"ip -n {CLIENT} addr add 10.99.0.20/24 dev eth0")
        sh(f"ip -n {CLIENT} link set eth0 up")
        sh(f"ip -n {CLIENT} route add 10.42.0.0/16 via 10.99.0.11")
        yield CLIENT
    finally:
        for command in ("ip link del blxtestvc", f"ip netns del {CLIENT}"):
            with contextlib.suppress(subprocess.CalledProcessError):
                sh(command)


@contextlib.contextmanager
def running(namespace, *command):
    """Run a Python program in a namespace until the block ends; it has said its first line."""
    process = subprocess.Popen(
        ["ip", "netns", "exec", namespace, sys.executable, *command],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def guest(nodes, *words):
    tap = act(nodes, 2, "tap")["taps"]["instance2"]
    return running(nodes[1], str(HERE / "network_guest.py"), tap, MAC, IP, *words)


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


def test_an_answer_by_another_node_comes_from_the_guest(nodes, client):
    act(nodes, 1, "tap")
    with guest(nodes, "answer"), running(client, "-c", ASK, IP) as asking:
        said = asking.communicate(timeout=20)[0]
    # The guest saw the client's own address, and the client the guest's.
    assert said.split() == ["10.99.0.20", IP, "53"]


def test_a_guest_speaks_for_itself_alone(nodes, client):
    act(nodes, 1, "tap")
    with running(client, "-c", ASK) as listening:
        with guest(nodes, "lie", "10.99.0.20", "5353") as lying:
            lying.wait(20)
        said = listening.communicate(timeout=20)[0]
    # What it sends of its own accord leaves with its node's address; the lies came first.
    assert said.split()[:2] == ["honest", "10.99.0.12"]
    rules = sh(f"ip netns exec {nodes[1]} nft list chain bridge blixard arriving")
    dropped = int(rules.partition("counter packets ")[2].split()[0])
    assert dropped >= 3
