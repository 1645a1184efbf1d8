"""What Ceph's programs print, in the shapes of release 16, and what is made of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from blixard.ports.volumes import StoredVolume
from blixard.storage.ceph import codecs
from blixard.storage.ceph.caps import node_epoch, node_user, older
from blixard.storage.ceph.codecs import Holder
from blixard.storage.ceph.fencing import judge

POOLS = [
    {
        "pool_id": 2,
        "pool_name": "ssd",
        "size": 3,
        "flags_names": "hashpspool,selfmanaged_snaps",
        "quota_max_bytes": 1 << 30,
        "application_metadata": {"rbd": {"blixard": "yes"}},
    },
    {"pool_id": 1, "pool_name": "theirs", "size": 2, "application_metadata": {"rgw": {}}},
]
DF = {
    "stats": {"total_bytes": 6442450944},
    "pools": [{"name": "ssd", "id": 2, "stats": {"stored": 4096, "objects": 3, "max_avail": 99}}],
}


def encoded(value: Any) -> bytes:
    # The programs print an empty line first.
    return b"\n" + json.dumps(value).encode()


def status(**changes: Any) -> dict[str, Any]:
    return {
        "health": {"status": "HEALTH_OK", "checks": changes.get("checks", {}), "mutes": []},
        "quorum_names": ["a", "b"],
        "monmap": {"epoch": 1, "num_mons": 3},
        "osdmap": {
            "epoch": 18,
            "num_osds": 3,
            "num_up_osds": changes.get("up", 3),
            "num_in_osds": 3,
        },
        "pgmap": {
            "pgs_by_state": [
                {"state_name": name, "count": 4} for name in changes.get("states", ["active+clean"])
            ]
        },
    }


def health(recovery: dict[str, int] | None = None, pool: dict[str, Any] = POOLS[0], **changes: Any):
    stats = [{"pool_name": "ssd", "pool_id": 2, "recovery": recovery or {}}]
    answers = ([pool], status(**changes), DF, stats)
    return codecs.health("ssd", *map(encoded, answers))


def test_healthy_pool() -> None:
    found = health()
    assert (found.state, found.reason) == ("healthy", "")
    assert (found.quorum, found.osds) == ((2, 3), (3, 3, 3))
    assert (found.used_bytes, found.available_bytes) == (4096, 99)


def check(message: str) -> dict[str, Any]:
    return {"severity": "HEALTH_WARN", "summary": {"message": message, "count": 1}, "muted": False}


@pytest.mark.parametrize(
    ("changes", "state", "reason"),
    [
        ({"up": 2, "checks": {"OSD_DOWN": check("1 osds down")}}, "degraded", "1 osds down"),
        ({"states": ["active+undersized+degraded"]}, "degraded", "0 objects lack a copy"),
        ({"recovery": {"degraded_objects": 7}}, "degraded", "7 objects lack a copy"),
        ({"states": ["active+clean", "undersized+peered"]}, "unavailable", "not active"),
        ({"checks": {"PG_AVAILABILITY": check("8 pgs inactive")}}, "unavailable", "8 pgs inactive"),
        ({"pool": {**POOLS[0], "flags_names": "hashpspool,full_quota"}}, "unavailable", "full"),
        ({"states": ["active+clean", "unknown"]}, "healthy", ""),
        ({"states": ["creating+peering"]}, "healthy", ""),
        ({"states": ["active+remapped+backfilling"]}, "healthy", ""),
    ],
)
def test_state_follows_what_is_wrong(changes: dict[str, Any], state: str, reason: str) -> None:
    found = health(**changes)
    assert found.state == state
    assert reason in found.reason


def test_misplaced_objects_are_counted() -> None:
    found = health(recovery={"misplaced_objects": 5, "misplaced_total": 20})
    assert (found.state, found.misplaced_objects) == ("healthy", 5)


def test_pools_of_others_are_told_apart() -> None:
    found = codecs.pools(encoded(POOLS))
    assert (found["ssd"].ours, found["theirs"].ours) == (True, False)
    assert codecs.usage(encoded(DF), "ssd") == (4096, 99, 3)
    assert codecs.usage(encoded(DF), "none") == (0, 0, 0)


def test_only_our_images_are_volumes() -> None:
    rows = [
        {"image": "blixard-v2", "id": "1", "size": 20, "format": 2},
        {"image": "blixard-v1", "id": "2", "size": 10, "format": 2},
        {"image": "blixard-v1", "snapshot": "s", "id": "2", "size": 10, "format": 2},
        {"image": "disk", "id": "3", "size": 30, "format": 2},
    ]
    assert codecs.volumes(encoded(rows)) == [
        StoredVolume(uid="v1", size_bytes=10),
        StoredVolume(uid="v2", size_bytes=20),
    ]


def test_addresses_are_those_of_the_blocklist() -> None:
    watching = {"watchers": [{"address": "10.0.0.1:0/3256918546", "client": 4166, "cookie": 1}]}
    assert codecs.watchers(encoded(watching)) == {"10.0.0.1:0/3256918546"}
    rows = [{"id": "auto 1400", "locker": "client.4166", "address": "10.0.0.1:0/3256918546"}]
    (lock,) = codecs.locks(encoded(rows))
    assert (lock.id, lock.locker, lock.address) == tuple(rows[0].values())
    sessions = [
        {
            "name": "client.?",
            "entity_name": "client.blixard.N1.3",
            "addrs": {"addrvec": [{"type": "any", "addr": "10.0.0.1:0", "nonce": 325}]},
            "socket_addr": {"type": "any", "addr": "10.0.0.1:0", "nonce": 325},
        },
        {"name": "mon.0", "entity_name": "", "socket_addr": {"addr": "10.0.0.9:6789", "nonce": 0}},
    ]
    assert codecs.sessions(encoded(sessions))[0] == ("client.blixard.N1.3", "10.0.0.1:0/325")


def test_maps_of_osds() -> None:
    rows = [{"osd": 0, "up": 1, "in": 1}, {"osd": 1, "up": 0, "in": 1}, {"osd": 4, "up": 1}]
    assert codecs.osds(encoded({"epoch": 21, "osds": rows})) == (21, (0, 4))
    assert codecs.newest_map(encoded({"whoami": 0, "oldest_map": 1, "newest_map": 20})) == 20


def test_keys_of_others_are_not_kept() -> None:
    dump = {"auth_dump": [{"entity": "osd.0", "key": "secret", "caps": {}}]}
    assert codecs.entities(encoded(dump)) == ["osd.0"]


def test_fences_and_holders() -> None:
    assert codecs.fences(encoded({"blixard/fence/N1": "4"})) == {"N1": 4}
    assert codecs.fences(b"") == {}
    assert codecs.holders(b"v1/N1/3\nv2/N2/1\nnonsense\nv/N/x\n") == [
        Holder("v1", "N1", 3),
        Holder("v2", "N2", 1),
    ]


def test_users_name_node_and_epoch() -> None:
    entity = f"client.{node_user('01ABC-x', 7)}"
    assert node_epoch(entity) == ("01ABC-x", 7)
    assert node_epoch("client.blixard") is None
    assert node_epoch("client.admin.1.2") is None
    assert older(entity, "01ABC-x", 8)
    assert not older(entity, "01ABC-x", 7)
    assert not older(entity, "other", 8)


ME = Holder("v1", "A", 3)


@pytest.mark.parametrize(
    ("others", "fences", "code"),
    [
        ([], {}, ""),
        ([], {"A": 4}, "FENCED"),
        ([], {"A": 3}, ""),
        ([Holder("v1", "A", 2)], {}, ""),
        ([Holder("v1", "A", 4)], {}, "FENCED"),
        ([Holder("v1", "B", 1)], {}, "VOLUME_IN_USE"),
        ([Holder("v1", "B", 1)], {"B": 1}, "VOLUME_IN_USE"),
        ([Holder("v1", "B", 1)], {"B": 2}, ""),
        ([Holder("v1", "A", 2), Holder("v1", "B", 5)], {"B": 5}, "VOLUME_IN_USE"),
    ],
)
def test_who_may_have_a_volume(others: list[Holder], fences: dict[str, int], code: str) -> None:
    refusal = judge(ME, others, fences)
    assert (refusal.code if refusal is not None else "") == code
