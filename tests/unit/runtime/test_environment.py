from __future__ import annotations

import json
import os
import subprocess
import sys

from blixard.runtime.logs import REDACTED, JsonLog, format_line

CRASHING = """
import asyncio
from blixard.runtime.environment import make_spawner
from blixard.runtime.logs import JsonLog

async def bad():
    raise ValueError("broken")

async def main():
    try:
        make_spawner(JsonLog(node="n1")).spawn(bad(), name="worker")
        await asyncio.sleep(60)
    finally:
        print("clean-up ran")

asyncio.run(main())
"""


def _fields(**fields: object) -> dict[str, object]:
    record: dict[str, object] = json.loads(format_line("info", "event", dict(fields), 1.5))
    return record


def test_line_is_one_json_object() -> None:
    line = format_line("warning", "disk_slow", {"ms": 12, "what": "a\nb"}, 0.25)
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "timestamp": "1970-01-01T00:00:00.250Z",
        "level": "warning",
        "event": "disk_slow",
        "ms": 12,
        "what": "a\nb",
    }


def test_secrets_stay_out_of_lines() -> None:
    record = _fields(
        seed="x",
        client_secret="x",
        nested={"password": "x", "ok": 1},
        note="use blxjoin1.abc.def or blx_k1_abc now",
        pem="-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----",
    )
    assert record["seed"] == record["client_secret"] == record["pem"] == REDACTED
    assert record["nested"] == {"password": REDACTED, "ok": 1}
    assert record["note"] == f"use {REDACTED} or {REDACTED} now"


def test_low_levels_are_left_out() -> None:
    reader, writer = os.pipe()
    log = JsonLog(level="warning", descriptor=writer, node="n1")
    log("info", "quiet")
    log("error", "loud", why=ValueError("broken"))
    os.close(writer)
    with os.fdopen(reader) as lines:
        records = [json.loads(line) for line in lines]
    assert [(r["event"], r["node"], r["why"]) for r in records] == [("loud", "n1", "broken")]


def test_gone_reader_does_not_stop_logging() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    log = JsonLog(descriptor=writer)
    log("info", "lost")
    os.close(writer)
    assert log.lines_dropped == 1


def test_crashed_task_ends_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CRASHING], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 70
    assert done.stdout == ""
    record = json.loads(done.stderr.splitlines()[-1])
    assert (record["event"], record["level"], record["node"]) == ("fatal", "critical", "n1")
    assert "task worker crashed" in record["reason"]
