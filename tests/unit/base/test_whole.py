"""Reads and writes that the system cuts short are carried to their end."""

import os
import pathlib

import pytest

from blixard.base.whole import read_whole, write_whole
from blixard.daemon.files import NodeFiles


@pytest.mark.parametrize("most", [1, 3, 7, 100])
def test_pieces_make_a_whole(most):
    held = bytearray(b"........")

    def write(left, at):
        held[at : at + min(most, len(left))] = left[:most]
        return min(most, len(left))

    write_whole(write, b"0123456789", 8)
    assert held == b"........0123456789"
    assert read_whole(lambda left, at: bytes(held[at : at + min(most, left)]), 10, 8) == held[8:]
    assert read_whole(lambda left, at: bytes(held[at : at + min(most, left)]), 99, 8) == held[8:]
    assert read_whole(lambda _left, _at: b"", 9) == b""


def test_key_file_is_whole_on_a_disk_that_writes_by_pieces(tmp_path: pathlib.Path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:5]))
    files = NodeFiles(tmp_path)
    files.mark("under-way", "a text of more than five bytes")
    assert (tmp_path / "under-way").read_text() == "a text of more than five bytes"
