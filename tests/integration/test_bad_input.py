"""What bad input gets, from real daemons through the real command line."""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Iterator

import pytest
from control_plane import ControlPlane, NodeUnderTest, control_plane, sh, until

from blixard.ports.guests import GuestRecipe, GuestService

pytestmark = [pytest.mark.netns, pytest.mark.slow]

WRONG = """\
apiVersion: blixard.dev/v1
kind: VM
metadata:
  name: web
spec:
  replicas: many
  memory: 12parsecs
  vcpus: 0
  restartPolicy: Sometimes
  colour: blue
---
apiVersion: blixard.dev/v1
kind: VM
metadata:
  name: Bad_Name
spec:
  vcpus: 65
---
kind: Spaceship
metadata: {name: x}
"""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with control_plane(tmp_path_factory.mktemp("plane")) as found:
        yield found


@pytest.fixture(scope="module")
def node(plane: ControlPlane) -> NodeUnderTest:
    return plane.nodes[0]


def vm(name: str, *, memory: str = "256MiB", replicas: int = 1, spec: str = "") -> str:
    return (
        f"apiVersion: blixard.dev/v1\nkind: VM\nmetadata: {{name: {name}}}\n"
        f"spec:\n  replicas: {replicas}\n  memory: {memory}\n{spec}"
    )


# -- a wrong file --


def test_wrong_file_shows_every_problem(node: NodeUnderTest) -> None:
    path = node.plane.root / "wrong.yaml"
    path.write_text(WRONG)
    ran = node.cli("apply", "-f", str(path))
    assert ran.code == 2
    for place, what, accepted in (
        ("6:13", "spec.replicas: must be a whole number", ""),
        ("7:11", "spec.memory: '12parsecs' is no size", ""),
        ("8:10", "spec.vcpus: 0 is out of range", "at least 1"),
        ("9:18", "spec.restartPolicy: 'Sometimes'", "Always, Never, OnFailure"),
        ("10:3", "spec.colour: unknown field", "image, memory, network"),
        ("15:9", "metadata.name: 'Bad_Name' is no name", "lower-case letters"),
        ("17:10", "spec.vcpus: 65 is out of range", "at most 64"),
        ("19:1", "apiVersion: missing", "blixard.dev/v1"),
        ("19:7", "kind: there is no kind 'Spaceship'", "vms, instances, images"),
    ):
        assert f"{path}:{place}: {what}" in ran.err, ran.err
        assert accepted in ran.err.partition(what)[2]
    assert node.json("get", "vms")["items"] == []


def test_broken_yaml_names_line_and_column(node: NodeUnderTest) -> None:
    ran = node.cli("apply", "-f", "-", stdin="spec:\n  a: b: c\n")
    assert ran.code == 2
    assert "standard input:2:7: " in ran.err
    assert "not valid YAML" in ran.err


def test_findings_as_json(node: NodeUnderTest) -> None:
    ran = node.cli("apply", "-f", "-", "-o", "json", stdin=WRONG)
    found = json.loads(ran.err)["details"]["findings"]
    assert ran.code == 2
    places = [(f["pointer"], f["line"], f["column"]) for f in found]
    assert ("/spec/vcpus", 8, 10) in places


# -- a VM that fits nowhere --


def test_vm_that_fits_nowhere_waits(node: NodeUnderTest) -> None:
    applied = node.cli("apply", "-f", "-", stdin=vm("big", memory="64GiB", replicas=2, spec=NGINX))
    assert applied.code == 0, applied.err
    until(lambda: "fits nowhere" in node.cli("vm", "status", "big").out, 10)
    status = node.json("get", "vms", "big")["status"]
    assert status["phase"] == "Pending"
    # An eighth of a node is kept for functions.
    assert "1 node: 1792 MiB memory free, 65536 needed" in status["message"]
    assert node.cli("delete", "vm", "big", "--yes").code == 0


NGINX = "  recipe: {packages: [nginx]}\n"


def test_vm_name_taken(node: NodeUnderTest) -> None:
    assert node.cli("vm", "create", "twice", "--packages", "nginx", "--stopped").code == 0
    ran = node.cli("vm", "create", "twice", "--packages", "nginx")
    assert ran.code == 5
    assert "error[ALREADY_EXISTS]: VM default/twice exists" in ran.err
    assert node.cli("delete", "vm", "twice", "--yes").code == 0


# -- joining --


@pytest.fixture(scope="module")
def stranger(plane: ControlPlane) -> NodeUnderTest:
    """A machine that is no member; joins that are refused leave it so."""
    return plane.add()


def refused(stranger: NodeUnderTest, token: str, *words: str) -> tuple[int, str]:
    ran = stranger.local("cluster", "join", "--token-file", token, "--timeout", "10s", *words)
    assert not (stranger.data_dir / "identity.json").exists()
    return ran.code, ran.err


