"""Real clusters on one machine: each member a process in its own network namespace on one bridge.

The bench itself moves into a namespace of its own, which holds the bridge, so nothing of the
machine's network is touched and all of it is gone when the bench ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blixard.security import ca

BRIDGE = "blxbench0"
PREFIX = "blxb"
_NEWNET = 0x40000000
_DEATH_SIGNAL = 1
_libc = ctypes.CDLL(None, use_errno=True)


def run(*command: str, timeout_s: float = 60.0, **options: Any) -> str:
    """Run a command to its end and return what it printed; a failure shows its words."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_s, check=False, **options
    )
    if done.returncode != 0:
        words = f"{done.stdout[-1000:]} {done.stderr[-2000:]}"
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {words}")
    return done.stdout


class Fabric:
    """Namespaces of members on one bridge inside the bench's own namespace."""

    def __init__(self) -> None:
        _remove_stale()
        if _libc.unshare(_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "a network namespace cannot be made (root is needed)")
        self.names: list[str] = []
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "address", "add", "10.78.0.1/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")

    def add(self, host: int) -> tuple[str, str]:
        """Return name and address of a new namespace."""
        name, address = f"{PREFIX}{os.getpid()}-{host}", f"10.78.0.{host}"
        run("ip", "netns", "add", name)
        self.names.append(name)
        inside = ("ip", "-n", name)
        run("ip", "link", "add", f"v{host}", "type", "veth", "peer", "eth0", "netns", name)
        run("ip", "link", "set", f"v{host}", "master", BRIDGE, "up")
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "address", "add", f"{address}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        return name, address

    def close(self) -> None:
        """Remove the namespaces; the bench's own ends with the bench."""
        for name in self.names:
            run("ip", "netns", "delete", name)
        self.names.clear()


def _remove_stale() -> None:
    """Remove the namespaces of benches that were killed."""
    for line in run("ip", "netns", "list").splitlines():
        name = line.split(" ")[0]
        pid = name.removeprefix(PREFIX).split("-")[0]
        if name.startswith(PREFIX) and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            run("ip", "netns", "delete", name)


def _die_with_parent() -> None:
    _libc.prctl(_DEATH_SIGNAL, signal.SIGKILL)


class Member:
    """One process of a cluster; started, killed and paused by its pid."""

    def __init__(
        self, namespace: str, address: str, place: Path, command: list[str], env: dict[str, str]
    ) -> None:
        self.namespace, self.address, self.place = namespace, address, place
        self.command, self.env = command, env
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def inside(self, *command: str) -> list[str]:
        """Return a command that runs in the member's namespace."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}", *command]

    def start(self, *wrapper: str) -> None:
        with open(self.place / "log", "ab") as log:
            self.process = subprocess.Popen(
                self.inside(*wrapper, *self.command),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self.env,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - a bare system call is safe there
            )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def log_tail(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.place / "log").read_text(errors="replace")[-2000:]
        return ""


class Node(Member):
    """A Blixard daemon with its data directory and default configuration."""

    def __init__(self, fabric: Fabric, number: int, place: Path) -> None:
        namespace, address = fabric.add(10 + number)
        self.name = f"node{number}"
        self.data = place / self.name
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        work = place / f"{self.name}.bench"
        work.mkdir(exist_ok=True)
        self.config = work / "config.toml"
        self.config.write_text(
            f'[cluster]\nnode_id = "{self.name}"\naddress = "{address}"\ndata_dir = "{self.data}"\n'
        )
        kept = {k: v for k, v in os.environ.items() if not k.startswith("BLIXARD_")}
        env = {**kept, "BLIXARD_HINTS": "0"}
        self.program = str(Path(sys.executable).parent / "blixard")
        command = [self.program, "--config-file", str(self.config), "node", "run"]
        super().__init__(namespace, address, work, command, env)
        self.url = f"https://{address}:7443"
        self.socket = self.data / "api.sock"

    def local(self, *words: str) -> str:
        """Run a command that acts on this machine's node: init, join."""
        command = [self.program, "--config-file", str(self.config), *words]
        return run(*self.inside(*command), env=self.env, timeout_s=90)

    def cli(self, *words: str) -> str:
        """Run a command against this node over its socket."""
        command = [self.program, "--address", str(self.socket), *words]
        return run(*self.inside(*command), env=self.env)

    def kill_guard(self) -> None:
        """Kill the guard of the node's hypervisors, which outlives the daemon."""
        place = str(self.data / "vms").encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"blixard.hypervisors.guard.process" in words and place in words:
                    os.kill(int(entry.name), signal.SIGKILL)

    def status(self) -> dict[str, Any]:
        """Return ``cluster status``."""
        answer: dict[str, Any] = json.loads(self.cli("cluster", "status", "-o", "json"))
        return answer


