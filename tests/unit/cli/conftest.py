from __future__ import annotations

from typing import NamedTuple

import pytest

from blixard.app.main import ROOT
from blixard.cli.tree import run

from .fakes import NOW_MS, FakeApi, web_cluster


class Ran(NamedTuple):
    code: int
    out: str
    err: str


class Cli:
    """Runs command lines against the fake cluster."""

    def __init__(self, capsys: pytest.CaptureFixture[str], home: str) -> None:
        self.api: FakeApi = web_cluster()
        self.environ = {
            "HOME": home,
            "XDG_CONFIG_HOME": f"{home}/config",
            "XDG_STATE_HOME": f"{home}/state",
            "XDG_CACHE_HOME": f"{home}/cache",
            "NO_COLOR": "1",
        }
        self._capsys = capsys

    def __call__(self, *arguments: str, **environ: str) -> Ran:
        code = run(ROOT, list(arguments), {**self.environ, **environ}, api=self.api, now_ms=NOW_MS)
        captured = self._capsys.readouterr()
        return Ran(code, captured.out, captured.err)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path) -> Cli:
    return Cli(capsys, str(tmp_path))
