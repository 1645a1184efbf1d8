"""Processes are told apart by pid and start time."""

import os
import subprocess

from blixard.app import dev_processes as processes
from blixard.app.dev_layout import Place


def test_pid_of_somebody_else_is_not_the_daemon(tmp_path):
    place = Place(1, str(tmp_path))
    os.makedirs(place.root)
    with open(place.pid_file, "w") as file:
        file.write(f"{os.getpid()} 12345")
    assert processes.daemon_pid(place) is None


def test_pid_with_its_start_time_is_the_daemon(tmp_path):
    place = Place(1, str(tmp_path))
    os.makedirs(place.root)
    with open(place.pid_file, "w") as file:
        file.write(f"{os.getpid()} {processes.start_time(os.getpid())}")
    assert processes.daemon_pid(place) == os.getpid()


def test_zombie_has_no_start_time():
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert processes.start_time(child.pid) == ""
    child.wait()


def test_missing_namespace_has_no_members():
    assert processes.members("blxdev-nowhere") == []


def test_nodes_do_not_inherit_our_settings(monkeypatch):
    monkeypatch.setenv("BLIXARD_CLUSTER_NODE_ID", "other")
    assert "BLIXARD_CLUSTER_NODE_ID" not in processes.environment()
