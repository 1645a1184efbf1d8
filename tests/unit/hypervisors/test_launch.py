"""What the guard starts: plans of the agreed form and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from blixard.hypervisors.guard import launch

BINARIES = ("/usr/bin/qemu-system-x86_64",)
GOOD: dict[str, Any] = {
    "uid": "a",
    "argv": ["/usr/bin/qemu-system-x86_64", "-S"],
    "files": {"kernel": "/boot/kernel"},
    "listen": {"qmp": "qmp.sock"},
    "append": {"log": "console.log"},
}


def test_plan_of_agreed_form_passes() -> None:
    launch.check_plan(GOOD, BINARIES)


@pytest.mark.parametrize(
    "change",
    [
        {"argv": []},
        {"argv": "qemu"},
        {"argv": None},
        {"argv": ["/bin/sh", "-c", "id"]},
        {"argv": ["qemu-system-x86_64"]},
        {"argv": [BINARIES[0], 3]},
        {"argv": [BINARIES[0], "a\0b"]},
        {"files": {"kernel": "kernel"}},
        {"files": {"kernel": 3}},
        {"listen": {"qmp": "../qmp.sock"}},
        {"listen": {"qmp": "/run/qmp.sock"}},
        {"listen": {"qmp": ""}},
        {"listen": {"qmp": ".."}},
        {"listen": {"qmp": "."}},
        {"append": {"log": "a/b"}},
        {"append": {"log": None}},
    ],
)
def test_other_plan_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(launch.BadPlan):
        launch.check_plan({**GOOD, **change}, BINARIES)


def test_user_in_use_is_not_picked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.os, "geteuid", lambda: 0)
    first = launch.pick_user("a", set())
    second = launch.pick_user("a", {first})
    assert first != second
    assert {first, second} <= set(range(launch.USER_BASE, launch.USER_BASE + launch.USERS))


def test_guard_without_root_keeps_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.os, "geteuid", lambda: 1000)
    assert launch.pick_user("a", set()) == 0