def test_used_token(plane: ControlPlane, stranger: NodeUnderTest) -> None:
    token = plane.token()
    member = plane.add()
    assert member.local("cluster", "join", "--token-file", token).code == 0
    code, said = refused(stranger, token)
    assert code == 5
    assert f"error[JOIN_TOKEN_USED]: the token was used by {member.name}" in said


def test_expired_token(plane: ControlPlane, stranger: NodeUnderTest) -> None:
    token = plane.token("--expires", "500ms")
    time.sleep(0.6)
    code, said = refused(stranger, token)
    assert code == 4
    assert "error[JOIN_TOKEN_EXPIRED]" in said
    assert "cluster add-node" in said


def test_token_of_another_cluster(
    plane: ControlPlane, stranger: NodeUnderTest, tmp_path: pathlib.Path
) -> None:
    with control_plane(tmp_path) as other:
        token = other.token()
    code, said = refused(stranger, token, "--server", plane.nodes[0].address)
    assert code == 8
    assert f"error[CA_MISMATCH]: {plane.nodes[0].address}:7443" in said


def test_damaged_token(plane: ControlPlane, stranger: NodeUnderTest) -> None:
    path = pathlib.Path(plane.token())
    text = path.read_text().strip()
    path.write_text(text[:40] + ("A" if text[40] != "A" else "B") + text[41:])
    code, said = refused(stranger, str(path))
    assert code == 2
    assert "error[JOIN_TOKEN_DAMAGED]" in said


def test_token_bound_to_another_name(plane: ControlPlane, stranger: NodeUnderTest) -> None:
    code, said = refused(stranger, plane.token("--node-id", "somebody"))
    assert code == 4
    assert "error[JOIN_NAME_MISMATCH]: the token is for somebody" in said


def test_node_name_taken(plane: ControlPlane, stranger: NodeUnderTest) -> None:
    code, said = refused(stranger, plane.token(), "--node-id", "node1")
    assert code == 5
    assert "error[NODE_NAME_TAKEN]: a node named node1 exists" in said


def test_data_directory_of_a_member(plane: ControlPlane) -> None:
    ran = plane.nodes[0].local("cluster", "join", "--token-file", plane.token())
    assert ran.code == 5
    assert "holds a node already" in ran.err


def test_node_id_used_again_after_removal(plane: ControlPlane, node: NodeUnderTest) -> None:
    member = plane.join()
    old = node.json("get", "nodes", member.name)
    assert node.cli("cluster", "remove-node", member.name, "--yes").code == 0
    until(lambda: '"node_removed"' in member.log(), 20, member.log)
    asked = member.cli("cluster", "status", "--timeout", "5s")
    assert (asked.code, "error[NODE_REMOVED]" in asked.err) == (4, True)
    member.kill()
    token = plane.token()
    again = member.local("cluster", "join", "--token-file", token)
    assert (again.code, "error[WRONG_CLUSTER]" in again.err) == (5, True)
    fresh = member.local(
        "cluster", "join", "--token-file", token, "--data-dir", f"{member.data_dir}-2"
    )
    assert fresh.code == 0, fresh.err
    new = node.json("get", "nodes", member.name)
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    assert new["spec"]["raftId"] > old["spec"]["raftId"]
    assert node.cli("cluster", "remove-node", member.name, "--yes").code == 0


# -- no quorum --


def test_no_quorum_answers_within_the_deadline(tmp_path: pathlib.Path) -> None:
    with control_plane(tmp_path, 3) as plane:
        first, *others = plane.nodes
        assert first.cli("kv", "put", "app/color", "blue").code == 0
        for other in others:
            other.kill()
        until(lambda: first.cli("cluster", "status", "--timeout", "2s").code == 8, 20)
        # COMMAND_S would end a command that hangs.
        write = first.cli("kv", "put", "app/color", "red", "--timeout", "3s")
        assert (write.code, "error[NO_QUORUM]" in write.err) == (8, True), write.err
        read = first.cli("kv", "get", "app/color", "--timeout", "3s")
        assert (read.code, "error[NO_QUORUM]" in read.err) == (8, True), read.err
        assert first.cli("kv", "get", "app/color", "--stale").out == "blue\n"
        status = first.cli("cluster", "status", "--timeout", "3s")
        assert "no quorum: a majority of the voters does not answer" in status.out
        others[0].start()
        others[0].wait_up()
        assert first.cli("kv", "put", "app/color", "green").code == 0


# -- the disk --


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system of 64 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    sh("mount", "-t", "tmpfs", "-o", "size=64m,mode=0755", "none", str(place))
    yield place
    sh("umount", "--lazy", str(place))


def fill(path: pathlib.Path) -> None:
    with path.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            if os.statvfs(path).f_bavail == 0:
                return


