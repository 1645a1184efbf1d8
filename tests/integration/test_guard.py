"""The guard with stand-in processes: it alone decides who lives after a deadline."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from guards import SHELL, Client, GuardProcess, boottime_ns, gone, until

from blixard.base import priority
from blixard.hypervisors.guard.cgroups import remove_abandoned

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def guard(tmp_path: pathlib.Path) -> Iterator[GuardProcess]:
    guard = GuardProcess(tmp_path)
    yield guard
    guard.stop()


@pytest.fixture
def client(guard: GuardProcess) -> Iterator[Client]:
    with guard.client() as client:
        yield client


def started(guard: GuardProcess, client: Client, uid: str = "a") -> int:
    answer = client.ask("start", plan=guard.plan(uid))
    assert "error" not in answer
    return int(answer["pid"])


def test_second_guard_of_directory_leaves(guard: GuardProcess) -> None:
    assert guard.spawn().wait(20) == 0
    with guard.client() as client:
        assert client.ask("list")["instances"] == []


def test_instance_survives_its_client(guard: GuardProcess) -> None:
    with guard.client() as first:
        pid = started(guard, first)
    with guard.client() as second:
        facts = second.facts("a")
    assert (facts["pid"], facts["state"]) == (pid, "paused")
    assert not gone(pid)


def test_deadline_kills_after_client_left(guard: GuardProcess) -> None:
    with guard.client() as client:
        pid = started(guard, client)
        client.ask("arm", uid="a", deadline_ns=boottime_ns(0.3))
    until(lambda: gone(pid))
    with guard.client() as client:
        until(lambda: client.facts("a")["state"] == "exited")
        facts = client.facts("a")
    assert (facts["killed_by_guard"], facts["exit_code"]) == (True, -9)


_CLIENT = """
import sys
sys.path.insert(0, sys.argv[1])
import pathlib, signal
from guards import Client, boottime_ns
client = Client(pathlib.Path(sys.argv[2]))
client.ask("arm", uid="a", deadline_ns=boottime_ns(1.0))
print("armed", flush=True)
signal.pause()
"""


def test_deadline_kills_while_client_is_stopped(guard: GuardProcess, client: Client) -> None:
    pid = started(guard, client)
    here = str(pathlib.Path(__file__).parent)
    daemon = subprocess.Popen(
        [sys.executable, "-c", _CLIENT, here, str(guard.socket)], stdout=subprocess.PIPE
    )
    assert daemon.stdout is not None
    try:
        assert daemon.stdout.readline() == b"armed\n"
        os.kill(daemon.pid, signal.SIGSTOP)
        until(lambda: gone(pid))
        until(lambda: client.facts("a")["state"] == "exited")
        assert client.facts("a")["killed_by_guard"]
    finally:
        daemon.kill()
        daemon.wait()
        daemon.stdout.close()


def test_extend_moves_deadlines_only_later(guard: GuardProcess, client: Client) -> None:
    started(guard, client)
    deadline_ns = boottime_ns(60)
    client.ask("arm", uid="a", deadline_ns=deadline_ns)
    client.ask("extend", deadline_ns=boottime_ns(5))
    assert client.facts("a")["deadline_ns"] == deadline_ns
    client.ask("extend", deadline_ns=deadline_ns + 1)
    assert client.facts("a")["deadline_ns"] == deadline_ns + 1


def test_extend_arms_nobody(guard: GuardProcess, client: Client) -> None:
    started(guard, client)
    client.ask("extend", deadline_ns=boottime_ns(60))
    assert client.facts("a")["deadline_ns"] == 0


def test_passed_deadline_is_final(guard: GuardProcess, client: Client) -> None:
    pid = started(guard, client)
    client.ask("arm", uid="a", deadline_ns=boottime_ns())
    assert "error" in client.ask("mark", uid="a", state="running")
    assert "error" in client.ask("arm", uid="a", deadline_ns=boottime_ns(60))
    client.ask("extend", deadline_ns=boottime_ns(60))
    until(lambda: gone(pid))


def test_exit_is_told_and_recorded_until_forgotten(guard: GuardProcess, client: Client) -> None:
    plan = guard.plan("a", SHELL, "-c", "exit 3")
    with guard.client() as listener:
        listener.ask("list")
        assert "error" not in client.ask("start", plan=plan)
        event = listener.next()
    assert (event["event"], event["uid"], event["exit_code"]) == ("exit", "a", 3)
    assert client.facts("a")["exit_code"] == 3
    assert client.ask("forget", uid="a")["forgotten"]
    assert client.facts("a") == {}


def test_running_instance_is_not_forgotten(guard: GuardProcess, client: Client) -> None:
    started(guard, client)
    assert "running" in client.ask("forget", uid="a")["error"]


def test_uid_cannot_be_started_twice(guard: GuardProcess, client: Client) -> None:
    started(guard, client)
    assert "already" in client.ask("start", plan=guard.plan("a"))["error"]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b'"list"',
        b"{}",
        b'{"op":"start"}',
        b'{"op":"start","plan":3}',
        b'{"op":"start","plan":{"uid":"../a","argv":["/bin/sleep"]}}',
        b'{"op":"start","plan":{"uid":"a","argv":["/bin/cat"]}}',
        b'{"op":"extend","deadline_ns":"soon"}',
        b'{"op":"extend","deadline_ns":1e999}',
        b'{"op":"kill","uid":"nobody"}',
        b'{"op":"no such thing","uid":"nobody"}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_bad_request_is_answered(client: Client, line: bytes) -> None:
    assert "error" in client.ask_raw(line)
    assert client.ask("list")["instances"] == []


def test_refusal_carries_the_request_number(client: Client) -> None:
    assert client.ask("start")["id"] == 7


def test_line_too_long_ends_the_connection(guard: GuardProcess, client: Client) -> None:
    with guard.client() as bad:
        try:
            bad.socket.sendall(b"x" * (1 << 20))
            assert bad.socket.recv(1) == b""
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert client.ask("list")["instances"] == []


def test_client_that_does_not_read_is_dropped(guard: GuardProcess, client: Client) -> None:
    started(guard, client)
    request = json.dumps({"id": 1, "op": "x" * 60_000, "uid": "a"}).encode() + b"\n"
    with guard.client() as deaf:

        def ask() -> bool:
            assert client.facts("a")["state"] == "paused"
            try:
                deaf.socket.sendall(request)
            except (BrokenPipeError, ConnectionResetError):
                return False
            return True

        assert not all(ask() for _ in range(400))


def test_children_die_with_a_killed_guard(guard: GuardProcess, client: Client) -> None:
    pids = [started(guard, client, uid) for uid in ("a", "b")]
    guard.process.kill()
    guard.process.wait()
    until(lambda: all(gone(pid) for pid in pids))


def test_signals_to_the_group_do_not_end_the_guard(guard: GuardProcess, client: Client) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        os.kill(guard.process.pid, number)
    assert client.ask("list")["instances"] == []


@ROOT
def test_each_instance_has_its_own_user_and_cgroup(guard: GuardProcess, client: Client) -> None:
    pids = {uid: started(guard, client, uid) for uid in ("a", "b")}
    for pid in pids.values():
        until(lambda: os.stat(f"/proc/{pid}").st_uid >= 70_000)  # noqa: B023 - called at once
    assert len({os.stat(f"/proc/{pid}").st_uid for pid in pids.values()}) == len(pids)
    used = client.ask("list")["cgroups"]
    for uid, pid in pids.items():
        file, place = pathlib.Path(f"/proc/{pid}/cgroup"), f"/blixard/{guard.name}/{uid}\n"
        until(lambda: file.read_text().count(place) == len(used))  # noqa: B023 - called at once


@ROOT
def test_guard_waits_for_the_cpu_among_the_daemons_and_its_guests_do_not(
    guard: GuardProcess, client: Client
) -> None:
    pid, managed = started(guard, client), priority.cpu_group(os.getpid())
    own = f"/{priority.GROUP}" if managed == "/" else managed
    assert priority.cpu_group(guard.process.pid) == own
    until(lambda: priority.cpu_group(pid) == f"/blixard/{guard.name}/a")


@ROOT
def test_forgotten_instance_leaves_no_cgroup(guard: GuardProcess, client: Client) -> None:
    pid = started(guard, client)
    client.ask("kill", uid="a")
    until(lambda: client.facts("a")["state"] == "exited")
    client.ask("forget", uid="a")
    until(lambda: not list(pathlib.Path("/sys/fs/cgroup").glob(f"*/blixard/{guard.name}/a")))
    assert gone(pid)


@ROOT
def test_killed_guard_leaves_no_cgroup_for_long(tmp_path: pathlib.Path) -> None:
    guard = GuardProcess(tmp_path)
    try:
        with guard.client() as client:
            pid = started(guard, client)
        root = pathlib.Path("/sys/fs/cgroup")
        before = [p for at in ("", "*/") for p in root.glob(f"{at}blixard/{guard.name}/a")]
        assert guard.name not in remove_abandoned()
        assert [p for p in before if not p.exists()] == []
        guard.process.kill()
        guard.process.wait(20)
        until(lambda: gone(pid))
        # A process that is dying holds its cgroup for an instant.
        until(lambda: remove_abandoned() or not [p for p in before if p.parent.exists()])
        until(lambda: not [p for p in before if p.parent.exists()])
    finally:
        guard.stop()


ONE_HIERARCHY = 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'


@ROOT
def test_host_with_one_hierarchy_has_cgroups_too(tmp_path: pathlib.Path) -> None:
    apart = ("unshare", "--mount", "sh", "-c", ONE_HIERARCHY, "sh")
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this kernel mounts no second cgroup2")
    guard = GuardProcess(tmp_path, wrapper=apart)
    try:
        with guard.client() as client:
            pid = started(guard, client)
            assert client.ask("list")["cgroups"] == ["unified"]
            place = f"0::/blixard/{guard.name}/a\n"
            until(lambda: place in pathlib.Path(f"/proc/{pid}/cgroup").read_text())
            client.ask("kill", uid="a")
            until(lambda: client.facts("a")["state"] == "exited")
            client.ask("forget", uid="a")
    finally:
        guard.stop()


def test_child_holds_no_foreign_descriptor(guard: GuardProcess, client: Client) -> None:
    plan = guard.plan("a", listen={"qmp": "qmp.sock"}, append={"log": "console.log"})
    pid = client.ask("start", plan=plan)["pid"]
    until(lambda: pathlib.Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
    names = sorted(os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))
    output = str(guard.directory / "a" / "hypervisor.log")
    log = str(guard.directory / "a" / "console.log")
    assert names[:4] == sorted(["/dev/null", log, output, output])
    assert [name.partition(":")[0] for name in names[4:]] == ["socket"]


def test_child_cannot_gain_privileges(guard: GuardProcess, client: Client) -> None:
    pid = started(guard, client)
    until(lambda: "NoNewPrivs:\t1" in pathlib.Path(f"/proc/{pid}/status").read_text())


def test_start_failure_says_why(guard: GuardProcess, client: Client) -> None:
    plan = guard.plan("a", files={"kernel": "/nowhere/kernel"})
    assert "/nowhere/kernel" in client.ask("start", plan=plan)["error"]
    assert client.facts("a") == {}


def test_missing_tap_is_not_made(guard: GuardProcess, client: Client) -> None:
    assert "no interface" in client.ask("start", plan=guard.plan("a", tap="nosuchtap"))["error"]


def test_idle_guard_ends_by_itself(tmp_path: pathlib.Path) -> None:
    guard = GuardProcess(tmp_path, idle_s=0.2)
    try:
        assert guard.process.wait(20) == 0
        assert not guard.socket.exists()
    finally:
        guard.stop()


def test_switched_while_it_runs(guard: GuardProcess, client: Client) -> None:
    pid = started(guard, client)
    client.ask("mark", uid="a", state="running")
    client.ask("arm", uid="a", deadline_ns=boottime_ns(60), epoch=3, seq=1)
    facts = client.facts("a")
    assert (facts["guard_seq"], facts["guard_epoch"], facts["deadline_ns"] > 0) == (1, 3, True)
    assert client.ask("disarm", uid="a", seq=2)["deadline_ns"] == 0
    client.ask("extend", deadline_ns=1)
    assert "error" not in client.ask("mark", uid="a", state="running")
    assert not gone(pid)
    client.ask("arm", uid="a", deadline_ns=boottime_ns(0.2), epoch=4, seq=3)
    until(lambda: gone(pid))
    until(lambda: client.facts("a")["killed_by_guard"])


@pytest.mark.parametrize(
    "late", [("disarm", {"seq": 1}), ("disarm", {"seq": 2}), ("arm", {"seq": 1, "deadline_ns": 1})]
)
def test_word_that_was_overtaken_is_refused_by_any_connection(
    guard: GuardProcess, late: tuple[str, dict[str, int]]
) -> None:
    deadline_ns = boottime_ns(60)
    with guard.client() as daemon:
        started(guard, daemon)
        daemon.ask("disarm", uid="a", seq=1)
        daemon.ask("arm", uid="a", deadline_ns=deadline_ns, epoch=1, seq=2)
    with guard.client() as restarted:
        assert "error" in restarted.ask(late[0], uid="a", **late[1])
        facts = restarted.facts("a")
    assert (facts["guard_seq"], facts["deadline_ns"]) == (2, deadline_ns)
