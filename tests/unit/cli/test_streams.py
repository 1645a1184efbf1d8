from __future__ import annotations

import os
import pty
import threading

import pytest

from blixard.cli import frames
from blixard.cli.terminal import Join

from .fakes import FakeStream

BASE = "/v1/namespaces/default/instances"


@pytest.fixture
def logs(cli):
    for number in (1, 2, 3):
        text = f"one {number}\ntwo".encode()
        cli.api.streams[f"{BASE}/web-{number}/logs"] = FakeStream([text, b" parts\n"])
    return cli


def test_logs_of_all_instances_have_names(logs):
    ran = logs("vm", "logs", "web")
    assert sorted(ran.out.splitlines()) == sorted(
        line for n in (1, 2, 3) for line in (f"web-{n} | one {n}", f"web-{n} | two parts")
    )


def test_logs_of_one_instance_are_plain(logs):
    assert logs("vm", "logs", "web-2", "--tail", "5").out == "one 2\ntwo parts\n"
    assert (
        "STREAM",
        f"{BASE}/web-2/logs",
        {"tail": "5", "follow": "false"},
        None,
    ) in logs.api.calls


def test_logs_filter_and_old_spelling(logs):
    assert logs("logs", "--vm", "web", "--aggregate", "--filter", "one 3").out == "web-3 | one 3\n"


def test_logs_of_nothing(cli):
    assert cli("vm", "logs", "nope").code == 3


def test_error_of_the_guest_is_an_error_here(cli):
    cli.api.streams[f"{BASE}/web-1/exec"] = FakeStream(
        [frames.ERROR + b'{"code":"NOT_FOUND","detail":"no such program"}']
    )
    ran = cli("vm", "exec", "web", "nope")
    assert ran.code == 3
    assert "no such program" in ran.err


def test_exec_passes_the_exit_code_on(cli):
    stream = FakeStream([frames.STDOUT + b"out", frames.EXIT + b"3"])
    cli.api.streams[f"{BASE}/web-1/exec"] = stream
    ran = cli("vm", "exec", "web", "--", "ls", "-l", "--format")
    assert ran.code == 3
    assert ran.out == "out"
    assert cli.api.calls[-1][2] == {"command": '["ls", "-l", "--format"]', "tty": "false"}
    assert stream.sent == [b"END"]


class SlowStream(FakeStream):
    """Answers what is typed, until it is closed."""

    def __init__(self) -> None:
        super().__init__([])
        self.typed = threading.Event()
        self.closed = threading.Event()

    def send(self, frame: bytes) -> None:
        super().send(frame)
        self.typed.set()

    def receive(self) -> bytes | None:
        self.closed.wait(5)
        return None

    def close(self) -> None:
        self.closed.set()


def test_leave_key_ends_a_raw_terminal_as_it_was(capfd):
    outer, inner = pty.openpty()
    import termios

    before = termios.tcgetattr(inner)
    stream = SlowStream()
    join = Join(stream, console=True)
    join._send_size = lambda: os.write(outer, b"ls\r")

    def leave() -> None:
        stream.typed.wait(5)
        os.write(outer, b"\x1d")

    threading.Thread(target=leave).start()
    assert join.run(stdin=inner, interactive=True) == 0
    assert stream.sent[0].startswith(b"ls")
    assert termios.tcgetattr(inner) == before
    os.close(outer)
    os.close(inner)