def test_full_disk_refuses_writes_and_recovers(
    small_disk: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    plane = ControlPlane(tmp_path)
    try:
        plane.make_hub()
        node = plane.found(data_dir=small_disk / "data")
        assert node.cli("kv", "put", "app/color", "blue").code == 0
        fill(small_disk / "filler")
        until(lambda: '"disk_full"' in node.log(), 20, node.log)
        write = node.cli("kv", "put", "app/color", "red")
        assert (write.code, "error[DISK_FULL]" in write.err) == (1, True), write.err
        assert node.cli("kv", "get", "app/color").out == "blue\n"
        status = node.cli("cluster", "status")
        assert status.code == 0
        assert "disk full: the data directory of node1 has no room" in status.out
        (small_disk / "filler").unlink()
        until(lambda: node.cli("kv", "put", "app/color", "green").code == 0, 20, node.log)
        assert "disk full" not in node.cli("cluster", "status").out
    finally:
        plane.remove()


def test_damaged_log_refuses_to_start(tmp_path: pathlib.Path) -> None:
    with control_plane(tmp_path) as plane:
        node = plane.nodes[0]
        for number in range(10):
            assert node.cli("kv", "put", f"app/{number}", "x" * 50).code == 0
        assert node.stop() == 0
        segment = max((node.data_dir / "raft" / "log").glob("*.log"))
        data = bytearray(segment.read_bytes())
        data[len(data) // 2] ^= 1
        segment.write_bytes(data)
        node.log_path.unlink()
        node.start()
        assert node.daemon is not None
        code = node.daemon.wait(30)
        said = node.log()
        assert code == 1
        assert f"error[LOG_CORRUPT]: {segment} at byte " in said
        assert "cluster force-remove-node node1" in said
        assert f"empty {node.data_dir}, then blixard cluster join" in said
        assert "Traceback" not in said


# -- guests --


@pytest.mark.guest
def test_unknown_package_is_named(node: NodeUnderTest) -> None:
    image = (
        "apiVersion: blixard.dev/v1\nkind: Image\nmetadata: {name: odd}\n"
        "spec: {packages: [no-such-package]}\n---\n"
    )
    applied = node.cli("apply", "-f", "-", stdin=image + vm("odd", spec="  image: odd\n"))
    assert applied.code == 0, applied.err
    try:
        until(
            lambda: "PACKAGE_UNKNOWN" in reason(node, "odd-1"), 200, lambda: reason(node, "odd-1")
        )
        assert "no-such-package" in reason(node, "odd-1")
        waited = node.cli("wait", "image/odd", "--timeout", "3m", timeout_s=200)
        assert waited.code == 1
        assert "error[IMAGE_BUILD_FAILED]: image/odd: Failed: PACKAGE_UNKNOWN" in waited.err
        assert "no-such-package" in waited.err
    finally:
        node.cli("delete", "vm", "odd", "--yes")
        node.cli("delete", "image", "odd", "--yes")


@pytest.mark.guest
@pytest.mark.timeout(900)
def test_guest_that_does_not_boot_shows_its_console(tmp_path: pathlib.Path) -> None:
    with control_plane(tmp_path) as plane:
        node = plane.nodes[0]
        plane.build(GuestRecipe(services=(GuestService(name="stuck", command=("/bin/false",)),)))
        built = node.cli("image", "build", "stuck", "--service", "stuck=/bin/false")
        assert built.code == 0, built.err
        assert "image/stuck: Ready" in built.err
        name, phase, size = node.cli("image", "list").out.splitlines()[1].split()[:3]
        assert (name, phase) == ("stuck", "Ready")
        assert "MiB" in size
        assert "nodes: " in node.cli("describe", "image", "stuck").out
        stuck = (
            "  recipe:\n    services:\n      - {name: stuck, command: [/bin/false]}\n"
            "  readiness: {tcp: {port: 9}, startTimeoutS: 20}\n"
        )
        applied = node.cli("apply", "-f", "-", stdin=vm("stuck", spec=stuck))
        assert applied.code == 0, applied.err

        def failed() -> bool:
            return bool(instance(node, "stuck-1").get("console"))

        until(failed, 600, lambda: json.dumps(instance(node, "stuck-1")) + node.log()[-2000:])
        found = instance(node, "stuck-1")
        assert found["reason"] == "not ready within 20 s"
        assert 0 < len(found["console"]) <= 20
        shown = node.cli("vm", "status", "stuck").out
        assert "not ready within 20 s" in shown
        assert found["console"][-1].strip()[:40] in shown
        assert node.cli("delete", "vm", "stuck", "--yes", "--timeout", "60s").code == 0


def instance(node: NodeUnderTest, name: str) -> dict[str, object]:
    ran = node.cli("get", "instances", name, "-o", "json")
    return dict(json.loads(ran.out)["status"]) if ran.code == 0 else {}


def reason(node: NodeUnderTest, name: str) -> str:
    return str(instance(node, name).get("reason", ""))