class Cluster:
    """Nodes that are one cluster; an administrator's API key for load over TLS."""

    def __init__(self, fabric: Fabric, count: int, place: Path) -> None:
        self.place = place
        self.nodes = [Node(fabric, number, place) for number in range(1, count + 1)]
        self.key = ""
        self.context = ssl.create_default_context()

    def form(self) -> None:
        """Make the cluster and wait until all of it votes."""
        first, *others = self.nodes
        first.local("init")
        first.start()
        wait_until(lambda: bool(first.status()["leader"]), 30, "the first node leads", first)
        for node in others:
            token = self.place / f"{node.name}.token"
            first.cli("cluster", "add-node", "--node-id", node.name, "--output-file", str(token))
            node.local("cluster", "join", "--token-file", str(token))
            node.start()
        whole = len(self.nodes)
        wait_until(lambda: self._ready(first, whole), 60, f"{whole} voters are ready", *self.nodes)
        self.key = first.cli("auth", "create-key", "--name", "bench", "--role", "admin").strip()
        self.context.load_verify_locations(str(first.data / "pki" / "ca.crt"))
        self.context.check_hostname = False

    @staticmethod
    def _ready(first: Node, whole: int) -> bool:
        status = first.status()
        states = [node.get("status", {}).get("state") for node in status["nodes"]]
        return len(status["voters"]) == whole and states == ["Ready"] * whole

    def leader(self) -> Node:
        """Return the node that leads."""
        for node in self.nodes:
            with contextlib.suppress(RuntimeError):
                name = node.status()["leaderName"] if node.alive else ""
                found = [other for other in self.nodes if other.name == name and other.alive]
                if found:
                    return found[0]
        raise RuntimeError("no node knows a leader")

    def close(self) -> None:
        for node in self.nodes:
            node.kill()
            node.kill_guard()


class Etcd(Member):
    """One member of the etcd cluster beside ours."""

    def __init__(self, fabric: Fabric, number: int, place: Path, tls: dict[str, str]) -> None:
        namespace, address = fabric.add(20 + number)
        self.name = f"etcd{number}"
        data = place / self.name
        data.mkdir(parents=True, mode=0o700)
        peers = ",".join(f"etcd{n}=https://10.78.0.{20 + n}:2380" for n in (1, 2, 3))
        command = ["etcd", "--name", self.name, "--data-dir", str(data / "data")]
        command += ["--initial-cluster", peers, "--initial-cluster-state", "new"]
        command += ["--listen-peer-urls", f"https://{address}:2380"]
        command += ["--initial-advertise-peer-urls", f"https://{address}:2380"]
        command += ["--listen-client-urls", f"https://{address}:2379"]
        command += ["--advertise-client-urls", f"https://{address}:2379"]
        command += ["--log-level", "error", "--logger", "zap"]
        for side in ("", "peer-"):
            command += [f"--{side}cert-file", tls["chain"], f"--{side}key-file", tls["key"]]
        command += ["--peer-trusted-ca-file", tls["roots"], "--peer-client-cert-auth"]
        super().__init__(namespace, address, data, command, dict(os.environ))
        self.url = f"https://{address}:2379"


class EtcdCluster:
    """Three members of Debian's etcd with TLS and its default timeouts."""

    def __init__(self, fabric: Fabric, place: Path) -> None:
        self.tls = _certificates(place)
        self.nodes = [Etcd(fabric, number, place, self.tls) for number in (1, 2, 3)]
        self.context = ssl.create_default_context(cafile=self.tls["roots"])
        self.context.check_hostname = False

    def form(self) -> None:
        for node in self.nodes:
            node.start()
        wait_until(lambda: self.leader() is not None, 30, "etcd leads", *self.nodes)

    def leader(self) -> Etcd:
        """Return the member that leads."""
        for node in self.nodes:
            with contextlib.suppress(OSError, http.client.HTTPException):
                client = Client(node.url, self.context)
                answer = client.ask("POST", "/v3/maintenance/status", b"{}")[1]
                client.close()
                if answer.get("leader") and answer["leader"] == answer["header"]["member_id"]:
                    return node
        raise RuntimeError("no member of etcd leads")

    def close(self) -> None:
        for node in self.nodes:
            node.kill()


