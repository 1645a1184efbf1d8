"""What a command line may import before it needs it. Milliseconds are measured by bench, not here."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = (
    "asyncio",
    "grpc",
    "cryptography",
    "yaml",
    "msgspec",
    "http.client",
    "urllib.request",
    "tomllib",
    "email",
    "ssl",
)


def imported(home: str, *words: str) -> set[str]:
    code = (
        "import sys; from blixard.app.main import ROOT; from blixard.cli.tree import run; import os\n"
        f"run(ROOT, {list(words)!r}, dict(os.environ)); print(*sorted(sys.modules), file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "BLIXARD_CONFIG_FILE": f"{home}/none", "HOME": home},
    )
    return set(ran.stderr.split())


@pytest.mark.parametrize(
    "words", [("--help",), ("vm", "--help"), ("vm", "list", "--help"), ("completion", "--help")]
)
def test_help_imports_nothing_heavy(tmp_path, words):
    allowed = {"msgspec"} if len(words) > 2 or words[0] == "completion" else set()
    assert not (set(HEAVY) - allowed) & imported(str(tmp_path), *words)


def test_listing_needs_no_event_loop(tmp_path):
    assert not {"asyncio", "grpc", "cryptography", "yaml", "tomllib"} & imported(
        str(tmp_path), "vm", "list"
    )
