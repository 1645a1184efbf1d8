"""Three real daemons: one in quarantine; then two gone with their disks, and the third goes on."""

import json
import shutil

import msgspec
import pytest
from control_plane import control_plane, until

from blixard.consensus.comparison import Quarantine

pytestmark = [pytest.mark.netns, pytest.mark.slow]


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    with control_plane(tmp_path_factory.mktemp("recover"), 3) as found:
        yield found


def test_quarantined_node_passes_requests_on_and_is_shown(plane) -> None:
    first, second, _ = plane.nodes
    assert first.stop() == 0
    found = Quarantine(index=9, own_hash="a", majority_hash="b", majority=("n2", "n3"), at_ms=1)
    (first.data_dir / "raft" / "quarantine").write_bytes(msgspec.json.encode(found))
    first.start()
    first.wait_up()
    assert first.cli("kv", "put", "app/shape", "round").code == 0
    assert first.cli("kv", "get", "app/shape").out.strip() == "round"
    status = first.json("cluster", "status")
    assert status["answeredBy"] != "node1" != status["leaderName"]
    until(lambda: "quarantined" in second.json("cluster", "status")["trouble"].get("node1", ""), 20)
    told = first.cli("doctor")
    assert told.code == 1
    assert "node1 is quarantined" in told.out
    assert "force-remove-node node1" in told.out


def recover(node, *words):
    return node.local("cluster", "recover", "-o", "json", "--data-dir", str(node.data_dir), *words)


def end_of_log(node) -> tuple[int, int]:
    shown = json.loads(recover(node).out)
    return shown["lastTerm"], shown["lastIndex"]


def checks(node) -> dict[str, str]:
    found = json.loads(node.cli("doctor", "-o", "json").out)["checks"]
    return {row["check"]: row["state"] for row in found}


def test_last_node_goes_on_and_others_join_again(plane) -> None:
    first, second, third = plane.nodes
    assert first.cli("kv", "put", "app/colour", "blue").code == 0
    in_use = recover(third)
    assert (in_use.code, "DATA_DIR_IN_USE" in in_use.err) == (5, True)

    third.kill()
    refused = recover(third, "--unsafe", "--yes")
    assert refused.code == 5, refused.out + refused.err
    assert "a majority of the 3 voters is there" in refused.err
    third.start()
    third.wait_up()
    for node in plane.nodes:
        node.kill()

    shutil.rmtree(first.data_dir)
    gone, last = sorted((second, third), key=end_of_log)
    ends = end_of_log(last)
    old = gone.data_dir.with_name("old")  # a disk that turns up later
    shutil.copytree(gone.data_dir, old, ignore=shutil.ignore_patterns("*.sock"))
    shutil.rmtree(gone.data_dir)
    longer = recover(
        last, "--unsafe", "--yes", "--other-log", f"{gone.name}={ends[0]}/{ends[1] + 1}"
    )
    assert longer.code == 5
    assert f"the log of {gone.name} is longer" in longer.err
    down = checks(last)
    assert down["daemon"] == "fail"
    assert down["certificate"] == down["data directory"] == "ok"
    tried = recover(last)
    assert tried.code == 0, tried.err
    plan = json.loads(tried.out)
    assert not plan["done"]
    assert [m["answers"] for m in plan["members"]] == [False, False, False]

    done = recover(last, "--unsafe", "--yes", "--other-data-dir", str(old))
    assert done.code == 0, done.err
    last.start()
    last.wait_up()
    assert last.cli("kv", "get", "app/colour").out.strip() == "blue"
    status = last.json("cluster", "status")
    assert status["clusterId"] == json.loads(done.out)["newClusterId"] != plan["clusterId"]
    assert status["voters"] == [last.name]
    assert last.cli("kv", "put", "app/colour", "green").code == 0
    until(lambda: len(last.json("cluster", "status")["nodes"]) == 1, 30)
    up = checks(last)
    assert (up["daemon"], up["quorum"], up["state"]) == ("ok", "warn", "ok")

    # node1 joins with an empty directory; the old disk is not let in.
    joined = first.local(
        "cluster", "join", "--token-file", plane.token("--node-id", "node1", by=last)
    )
    assert joined.code == 0, joined.err
    first.start()
    first.wait_up()
    until(lambda: len(first.json("cluster", "status")["nodes"]) == 2, 30)
    assert last.cli("kv", "get", "app/colour").out.strip() == "green"
    before = gone.log().count("raft_recovered")
    shutil.copytree(old, gone.data_dir)
    gone.start()
    until(lambda: gone.log().count("raft_recovered") > before, 20)
    names = [n["metadata"]["name"] for n in last.json("cluster", "status")["nodes"]]
    assert sorted(names) == sorted(["node1", last.name])
