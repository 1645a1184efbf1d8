"""A guest's console: bounded on disk, harmless on a terminal."""

from __future__ import annotations

import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blixard.hypervisors.qemu import console


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"plain", "plain"),
        (b"\x1b[31mred\x1b[0m", "red"),
        (b"\x1b]0;title\x07after", "after"),
        (b"\x1b]52;c;cGFzdGU=\x1b\\after", "after"),
        (b"a\rb\x08c\x00d", "abcd"),
        ("\x9b31mred".encode(), "31mred"),
        (b"tab\tstays\nso does this", "tab\tstays\nso does this"),
        ("grüße".encode(), "grüße"),
        (b"\xff", "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_escape_sequences_are_removed(raw: bytes, text: str) -> None:
    assert console.clean(raw) == text


@given(st.binary(max_size=200))
def test_nothing_cleaned_drives_a_terminal(raw: bytes) -> None:
    text = console.clean(raw)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text if c not in "\n\t")


def test_tail_skips_empty_lines(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(b"one\r\n\r\ntwo\r\nthree\r\n")
    assert console.tail(str(log), 2) == ["two", "three"]
    assert console.tail(str(log), 0) == []


def test_missing_log_has_no_lines(tmp_path: pathlib.Path) -> None:
    missing = str(tmp_path / "none")
    console.trim(missing)
    assert console.tail(missing, 5) == []
    assert console.Follower(missing).new_lines() == []


def test_large_log_is_cut_to_its_end(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(b"x" * console.LOG_BYTES_MAX + b"\nthe end\n")
    console.trim(str(log))
    assert log.stat().st_size == console.KEEP_BYTES
    assert console.tail(str(log), 1) == ["the end"]


def test_small_log_is_not_cut(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(b"x" * console.LOG_BYTES_MAX)
    console.trim(str(log))
    assert log.stat().st_size == console.LOG_BYTES_MAX


def test_follower_gives_whole_lines_once(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(b"old\n")
    follower = console.Follower(str(log))
    with log.open("ab") as file:
        file.write(b"new\nha")
        file.flush()
        assert follower.new_lines() == ["new"]
        file.write(b"lf\n")
        file.flush()
        assert follower.new_lines() == ["half"]
    assert follower.new_lines() == []


def test_follower_starts_anew_after_a_cut(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(b"a long first line\n")
    follower = console.Follower(str(log))
    log.write_bytes(b"short\n")
    assert follower.new_lines() == ["short"]
