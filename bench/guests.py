"""Guests for benches: nginx tells which boot of the guest answers; observers ask all the time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
from cluster import Cluster, Node

from blixard.api.client import ApiClient
from blixard.base.config_keys import ImagesSection
from blixard.base.errors import BlixardError
from blixard.images.debian.builder import DebianGuestBuilder
from blixard.ports.guests import GuestRecipe

START = (
    "cat /proc/sys/kernel/random/boot_id > /var/www/html/index.html && exec nginx -g 'daemon off;'"
)
RECIPE = {
    "packages": ["nginx-light"],
    "services": [{"name": "nginx", "command": ["/bin/sh", "-c", START]}],
}
# Runs in a node's namespace: asks the address again and again, prints who answered and when.
OBSERVER = (
    "import http.client, sys, time\n"
    "while True:\n"
    "    try:\n"
    "        c = http.client.HTTPConnection(sys.argv[1], 80, timeout=0.5)\n"
    "        c.request('GET', '/')\n"
    "        print(time.monotonic(), c.getresponse().read().decode().strip(), flush=True)\n"
    "        c.close()\n"
    "    except (OSError, http.client.HTTPException): pass\n"
    "    time.sleep(0.05)\n"
)


def prebuild() -> None:
    """Build the guest while the packages can be fetched: a bench's namespaces have no way out."""
    recipe = msgspec.convert(RECIPE, GuestRecipe)
    builder = DebianGuestBuilder(ImagesSection().cache_dir)
    asyncio.run(builder.build(recipe, lambda line: print(f"image: {line}", flush=True)))


def vm(name: str, **spec: Any) -> dict[str, Any]:
    """Return a VM document."""
    body = {"recipe": RECIPE, "memory": "128MiB", "readiness": {"http": {"port": 80}}, **spec}
    return {
        "apiVersion": "blixard.dev/v1",
        "kind": "VM",
        "metadata": {"name": name, "namespace": "default"},
        "spec": body,
    }


def apply(node: Node, *documents: dict[str, Any]) -> None:
    """Apply documents over the node's socket."""
    path = node.place / "apply.json"
    path.write_text("\n---\n".join(json.dumps(d) for d in documents))
    node.cli("apply", "-f", str(path))


def instances(node: Node) -> list[dict[str, Any]]:
    """Return all instances as *node* has them now."""
    return _client(node).list("/v1/instances")


def _client(node: Node) -> ApiClient:
    """Return the open connection to a node: a process per question would slow the guests."""
    if node.name not in _CLIENTS:
        _CLIENTS[node.name] = ApiClient(str(node.socket))
    return _CLIENTS[node.name]


_CLIENTS: dict[str, ApiClient] = {}


def state_of(node: Node, name: str) -> str:
    """Return a node's state as *node* has it."""
    found = _client(node).request("GET", f"/v1/nodes/{name}", query={"stale": "true"})
    return str(found.get("status", {}).get("state", ""))


def instance(node: Node, name: str) -> dict[str, Any]:
    """Return one instance."""
    return next(i for i in instances(node) if i["metadata"]["name"] == name)


def is_ready(item: dict[str, Any]) -> bool:
    """Tell whether an instance is ready."""
    return bool(item.get("status", {}).get("ready"))


def hypervisors(cluster: Cluster, name: str) -> int:
    """Return how many hypervisor processes of that name live in the cluster's namespaces."""
    spaces = {_identity(f"/run/netns/{node.namespace}") for node in cluster.nodes}
    count = 0
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            ours = words[0].endswith(b"/qemu-system-x86_64") and name.encode() in words[1:3]
            count += ours and _identity(f"/proc/{entry}/ns/net") in spaces
    return count


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


class Observers:
    """One observer per node: the copy that runs there answers there, whatever the others say."""

    def __init__(self, cluster: Cluster, address: str) -> None:
        self.seen: list[tuple[float, str, str]] = []
        self._processes = []
        for node in cluster.nodes:
            process = subprocess.Popen(
                node.inside(sys.executable, "-c", OBSERVER, address),
                stdout=subprocess.PIPE,
                text=True,
            )
            self._processes.append(process)
            threading.Thread(target=self._read, args=(node.name, process), daemon=True).start()

    def _read(self, node: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with contextlib.suppress(ValueError):
                at, boot = line.split()
                self.seen.append((float(at), node, boot))

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def overlaps(self) -> list[tuple[str, str]]:
        """Return pairs of boots of which one still answered after the other had begun to."""
        spans: dict[str, tuple[float, float]] = {}
        for at, _, boot in sorted(self.seen):
            first, _last = spans.get(boot, (at, at))
            spans[boot] = (first, at)
        ordered = sorted(spans.items(), key=lambda item: item[1])
        return [
            (one, two)
            for (one, (_, end)), (two, (begin, _)) in itertools.pairwise(ordered)
            if end > begin
        ]


def wait(condition: Any, seconds: float, what: str) -> float:
    """Wait; return the time (monotonic) at which the condition held."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(RuntimeError, StopIteration, KeyError, BlixardError):
            if condition():
                return time.monotonic()
        time.sleep(0.1)
    raise RuntimeError(f"waited {seconds} s in vain until {what}")
