"""The bound on a function's memory: what the agent does where a kernel has no groups."""

import os

import pytest

from blixard.guest import memory
from blixard.guest.loop import Loop, Outlet


@pytest.fixture
def console():
    read, write = os.pipe()
    yield Outlet(Loop(), write, 4096), lambda: os.read(read, 4096).decode()
    os.close(read)
    os.close(write)


def test_kernel_without_groups_is_said_on_the_console(monkeypatch, console, tmp_path):
    outlet, shown = console
    monkeypatch.setattr(memory, "GROUPS_ROOT", str(tmp_path))
    monkeypatch.setattr(memory, "mount", lambda *_words: "No such device")
    assert memory.function_group(outlet) == ""
    assert shown() == (
        "blixard-agent: the function's memory has no bound of its own: No such device\n"
    )


def test_group_that_takes_no_bound_is_said_on_the_console(monkeypatch, console, tmp_path):
    outlet, shown = console
    monkeypatch.setattr(memory, "GROUPS_ROOT", str(tmp_path / "absent"))
    monkeypatch.setattr(memory, "mount", lambda *_words: "")
    assert memory.function_group(outlet) == ""
    assert "no bound of its own" in shown()
    assert "cgroup.subtree_control" not in os.listdir(tmp_path)
