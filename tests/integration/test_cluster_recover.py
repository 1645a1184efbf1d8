"""Three real daemons, two of them gone with their disks: the third goes on, others join again."""

import json
import shutil

import pytest
from control_plane import control_plane, until

pytestmark = [pytest.mark.netns, pytest.mark.slow]


@pytest.fixture
def plane(tmp_path):
    with control_plane(tmp_path, 3) as found:
        yield found


def test_last_node_goes_on_and_others_join_again(plane) -> None:
    first, second, third = plane.nodes
    assert first.cli("kv", "put", "app/colour", "blue").code == 0
    recover = ("cluster", "recover", "-o", "json", "--data-dir", str(third.data_dir))
    in_use = third.local(*recover)
    assert (in_use.code, "DATA_DIR_IN_USE" in in_use.err) == (5, True)

    third.kill()
    refused = third.local(*recover, "--unsafe", "--yes")
    assert refused.code == 5, refused.out + refused.err
    assert "a majority of the 3 voters is there" in refused.err

    old = second.data_dir.with_name("old")
    first.kill()
    second.kill()
    shutil.rmtree(first.data_dir)
    shutil.copytree(
        second.data_dir, old, ignore=shutil.ignore_patterns("*.sock")
    )  # an old disk that turns up later
    shutil.rmtree(second.data_dir)
    longer = third.local(*recover, "--unsafe", "--yes", "--other-log", "node2=99/1")
    assert longer.code == 5
    assert "node2" in longer.err
    down = third.cli("doctor", "-o", "json")
    assert down.code == 1
    states = {row["check"]: row["state"] for row in json.loads(down.out)["checks"]}
    assert states["daemon"] == "fail"
    assert states["certificate"] == states["data directory"] == "ok"
    tried = third.local(*recover)
    assert tried.code == 0, tried.err
    plan = json.loads(tried.out)
    assert not plan["done"]
    assert [m["answers"] for m in plan["members"]] == [False, False, False]

    done = third.local(*recover, "--unsafe", "--yes", "--other-data-dir", str(old))
    assert done.code == 0, done.err
    third.start()
    third.wait_up()
    assert third.cli("kv", "get", "app/colour").out.strip() == "blue"
    status = third.json("cluster", "status")
    assert status["clusterId"] == json.loads(done.out)["newClusterId"] != plan["clusterId"]
    assert status["voters"] == ["node3"]
    assert third.cli("kv", "put", "app/colour", "green").code == 0
    until(lambda: len(third.json("cluster", "status")["nodes"]) == 1, 30)

    found = json.loads(third.cli("doctor", "-o", "json").out)["checks"]
    states = {row["check"]: row["state"] for row in found}
    assert (states["daemon"], states["quorum"], states["state"]) == ("ok", "warn", "ok")

    # node1 joins with an empty directory; node2's old disk is not let in.
    token = plane.token("--node-id", "node1", by=third)
    joined = first.local("cluster", "join", "--token-file", token)
    assert joined.code == 0, joined.err
    first.start()
    first.wait_up()
    assert first.cli("kv", "get", "app/colour").out.strip() == "green"
    shutil.copytree(old, second.data_dir)
    second.start()
    until(lambda: second.log().count("raft_recovered") > 1, 20)
    names = [n["metadata"]["name"] for n in third.json("cluster", "status")["nodes"]]
    assert sorted(names) == ["node1", "node3"]
