"""What the doctor says of what was measured."""

import pytest

from blixard.base.errors import BlixardError
from blixard.daemon import doctor
from blixard.daemon.doctor import Row

MIB = 1 << 20
HOUR_MS = 3_600_000


def health(uid, **changes):
    same = {
        "uid": uid, "answered": True, "state": "same", "diskFull": False, "quarantined": False,
        "clockOffsetMs": 3.0, "lastIndex": 100,
    }  # fmt: skip
    return same | changes


def status(*others, voters=3, **raft):
    members = [{"uid": f"u{i}", "learner": i > voters} for i in range(1, len(others) + 2)]
    nodes = [{"uid": f"u{i}", "name": f"node{i}"} for i in range(1, len(others) + 2)]
    base = {"members": members, "health": list(others), "lastIndex": 100, "appliedIndex": 100}
    return {"answeredBy": "node1", "nodes": nodes, "raft": base | raft}


def rows(found) -> dict[str, Row]:
    return {row.check: row for row in doctor.cluster_rows(found, ("1", "1"))}


def test_healthy_cluster_needs_no_hint() -> None:
    found = rows(status(health("u2"), health("u3")))
    assert {row.state for row in found.values()} == {"ok"}
    assert not any(row.hint for row in found.values())
    assert "1 more may fail" in found["quorum"].found


@pytest.mark.parametrize(
    ("others", "check", "state", "says"),
    [
        ([health("u2", answered=False), health("u3")], "quorum", "warn", "silent: node2"),
        ([health(u, answered=False) for u in ("u2", "u3")], "quorum", "fail", "no majority"),
        ([], "quorum", "warn", "none may fail"),
        ([health("u2", clockOffsetMs=-900.0), health("u3")], "clocks", "warn", "900 ms"),
        ([health("u2"), health("u3", clockOffsetMs=9e5)], "clocks", "fail", "node3"),
        ([health("u2", quarantined=True), health("u3")], "state", "fail", "quarantined: node2"),
        ([health("u2", state="differs")], "state", "fail", "node1 and node2 differ"),
        ([health("u2"), health("u3", diskFull=True)], "members' disks", "fail", "node3"),
        ([health("u2", lastIndex=-20_000), health("u3")], "backlog", "warn", "node2"),
    ],
)
def test_trouble_of_a_member_is_named(others, check, state, says) -> None:
    row = rows(status(*others, voters=len(others) + 1))[check]
    assert (row.state, says in row.found, bool(row.hint)) == (state, True, True)


def test_own_quarantine_is_told_before_all() -> None:
    row = rows(status(health("u2"), quarantine="its state differs"))["state"]
    assert row.state == "fail"
    assert "force-remove-node node1" in row.hint


def test_other_version_of_the_daemon_is_told() -> None:
    assert doctor.cluster_rows(status(), ("2", "1"))[-1].state == "warn"


@pytest.mark.parametrize(
    ("times_ms", "state"),
    [([1.0] * 100, "ok"), ([1.0] * 98 + [50.0] * 2, "warn"), ([1.0, 600.0], "fail")],
)
def test_slow_syncs_are_judged_by_the_99th_of_100(times_ms, state) -> None:
    assert doctor.sync_time(times_ms).state == state


@pytest.mark.parametrize(("mib", "state"), [(4000, "ok"), (100, "warn"), (17, "fail")])
def test_room_is_judged_against_the_reserve(mib, state) -> None:
    assert doctor.room(mib * MIB).state == state


@pytest.mark.parametrize(("now_h", "state"), [(3, "ok"), (12, "ok"), (14, "warn"), (25, "fail")])
def test_certificate_should_be_renewed_at_half_of_its_life(now_h, state) -> None:
    row = doctor.certificate(now_h * HOUR_MS, 24 * HOUR_MS, 12 * HOUR_MS)
    assert row.state == state


def test_measured_file_does_not_stay(tmp_path) -> None:
    assert len(doctor.measure_syncs(str(tmp_path / "probe"))) > 0
    assert list(tmp_path.iterdir()) == []


def test_directory_without_a_node_is_no_failure(tmp_path) -> None:
    first = doctor.local_rows(str(tmp_path))[0]
    assert (first.check, first.state) == ("data directory", "warn")


def test_silent_daemon_is_a_failure() -> None:
    assert doctor.unanswered(BlixardError("UNREACHABLE", "nobody")).state == "fail"
