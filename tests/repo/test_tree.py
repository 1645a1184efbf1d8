"""The rules that the whole tree keeps: sizes, banned calls, layers, no paths of a machine."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import types
import zlib

import pytest
from documents import ROOT

from blixard import _raft, consensus
from blixard.base.errors import BlixardError

STUB = {1: 0x7C5AC2B3}


def ran(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)


def test_tree_is_tidy() -> None:
    done = ran(sys.executable, "tools/tidy.py")
    assert done.returncode == 0, done.stdout


def test_imports_point_one_way() -> None:
    done = ran(sys.executable, "-c", "from importlinter.cli import lint_imports_command as run;"
               "run(['--no-cache'])")  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_engine_and_its_caller_name_one_interface() -> None:
    (native,) = re.findall(r"INTERFACE: u32 = (\d+);", (ROOT / "native/src/python.rs").read_text())
    assert int(native) == _raft.INTERFACE == consensus.INTERFACE
    # Whoever changes what the stub declares raises the number on both sides, and keeps it here.
    stub = (ROOT / "src/blixard/_raft.pyi").read_bytes()
    assert {consensus.INTERFACE: zlib.crc32(stub)} == STUB


@pytest.mark.parametrize("names", [{}, {"INTERFACE": consensus.INTERFACE + 1}])
def test_engine_of_another_version_is_refused(
    names: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = types.ModuleType("blixard._raft")
    vars(other).update(names)
    monkeypatch.setattr("blixard._raft", other)
    with pytest.raises(BlixardError, match="EXTENSION_STALE"):
        runpy.run_path(str(consensus.__file__))
