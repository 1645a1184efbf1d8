from __future__ import annotations

import pytest


def body_of(cli, method="PUT"):
    return next(body for m, _, _, body in cli.api.calls if m == method)


HEALTH = {
    "state": "degraded",
    "monitors": {"inQuorum": 1, "all": 1},
    "osds": {"all": 3, "up": 2, "in": 3},
    "degradedObjects": 7,
    "misplacedObjects": 0,
    "usedBytes": 1 << 30,
    "availableBytes": 5 << 30,
    "reason": "1 osds down",
}


@pytest.fixture
def pools(cli):
    cli.api.add("storagepools", "ssd", {"backend": "ceph"}, {"phase": "Ready", "health": HEALTH})
    cli.api.add("storagepools", "fast", {"backend": "local"})
    cli.api.add("volumes", "app", {"pool": "ssd", "size": "5GB"}, {"phase": "Available"})
    return cli


@pytest.mark.parametrize(
    ("words", "spec"),
    [
        (("--type", "replicated", "--size", "1TB"), {"backend": "ceph", "quota": "1TB"}),
        (("--type", "replicated", "--size", "3"), {"backend": "ceph", "replicas": 3}),
        (
            ("--replicas", "2", "--size", "1TB"),
            {"backend": "ceph", "replicas": 2, "quota": "1TB"},
        ),
        (("--size", "11"), {"backend": "ceph", "quota": "11"}),
        (("--backend", "local"), {"backend": "local"}),
        (("--type", "local", "--size", "20GB"), {"backend": "local", "quota": "20GB"}),
    ],
)
@pytest.mark.parametrize("verb", [("pool", "create"), ("create-pool",)], ids=" ".join)
def test_size_is_room_or_copies_as_the_documents_write(cli, verb, words, spec):
    assert cli("storage", *verb, "p", *words, "--detach").code == 0
    assert body_of(cli)["spec"] == spec


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--size", "3", "--replicas", "2"), "means copies, and so does --replicas"),
        (("--type", "erasure"), "erasure: pools keep whole copies"),
        (("--type", "local", "--backend", "ceph"), "contradict"),
        (("--backend", "local", "--type", "replicated"), "a local pool keeps one copy"),
        (("--size", "much"), "much"),
    ],
)
def test_wrong_pool_is_refused_before_anything_is_asked_for(cli, words, said):
    ran = cli("storage", "pool", "create", "p", *words)
    assert (ran.code, said in ran.err) == (2, True), ran.err
    assert cli.api.calls == []


def test_volume_names_its_pool(pools):
    ran = pools("volume", "create", "new", "--pool", "fast", "--size", "50GB")
    assert ran.code == 0
    assert body_of(pools)["spec"] == {"pool": "fast", "size": "50GB"}
    assert "made on the node of the first VM" in ran.err


def test_pool_is_asked_for_where_several_are(pools):
    ran = pools("storage", "volume", "create", "new", "--size", "50GB")
    assert (ran.code, "which pool: fast, ssd?" in ran.err) == (2, True)


def test_volume_of_a_pool_that_is_not_there_yet(cli):
    ran = cli("volume", "create", "new", "--pool", "later", "--size", "1GB")
    assert (ran.code, "there is no pool later yet" in ran.err) == (0, True)


def test_status_tells_health_and_room(pools):
    ran = pools("storage", "status", "--show-rebalancing")
    assert ran.code == 0
    lines = [line.split() for line in ran.out.splitlines()]
    assert lines[2] == ["ssd", "ceph", "Ready", "degraded", "2/3", "1GiB", "5GiB", "1h0m"]
    assert "ssd: 1 osds down" in ran.out
    assert ["ssd", "7", "0"] in lines
    assert "1 volume" in ran.out


def test_rebalance_is_waited_for(pools):
    pools.api.watch = lambda *_, **__: iter(())
    ran = pools("storage", "wait-for-rebalance", "ssd", "--timeout", "50ms")
    assert (ran.code, "7 degraded, 0 misplaced" in ran.err) == (7, True)
    pools.api.objects["storagepools", "ssd"]["status"]["health"] = {
        **HEALTH,
        "state": "healthy",
        "degradedObjects": 0,
    }
    assert pools("storage", "wait-for-rebalance").out == "balanced: fast, ssd\n"


def test_deleting_asks_first(pools):
    assert pools("volume", "delete", "app", "--no-input").code == 2
    assert pools("volume", "delete", "app", "--yes").out == "volume/app deleted\n"
    assert pools("storage", "pool", "delete", "ssd", "--yes").out == "storagepool/ssd deleted\n"


def claims_of(cli, *words):
    ran = cli("vm", "create", "new", "--image", "web", *words, "--detach")
    assert ran.code == 0, ran.err
    return body_of(cli)["spec"]["volumes"]


def test_vm_claims_volumes(pools):
    assert claims_of(pools, "--volume", "data:10GB@fast", "--volume", "log:1GB@ssd") == [
        {"name": "data", "pool": "fast", "size": "10GB"},
        {"name": "log", "pool": "ssd", "size": "1GB"},
    ]


def test_vm_claims_as_the_documents_write(pools):
    words = ("--storage-pool", "ssd", "--storage-size", "100G", "--volume", "log:1GB")
    assert claims_of(pools, *words) == [
        {"name": "log", "pool": "ssd", "size": "1GB"},
        {"name": "data", "pool": "ssd", "size": "100G"},
    ]


def test_only_pool_needs_no_name(cli):
    cli.api.add("storagepools", "fast", {"backend": "local"})
    assert claims_of(cli, "--volume", "data:10GB")[0]["pool"] == "fast"


def test_claim_without_a_size(pools):
    ran = pools("vm", "create", "new", "--image", "web", "--volume", "data@fast")
    assert (ran.code, "is no NAME:SIZE[@POOL]" in ran.err) == (2, True)


def test_names_of_pools_and_volumes_are_completed(pools):
    assert pools("__complete", "storage", "pool", "delete", "").out == "fast\nssd\n"
    assert pools("__complete", "volume", "delete", "").out.split() == ["app"]
