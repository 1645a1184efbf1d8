"""Real nodes for tests: each its own daemon in its own network namespace, driven by the real CLI.

A hub namespace holds the bridge, so that nothing is made in the machine's own namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from blixard.base.config_keys import ImagesSection
from blixard.images.debian.builder import DebianGuestBuilder
from blixard.ports.guests import GuestRecipe

COMMAND_S = 60.0
UP_S = 60.0
STOP_S = 12.0


class Ran(NamedTuple):
    """How a command line ended."""

    code: int
    out: str
    err: str


def sh(*words: str, check: bool = True) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


class NodeUnderTest:
    """One node: its namespace, its data directory, its daemon."""

    def __init__(self, plane: ControlPlane, number: int, data_dir: pathlib.Path) -> None:
        self.plane = plane
        self.name = f"node{number}"
        self.address = f"10.77.{plane.octet}.{number}"
        self.namespace = f"{plane.tag}-{number}"
        self.data_dir = data_dir
        self.config = plane.root / f"{self.name}.toml"
        self.log_path = plane.root / f"{self.name}.log"
        self.daemon: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> str:
        return str(self.data_dir / "api.sock")

    def write_config(self, extra: str) -> None:
        self.config.write_text(
            f'[cluster]\nnode_id = "{self.name}"\naddress = "{self.address}"\n'
            f'data_dir = "{self.data_dir}"\n\n[node]\nvcpus = 4\nmemory_mb = 2048\n\n'
            f'[images]\ncache_dir = "{self.plane.cache}"\n{extra}'
        )

    def inside(self, *words: str) -> list[str]:
        """Return the words as a command in the node's network namespace."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}", *words]

    def cli(self, *words: str, stdin: str = "", timeout_s: float = COMMAND_S) -> Ran:
        """Run ``blixard`` against this node's socket."""
        return self.plane.run(self, "--address", self.socket, *words, stdin=stdin,
                              timeout_s=timeout_s)  # fmt: skip

    def local(self, *words: str, timeout_s: float = COMMAND_S) -> Ran:
        """Run a ``blixard`` command that acts on this machine, in the node's namespace."""
        return self.plane.run(self, "--config-file", str(self.config), *words,
                              timeout_s=timeout_s)  # fmt: skip

    def json(self, *words: str) -> Any:
        """Return what a command prints with ``-o json``."""
        ran = self.cli(*words, "-o", "json")
        assert ran.code == 0, ran.err
        return json.loads(ran.out)

    def start(self) -> None:
        """Start the daemon; :meth:`wait_up` waits for it."""
        with self.log_path.open("ab") as log:
            self.daemon = subprocess.Popen(
                self.inside(*BLIXARD, "--config-file", str(self.config), "node", "run"),
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                env=self.plane.environ,
            )  # fmt: skip

    def wait_up(self, timeout_s: float = UP_S) -> None:
        """Wait until the node answers with a leader known."""
        assert self.daemon is not None

        def leads() -> bool:
            assert self.daemon is not None
            assert self.daemon.poll() is None, self.log()[-3000:]
            ran = self.cli("cluster", "status", "-o", "json", "--timeout", "5s")
            return ran.code == 0 and bool(json.loads(ran.out).get("leader"))

        until(leads, timeout_s, lambda: self.log()[-3000:])

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def kill(self) -> None:
        """Kill everything in the node's namespace without warning: daemon, guard, guests."""
        for _ in range(50):
            pids = [int(p) for p in sh("ip", "netns", "pids", self.namespace, check=False).split()]
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not pids:
                break
            time.sleep(0.1)
        if self.daemon is not None:
            self.daemon.wait(STOP_S)
            self.daemon = None

    def stop(self) -> int:
        """Stop the daemon in order; return its exit code."""
        assert self.daemon is not None
        self.daemon.terminate()
        code = self.daemon.wait(STOP_S)
        self.daemon = None
        return code


BLIXARD = (sys.executable, "-m", "blixard.app.main")


