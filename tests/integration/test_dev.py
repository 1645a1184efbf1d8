"""A whole cluster on this machine: up, a guest, a death, down; and nothing is left."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from blixard.app import dev_network as network
from blixard.app import dev_processes as processes
from blixard.app import dev_state
from blixard.app.dev_cluster import DevCluster
from blixard.app.dev_layout import GUESTS

pytestmark = [
    pytest.mark.netns,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.skipif(bool(network.owner()), reason="a cluster runs on this machine"),
    pytest.mark.timeout(420),
]
VM = """
apiVersion: blixard.dev/v1
kind: VM
metadata: {name: small}
spec: {replicas: 1, memory: 160MiB, onPartition: fence, recipe: {packages: []}}
"""


@pytest.fixture
def cluster():
    # Hypervisors run as users of their own: no directory on the way may be closed to them.
    directory = f"/var/tmp/blixard-dev-test-{os.getpid()}"
    said = []
    made = DevCluster(directory, said.append)
    made.said = said
    yield made
    made.down()


def blixard(cluster, *arguments, timeout=30):
    address = ",".join(p.socket for p in cluster.places)
    done = subprocess.run(
        [sys.executable, "-m", "blixard.app.main", "--address", address, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait(reached, seconds):
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def leftovers(directory, guards):
    groups = [
        g for name in guards for g in pathlib.Path("/sys/fs/cgroup").glob(f"*/blixard/{name}")
    ]
    route = network.command(["ip", "route", "show", GUESTS])
    tables = network.command(["nft", "list", "tables"])
    found = [*network.namespaces(), *network.links(), *map(str, groups)]
    found += [line for line in (route.strip(),) if line]
    found += [line for line in tables.splitlines() if "blixard_dev" in line]
    return found + ([directory] if os.path.exists(directory) else [])


def members(cluster):
    return [pid for p in cluster.places for pid in processes.members(p.namespace)]


def test_cluster_comes_and_goes_without_a_trace(cluster):
    cluster.up(3)
    assert len(cluster.cluster_state()["voters"]) == 3
    cluster.up(3)
    assert cluster.said[-1] == "it is up already"
    pids, guards = members(cluster), dev_state.guard_names(cluster.directory)
    cluster.down()
    cluster.down()
    assert leftovers(cluster.directory, guards) == []
    assert [pid for pid in pids if processes.start_time(pid)] == []


def test_writes_go_on_after_the_leader_dies(cluster):
    cluster.up(3)
    leader = cluster.cluster_state()["leaderName"]
    assert cluster.kill(leader) != "nothing"
    assert processes.members(cluster.place(leader).namespace) == []
    wait(lambda: cluster.cluster_state().get("leaderName") not in ("", None, leader), 20)
    assert "set" in blixard(cluster, "kv", "put", "a/b", "c")
    cluster.start(leader)
    assert len(cluster.live()) == 3


def test_half_made_cluster_is_removed(cluster):
    cluster.up(1)
    pathlib.Path(cluster.directory, dev_state.STATE).unlink()
    pids, guards = members(cluster), dev_state.guard_names(cluster.directory)
    cluster.down()
    assert leftovers(cluster.directory, guards) == []
    assert [pid for pid in pids if processes.start_time(pid)] == []


def test_interrupted_demo_leaves_nothing(cluster):
    argv = [*processes.blixard("dev", "demo"), "--dir", cluster.directory]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as demo:
        for line in demo.stderr:
            if "node1 runs" in line:
                break
        guards = dev_state.guard_names(cluster.directory)
        demo.send_signal(signal.SIGTERM)
        assert "removing the cluster" in demo.stderr.read()
    assert demo.returncode == 143
    assert leftovers(cluster.directory, guards) == []


# Counts in the guest's memory, and tells it on every connection as often as it is asked.
COUNTER = """
import os, socket, threading, time
door = socket.create_server(("0.0.0.0", 7000))
if os.fork():
    os._exit(0)
os.setsid()
null = os.open("/dev/null", os.O_RDWR)
for number in range(3):
    os.dup2(null, number)
count = 0
def serve():
    client = door.accept()[0]
    while client.recv(1):
        client.sendall(b"%d\\n" % count)
threading.Thread(target=serve, daemon=True).start()
while True:
    count += 1
    time.sleep(0.01)
"""


def instance(cluster):
    return json.loads(blixard(cluster, "get", "instances", "-o", "json"))["items"][0]


@pytest.mark.guest
def test_guest_moves_with_its_memory_and_starts_anew_after_a_death(cluster, tmp_path):
    cluster.up(3)
    manifest = tmp_path / "vm.yaml"
    manifest.write_text(VM)
    blixard(cluster, "apply", "-f", str(manifest))
    blixard(cluster, "wait", "vm/small", "--timeout", "200s", timeout=210)
    first = instance(cluster)
    source, address = first["spec"]["nodeName"], first["spec"]["ip"]
    assert processes.guests(cluster.place(source).namespace) == 1
    blixard(cluster, "vm", "exec", "small-1", "--", "python3", "-c", COUNTER)
    with socket.create_connection((address, 7000), timeout=30) as connection:
        counts = asked(connection), moved(cluster, source), asked(connection)
    before, node, after = counts
    assert 0 < before < after
    wait(lambda: processes.guests(cluster.place(source).namespace) == 0, 30)
    cluster.kill(node)

    def elsewhere():
        found = instance(cluster)
        return found["status"].get("ready") and found["spec"]["nodeName"] != node

    wait(elsewhere, 120)
    pids, guards = members(cluster), dev_state.guard_names(cluster.directory)
    cluster.down()
    assert leftovers(cluster.directory, guards) == []
    assert [pid for pid in pids if processes.start_time(pid)] == []


def asked(connection):
    connection.sendall(b"?")
    return int(connection.recv(100))


def moved(cluster, source):
    """Move the guest to where the placement wants it, and return where that is."""
    blixard(cluster, "vm", "migrate", "small-1", "--timeout", "60s", timeout=70)
    now = instance(cluster)
    assert now["spec"]["nodeName"] != source
    assert now["status"]["restarts"] == 0
    assert "Succeeded" in blixard(cluster, "get", "migrations")
    return now["spec"]["nodeName"]
