"""Calls of a function in a real guest, from the caller's request over TLS to its answer.

``local`` asks the node whose microVM is warm, ``forwarded`` another node, which passes the call on.
The same handler stands beside it twice, behind plain HTTP on this machine: ``cgi`` starts a process
for each call, ``plain`` keeps one (the floor: no TLS, no cluster, no microVM). Rounds alternate.
``cold`` is the first call of a function whose image is built: a microVM boots, its code is loaded.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster import Cluster, Node, clusters, report
from guests import wait

from blixard.base.config_keys import ImagesSection
from blixard.images.debian.builder import DebianGuestBuilder
from blixard.ports.guests import GuestRecipe

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "examples" / "hello.py"
EVENT = b'{"name": "Ada"}'
BAR_WARM_P50_MS = 10.0
READY_S, CALL_S = 120.0, 60.0


class Caller:
    """One connection that stays open, and a path to call."""

    def __init__(
        self, connection: http.client.HTTPConnection, path: str = "/", *, key: str = ""
    ) -> None:
        self._connection, self._path = connection, path
        self._headers = {"content-type": "application/json"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"

    def call(self) -> tuple[float, Any]:
        """Return the milliseconds of a call, and the answer's headers."""
        began = time.perf_counter()
        self._connection.request("POST", self._path, EVENT, self._headers)
        answer = self._connection.getresponse()
        body = answer.read()
        took_ms = (time.perf_counter() - began) * 1000
        if answer.status != 200 or json.loads(body)["greeting"] != "Hello, Ada":
            raise RuntimeError(f"{self._path}: {answer.status} {body[:500]!r}")
        return took_ms, answer.headers


def caller(ours: Cluster, node: Node, name: str) -> Caller:
    """Return a caller of a function through a node."""
    connection = http.client.HTTPSConnection(
        node.url.removeprefix("https://"), context=ours.context, timeout=CALL_S
    )
    path = f"/v1/namespaces/default/functions/{name}/invoke"
    return Caller(connection, path, key=ours.key)


@contextlib.contextmanager
def peer(way: str) -> Iterator[Caller]:
    """Give a caller of the handler behind plain HTTP."""
    command = [sys.executable, str(HERE / "function_peer.py"), way]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CALL_S)
        try:
            yield Caller(connection)
        finally:
            connection.close()
            process.kill()


def deploy(node: Node, name: str) -> None:
    """Deploy the handler and wait until it can be called."""
    node.cli("function", "deploy", name, str(SOURCE), "--timeout", "30s", "--idle-timeout", "10m")


def cold_starts(ours: Cluster, count: int) -> tuple[str, list[float]]:
    """Call fresh functions for the first time; return the last one's node and the milliseconds."""
    first, times, node = ours.nodes[0], [], ""
    for number in range(count):
        deploy(first, f"hello{number}")
        took_ms, headers = caller(ours, first, f"hello{number}").call()
        if headers["blixard-function-cold"] != "true":
            raise RuntimeError("the first call was warm")
        node = headers["blixard-function-node"]
        print(f"cold {took_ms:8.0f} ms: {headers['blixard-function-phases-ms']}", flush=True)
        times.append(took_ms)
    return node, times


def warm_calls(ours: Cluster, name: str, node_name: str, calls: int) -> dict[str, list[float]]:
    """Call the warm function both ways and both peers, in turns."""
    here = next(node for node in ours.nodes if node.name == node_name)
    there = next(node for node in ours.nodes if node is not here)
    times: dict[str, list[float]] = {}
    with peer("cgi") as cgi, peer("plain") as plain:
        callers = {
            "local": caller(ours, here, name), "forwarded": caller(ours, there, name),
            "cgi": cgi, "plain": plain,
        }  # fmt: skip
        for number in range(calls + 5):
            for way, one in callers.items():
                took_ms, headers = one.call()
                if number < 5:
                    continue  # connections and first compilations are not what is measured
                times.setdefault(way, []).append(took_ms)
                if way in ("local", "forwarded"):
                    if headers["blixard-function-node"] != node_name:
                        raise RuntimeError(f"{way}: ran on {headers['blixard-function-node']}")
                    handler = _phases(headers).get("handler", 0.0)
                    times.setdefault("handler", []).append(handler)
    return times


def _phases(headers: Any) -> dict[str, float]:
    pairs = (part.split("=") for part in headers["blixard-function-phases-ms"].split(", "))
    return {name: float(value) for name, value in pairs}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--cold", type=int, default=3)
    given = parser.parse_args()
    builder = DebianGuestBuilder(ImagesSection().cache_dir)
    asyncio.run(builder.build(GuestRecipe(), lambda line: print(f"image: {line}", flush=True)))
    figures: dict[str, Any] = {}
    with clusters() as (ours, _):
        node, cold = cold_starts(ours, given.cold)
        name = f"hello{given.cold - 1}"
        status = f"/v1/namespaces/default/functions/{name}"
        for one in ours.nodes:
            wait(lambda n=one: _idle(n, status), READY_S, f"{one.name} knows the instance")
        times = warm_calls(ours, name, node, given.calls)
    print(f"{'way':>10} {'p50 ms':>8} {'p99 ms':>8} {'worst':>8}")
    for way, found in times.items():
        figures[f"{way}_p50_ms"] = round(statistics.median(found), 2)
        figures[f"{way}_p99_ms"] = round(statistics.quantiles(found, n=100)[98], 2)
        print(
            f"{way:>10} {figures[f'{way}_p50_ms']:>8.2f} {figures[f'{way}_p99_ms']:>8.2f} "
            f"{max(found):>8.2f}"
        )
    figures["cold_ms"] = round(statistics.median(cold))
    for other in ("cgi", "plain"):
        ratio = figures["local_p50_ms"] / figures[f"{other}_p50_ms"]
        figures[f"local_to_{other}"] = round(ratio, 3)
        print(f"local takes {ratio:.2f} times as long as {other}")
    bars = {"local_p50_ms": f"< {BAR_WARM_P50_MS}", "forwarded_p50_ms": f"< {BAR_WARM_P50_MS}"}
    ok = all(figures[figure] < BAR_WARM_P50_MS for figure in bars)
    return report("functions", figures, bars, ok=ok)


def _idle(node: Node, path: str) -> bool:
    """Tell whether a node knows that an instance waits."""
    from blixard.api.client import ApiClient

    with contextlib.closing(ApiClient(str(node.socket))) as client:
        return int(client.get(path)["status"]["idle"]) > 0


if __name__ == "__main__":
    sys.exit(main())