class ControlPlane:
    """A hub with a bridge, and the nodes on it."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.tag = f"bxt{secrets.token_hex(2)}"
        # Sockets have short paths at most; the directories of tests have long ones.
        self.short = pathlib.Path(tempfile.mkdtemp(prefix="bx"))
        self.octet = secrets.randbelow(200) + 20
        # Shared with whatever built guests here before: it is keyed by content and locked. The
        # nodes' namespaces reach nothing outside, so tests build before a node needs the guest.
        self.cache = pathlib.Path(ImagesSection().cache_dir)
        self.nodes: list[NodeUnderTest] = []
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(root),
            "NO_COLOR": "1",
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        }

    def make_hub(self) -> None:
        sh("ip", "netns", "add", f"{self.tag}-hub")
        sh("ip", "-n", f"{self.tag}-hub", "link", "add", "br0", "type", "bridge")
        sh("ip", "-n", f"{self.tag}-hub", "link", "set", "br0", "up")

    def add(self, extra: str = "", *, data_dir: pathlib.Path | None = None) -> NodeUnderTest:
        """Make the namespace and the configuration of one more node; nothing runs yet."""
        number = len(self.nodes) + 1
        node = NodeUnderTest(self, number, data_dir or self.short / f"n{number}")
        self.nodes.append(node)
        node.write_config(extra)
        hub, own = f"{self.tag}-hub", node.namespace
        sh("ip", "netns", "add", own)
        port = f"p{number}"
        sh("ip", "-n", hub, "link", "add", port, "type", "veth", "peer", "name", "eth0",
           "netns", own)  # fmt: skip
        sh("ip", "-n", hub, "link", "set", port, "master", "br0", "up")
        sh("ip", "-n", own, "address", "add", f"{node.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            sh("ip", "-n", own, "link", "set", device, "up")
        return node

    def run(
        self,
        node: NodeUnderTest,
        *words: str,
        stdin: str = "",
        timeout_s: float = COMMAND_S,
        environ: dict[str, str] | None = None,
    ) -> Ran:
        done = subprocess.run(
            node.inside(*BLIXARD, *words), input=stdin, capture_output=True, text=True,
            timeout=timeout_s, env=self.environ | (environ or {}), cwd=self.root, check=False,
        )  # fmt: skip
        return Ran(done.returncode, done.stdout, done.stderr)

    def found(self, extra: str = "", *, data_dir: pathlib.Path | None = None) -> NodeUnderTest:
        """Make a cluster of one node and start it."""
        node = self.add(extra, data_dir=data_dir)
        made = node.local("init")
        assert made.code == 0, made.err
        node.start()
        node.wait_up()
        return node

    def token(self, *words: str, by: NodeUnderTest | None = None) -> str:
        """Return the path of a file with a fresh join token."""
        made = (by or self.nodes[0]).cli("cluster", "add-node", "-q", *words)
        assert made.code == 0, made.err
        path = self.root / f"token-{secrets.token_hex(4)}"
        path.touch(mode=0o600)
        path.write_text(made.out)
        return str(path)

    def join(self, extra: str = "") -> NodeUnderTest:
        """Add a node, join it with a token, start it, and wait until it is ready."""
        node = self.add(extra)
        joined = node.local("cluster", "join", "--token-file", self.token("--node-id", node.name))
        assert joined.code == 0, joined.err
        node.start()
        node.wait_up()
        return node

    def wait_voters(self, count: int) -> None:
        """Wait until so many nodes vote."""
        until(
            lambda: len(self.nodes[0].json("cluster", "status")["voters"]) == count,
            UP_S,
            lambda: self.nodes[0].log()[-3000:],
        )

    def build(self, recipe: GuestRecipe) -> None:
        """Build a guest in the machine's own namespace, where packages can be fetched."""
        asyncio.run(DebianGuestBuilder(str(self.cache)).build(recipe, lambda _line: None))

    def leader(self) -> NodeUnderTest:
        name = self.nodes[0].json("cluster", "status")["leaderName"]
        return next(node for node in self.nodes if node.name == name)

    def remove(self) -> None:
        """Kill what runs in the namespaces and remove them."""
        for node in self.nodes:
            node.kill()
            sh("ip", "netns", "del", node.namespace, check=False)
        sh("ip", "netns", "del", f"{self.tag}-hub", check=False)
        shutil.rmtree(self.short, ignore_errors=True)


def until(
    holds: Callable[[], bool], timeout_s: float, said: Callable[[], str] = lambda: ""
) -> None:
    """Wait for a condition; at the end of the time fail with what *said* returns."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, said()
        time.sleep(0.2)


@contextlib.contextmanager
def control_plane(root: pathlib.Path, count: int = 1) -> Iterator[ControlPlane]:
    """Run *count* nodes as one cluster, as many of them voters as may be."""
    plane = ControlPlane(root)
    try:
        plane.make_hub()
        plane.found()
        for _ in range(count - 1):
            plane.join()
        if count > 1:
            plane.wait_voters(count - 1 + count % 2)  # their number is odd
        yield plane
    finally:
        plane.remove()
