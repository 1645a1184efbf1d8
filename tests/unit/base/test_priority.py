"""The groups in which a process waits for the CPU, on a tree of files instead of the kernel's."""

import os

import pytest

from blixard.base import priority


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A v1 hierarchy; which group a process is in is what was written last."""
    root = tmp_path / "cpu"
    (root / priority.GROUP).mkdir(parents=True)
    (root / "cgroup.procs").write_text("")
    monkeypatch.setattr(priority, "_V1", root)
    monkeypatch.setattr(priority, "_UNIFIED", tmp_path)
    return root


def is_in(monkeypatch, group):
    monkeypatch.setattr(priority, "cpu_group", lambda _pid: group)


def test_daemon_joins_its_group_with_ten_times_the_weight(host, monkeypatch):
    is_in(monkeypatch, "/")
    priority.join_daemons()
    assert (host / priority.GROUP / "cpu.shares").read_text() == "10240"
    assert (host / priority.GROUP / "cgroup.procs").read_text() == str(os.getpid())


def test_daemon_stays_where_a_service_manager_has_put_it(host, monkeypatch):
    is_in(monkeypatch, "/system.slice/blixard.service")
    priority.join_daemons()
    priority.leave_daemons()
    assert list((host / priority.GROUP).iterdir()) == []
    assert (host / "cgroup.procs").read_text() == ""


def test_last_one_removes_the_group(host, monkeypatch):
    is_in(monkeypatch, f"/{priority.GROUP}")
    priority.leave_daemons()
    assert (host / "cgroup.procs").read_text() == str(os.getpid())
    assert not (host / priority.GROUP).exists()


def test_child_that_can_wait_leaves_the_group(host, monkeypatch):
    is_in(monkeypatch, f"/{priority.GROUP}")
    priority.come_last(10**9, 15)
    assert (host / "cgroup.procs").read_text() == str(10**9)


def test_group_of_this_process_is_read_from_the_kernel():
    assert priority.cpu_group("self").startswith("/")