def _certificates(place: Path) -> dict[str, str]:
    """Write one certificate for all members, from an authority like a cluster's own."""
    import ipaddress

    from cryptography.x509 import IPAddress
    from cryptography.x509.oid import ExtendedKeyUsageOID

    now_ms = time.time_ns() // 1_000_000
    domain = "bench.blixard"
    root = ca.make_root(domain, now_ms)
    issuer = ca.make_issuer(root, domain, now_ms)
    key = ca.make_key()
    names = [IPAddress(ipaddress.ip_address(f"10.78.0.{20 + n}")) for n in (1, 2, 3)]
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    chain = ca._issue_leaf(
        issuer, ca.make_request(key), names, usages, now_ms=now_ms, validity_s=86_400
    )
    files = {"chain": chain, "key": key, "roots": root.certificate_pem}
    place.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, data in files.items():
        path = place / f"etcd-{name}.pem"
        path.write_bytes(data)
        paths[name] = str(path)
    return paths


class Client:
    """One connection over TLS that stays open; JSON in and out."""

    def __init__(
        self, url: str, context: ssl.SSLContext, *, key: str = "", timeout_s: float = 2.0
    ) -> None:
        self._connection = http.client.HTTPSConnection(
            url.removeprefix("https://"), context=context, timeout=timeout_s
        )
        self._headers = {"content-type": "application/json"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"

    def connect(self) -> None:
        """Connect now, so that a failure is none of a request. Raises OSError."""
        self._connection.connect()

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """Return status and body. Raises OSError, HTTPException."""
        self._connection.request(method, path, body, self._headers)
        answer = self._connection.getresponse()
        data = answer.read()
        return answer.status, json.loads(data) if data else None

    def close(self) -> None:
        self._connection.close()


def wait_until(condition: Any, seconds: float, what: str, *members: Member) -> None:
    """Wait for a condition; a failure shows the members' logs."""
    end = time.monotonic() + seconds
    last: Exception | None = None
    while time.monotonic() < end:
        try:
            if condition():
                return
        except (RuntimeError, OSError, KeyError, http.client.HTTPException) as error:
            last = error
        dead = [member for member in members if not member.alive]
        if dead:
            break
        time.sleep(0.1)
    logs = "\n".join(f"{member.place}: {member.log_tail()}" for member in members)
    raise RuntimeError(f"waited in vain until {what}: {last}\n{logs}")


@contextlib.contextmanager
def clusters(
    count: int = 3, *, etcd: bool = False, place: str = ""
) -> Iterator[tuple[Cluster, EtcdCluster | None]]:
    """A formed cluster, with etcd beside it if asked; everything is gone afterwards."""
    root = Path(place or tempfile.mkdtemp(prefix="blixard-bench-"))
    fabric = Fabric()
    started: list[Any] = []
    try:
        ours = Cluster(fabric, count, root / "blixard")
        started.append(ours)
        ours.form()
        peer = None
        if etcd:
            peer = EtcdCluster(fabric, root / "etcd")
            started.append(peer)
            peer.form()
        yield ours, peer
    finally:
        for cluster in started:
            cluster.close()
        fabric.close()
        if not place:
            shutil.rmtree(root, ignore_errors=True)


def report(bench: str, figures: dict[str, Any], bars: dict[str, Any], *, ok: bool) -> int:
    """Print the closing JSON line; return the exit code."""
    print(json.dumps({"bench": bench, "ok": ok, "figures": figures, "bars": bars}), flush=True)
    return 0 if ok else 1


def main() -> int:
    """Form both clusters, show their leaders and end."""
    started = time.monotonic()
    with clusters(etcd=True) as (ours, peer):
        assert peer is not None
        figures = {
            "formed_s": round(time.monotonic() - started, 1),
            "leader": ours.leader().name,
            "etcd_leader": peer.leader().name,
        }
    return report("cluster", figures, {}, ok=True)


if __name__ == "__main__":
    sys.exit(main())
