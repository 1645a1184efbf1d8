"""Durable writes over HTTP and TLS: N connections for some seconds, the same generator for us and
for etcd's JSON gateway.

The generator is wrk, which costs little CPU; several addresses share the connections. It ends
with one JSON line: rate and latencies.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

_LUA = """
local number, thread_count = 0, 0
function setup(thread) thread_count = thread_count + 1; thread:set("id", thread_count) end
function init(args) wrk.headers["content-type"] = "application/json"; %(auth)s end
function request() number = number + 1; %(request)s end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    "RESULT %%d %%d %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""
_BLIXARD = """
  local key = string.format("/v1/kv/load/%%d-%%d", id, number %% %(keys)d)
  return wrk.format("PUT", key, nil, string.format('{"value":"%%012d%(value)s"}', number))
"""
_ETCD = """
  local prefix = '{"key":"%(key)s","value":"%(value)s'
  return wrk.format("POST", "/v3/kv/put", nil, prefix .. string.format('%%08d', number) .. '"}')
"""


def script(target: str, *, size: int, keys: int, api_key: str = "") -> str:
    """Return the Lua script of a target: ``blixard`` or ``etcd``."""
    auth = f'wrk.headers["authorization"] = "Bearer {api_key}"' if api_key else ""
    if target == "etcd":
        # Base64: 8 characters of the number make 6 bytes, so the value is as long as ours.
        filler = base64.b64encode(b"x" * (size - 6)).decode().rstrip("=")
        filler = filler[: len(filler) // 4 * 4]
        key = base64.b64encode(b"load/key").decode()
        request = _ETCD % {"key": key, "value": filler}
    else:
        request = _BLIXARD % {"keys": keys, "value": "x" * (size - 12)}
    return _LUA % {"auth": auth, "request": request}


def run(
    url: str, lua: str, *, clients: int, seconds: float, timeout_s: float = 10.0
) -> dict[str, float]:
    """Run wrk once and return rate, percentiles in milliseconds and the number of errors."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "load.lua"
        path.write_text(lua)
        command = [
            "wrk",
            "-t1",
            f"-c{clients}",
            f"-d{max(1, round(seconds))}s",
            f"--timeout={timeout_s:g}s",
            "-s",
            str(path),
            url,
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + 60, check=False
        )
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)", done.stdout)
    if found is None:
        raise RuntimeError(f"wrk failed: {done.stdout[-500:]} {done.stderr[-500:]}")
    requests, duration_us, p50, p90, p99, most, errors = map(int, found.groups())
    return {
        "clients": clients,
        "requests": requests,
        "errors": errors,
        "rate": round((requests - errors) / (duration_us / 1e6), 1),
        "p50_ms": p50 / 1000,
        "p90_ms": p90 / 1000,
        "p99_ms": p99 / 1000,
        "max_ms": most / 1000,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="https://HOST:PORT of one node")
    parser.add_argument("--target", choices=("blixard", "etcd"), default="blixard")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--key-file", help="file with an API key")
    given = parser.parse_args()
    key = Path(given.key_file).read_text().strip() if given.key_file else ""
    lua = script(given.target, size=given.size, keys=given.keys, api_key=key)
    row = run(given.url, lua, clients=given.clients, seconds=given.seconds)
    ok = row["errors"] == 0
    print(json.dumps({"bench": "load", "ok": ok, "figures": row, "bars": {"errors": 0}}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
