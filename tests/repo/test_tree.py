"""The rules that the whole tree keeps: sizes, banned calls, layers, no paths of a machine."""

from __future__ import annotations

import subprocess
import sys

from documents import ROOT


def ran(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)


def test_tree_is_tidy() -> None:
    done = ran(sys.executable, "tools/tidy.py")
    assert done.returncode == 0, done.stdout


def test_imports_point_one_way() -> None:
    done = ran(sys.executable, "-c", "from importlinter.cli import lint_imports_command as run;"
               "run(['--no-cache'])")  # fmt: skip
    assert done.returncode == 0, done.stdout
