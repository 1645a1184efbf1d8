"""Acknowledged writes lost by power cuts: all three machines, at random moments, under load.

Each data directory is an ext4 file system on a loop device of a backing file. The loop device works
with direct I/O, so the file holds exactly the blocks that the file system sent to its disk; what is
only in the page cache is not in it. A cut (1) shuts every file system down with the ioctl that file
system tests use for it, without flushing the journal: from then on no block reaches the device, and
(2) SIGKILLs every daemon, in random order, then (3) copies the backing file with direct reads. The
next round mounts the copies: the old file systems and their page caches are thrown away.

Controls prove that the method drops what was not synced and would see a loss: in each round a
process on each file system writes numbers without syncing (they must be gone) and with fdatasync
(they must be there), and ``--control`` runs the daemons with a library that makes every sync do
nothing: then acknowledged writes must be lost.

The trace: with ``strace`` on all daemons, for each acknowledged write of one client there must be a
quorum of nodes on which an fdatasync of the log started after the request and ended before the
acknowledgement.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import fcntl
import http.client
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from cluster import Client, Cluster, Fabric, report, run, wait_until

_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
_NO_LOG_FLUSH = 2
IMAGE_MIB = 256
WRITERS, KEYS_EACH = 8, 40
TRACED_WRITES = 200
_NO_SYNC = """
int fdatasync(int fd) { return 0; }
int fsync(int fd) { return 0; }
int sync_file_range(int fd, long a, long b, unsigned c) { return 0; }
"""
_SCRIBBLE = """
import os, sys
synced = os.open(sys.argv[1] + "/synced", os.O_CREAT | os.O_WRONLY, 0o600)
loose = os.open(sys.argv[1] + "/loose", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
os.fsync(loose), os.fsync(os.open(sys.argv[1], os.O_RDONLY))
for number in range(1, 10**9):
    os.pwrite(loose, b"%020d" % number, number * 20)
    if number % 50 == 0:
        os.pwrite(synced, b"%020d" % number, 0)
        os.fdatasync(synced)
        os.write(1, b"%d\\n" % number)
"""


class Disk:
    """One machine's disk: a backing file, its loop device and where it is mounted."""

    def __init__(self, image: Path, place: Path) -> None:
        self.image, self.place = image, place
        self.mounted = False
        image.parent.mkdir(parents=True, exist_ok=True)
        with open(image, "wb") as file:
            file.truncate(IMAGE_MIB << 20)
        run("mkfs.ext4", "-q", "-F", "-m0", str(image))
        place.mkdir(parents=True, exist_ok=True, mode=0o700)

    def mount(self) -> None:
        """Mount, replaying the journal as after a power cut."""
        found = run("losetup", "--find", "--show", "--direct-io=on", str(self.image))
        self.loop = found.strip()
        direct = Path(f"/sys/block/{Path(self.loop).name}/loop/dio").read_text().strip()
        if direct != "1":
            raise RuntimeError(f"{self.loop} does no direct I/O: the method would prove nothing")
        run("mount", self.loop, str(self.place))
        self.mounted = True

    def cut(self) -> None:
        """From now on nothing reaches the disk."""
        handle = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, _SHUTDOWN, _NO_LOG_FLUSH.to_bytes(4, sys.byteorder))
        finally:
            os.close(handle)

    def take_copy(self) -> None:
        """Keep what is on the disk now, throw the file system and its caches away."""
        copy = self.image.with_suffix(".copy")
        run(
            "dd", f"if={self.image}", f"of={copy}", "bs=1M", "iflag=direct", "conv=sparse",
            "status=none",
        )  # fmt: skip
        self.unmount()
        os.replace(copy, self.image)
        with open(self.image, "r+b") as file:
            file.truncate(IMAGE_MIB << 20)

    def unmount(self) -> None:
        """Unmount and let the loop device go."""
        if self.mounted:
            run("umount", str(self.place))
            run("losetup", "--detach", self.loop)
            self.mounted = False


class Scribbler:
    """The control on one disk: what was written with and without a sync."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SCRIBBLE, str(place)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def end(self) -> int:
        """Kill it; return the last number that it synced."""
        self.process.kill()
        assert self.process.stdout is not None
        lines = self.process.stdout.read().split(b"\n")
        self.process.wait()
        return int(lines[-2]) if len(lines) > 1 else 0

    def survived(self, last: int) -> tuple[bool, bool]:
        """Return whether the synced number is there, and whether the loose one before it is."""
        text = (self.place / "synced").read_bytes()[:20]
        loose = (self.place / "loose").read_bytes()[last * 20 : last * 20 + 20]
        return int(text or b"0") >= last, loose == b"%020d" % last


class Writer(threading.Thread):
    """Overwrites its keys with growing numbers; remembers what was acknowledged."""

    def __init__(self, cluster: Cluster, number: int, start: int, end: threading.Event) -> None:
        super().__init__(daemon=True)
        self.cluster, self.number, self.next, self.end = cluster, number, start, end
        self.acknowledged: dict[str, int] = {}

    def run(self) -> None:
        node = self.cluster.nodes[self.number % len(self.cluster.nodes)]
        client = Client(node.url, self.cluster.context, key=self.cluster.key, timeout_s=5)
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            while not self.end.is_set():
                self.next += 1
                key = f"w{self.number}-{self.next % KEYS_EACH}"
                body = json.dumps({"value": str(self.next)}).encode()
                status, _ = client.ask("PUT", f"/v1/kv/power/{key}", body)
                if status in {200, 201}:
                    self.acknowledged[f"power/{key}"] = self.next
        client.close()


class Bench:
    """Disks and nodes, and what the clients know to be written."""

    def __init__(self, fabric: Fabric, place: Path, preload: str) -> None:
        self.cluster = Cluster(fabric, 3, place / "nodes")
        self.disks = [
            Disk(place / "images" / f"{node.name}.img", node.data) for node in self.cluster.nodes
        ]
        self.acknowledged: dict[str, int] = {}
        self.next = 0
        self.random = random.Random()
        self.preload, self.without_syncs = preload, False

    def begin(self) -> None:
        """Form the cluster with real syncs: what is lost later was lost by a cut."""
        for disk in self.disks:
            disk.mount()
        self.cluster.form()
        run("sync", "-f", str(self.disks[0].place))

    def use_preload(self) -> None:
        """Run the daemons without syncs from the next start on."""
        for node in self.cluster.nodes:
            node.env = {**node.env, "LD_PRELOAD": self.preload}
        self.without_syncs = True

    def one_round(self) -> dict[str, Any]:
        """Load, cut, copy, start again, and compare."""
        end, started_at = threading.Event(), self.next
        writers = [Writer(self.cluster, n, self.next, end) for n in range(WRITERS)]
        scribblers = [Scribbler(disk.place) for disk in self.disks]
        for writer in writers:
            writer.start()
        time.sleep(self.random.uniform(0.3, 2.5))
        numbers = self._cut_all(scribblers)
        end.set()
        for writer in writers:
            writer.join(30)
            self.acknowledged.update(writer.acknowledged)
        self.next = max(writer.next for writer in writers)
        for disk in self.disks:
            disk.take_copy()
            disk.mount()
        controls = [s.survived(last) for s, last in zip(scribblers, numbers, strict=True)]
        started = time.monotonic()
        lost = self._restart_and_compare()
        return {
            "writes": sum(writer.next - started_at for writer in writers),
            "lost": lost,
            "synced_kept": all(kept for kept, _ in controls),
            "loose_gone": sum(not loose for _, loose in controls),
            "restart_s": time.monotonic() - started,
        }

    def _cut_all(self, scribblers: list[Scribbler]) -> list[int]:
        """End power on all disks and all processes, in one of the orders of a real cut."""
        steps: list[Any] = [disk.cut for disk in self.disks]
        steps += [
            lambda node=node: os.kill(node.pid, signal.SIGKILL) for node in self.cluster.nodes
        ]
        self.random.shuffle(steps)
        for step in steps:
            step()
        numbers = [scribbler.end() for scribbler in scribblers]
        for node in self.cluster.nodes:
            node.kill()
            node.kill_guard()
        return numbers

    def _restart_and_compare(self) -> list[str]:
        for node in self.cluster.nodes:
            node.start()
        found: dict[str, int] = {}
        self._read(found)
        return [
            f"{key}: acknowledged {number}, found {found.get(key)}"
            for key, number in sorted(self.acknowledged.items())
            if found.get(key, 0) < number
        ]

    def _read(self, found: dict[str, int]) -> None:
        """Read all keys, linearizably, once the cluster answers."""

        def read() -> bool:
            client = Client(
                self.cluster.nodes[0].url, self.cluster.context, key=self.cluster.key, timeout_s=5
            )
            try:
                status, answer = client.ask("GET", "/v1/kv?prefix=power/&limit=1000")
            finally:
                client.close()
            if status == 401 and self.without_syncs:
                raise LookupError("the key itself was lost")
            if status == 200:
                found.update({i["key"]: int(i["value"]) for i in answer["items"]})
            return status == 200

        wait_until(read, 60, "the cluster answers after the cut", *self.cluster.nodes)

    def close(self) -> None:
        self.cluster.close()
        for disk in self.disks:
            disk.unmount()


# -- the trace ---------------------------------------------------------------------------------

_SYNC = re.compile(
    r"^(?P<thread>\d+) +(?P<at>\d+\.\d+) (?:(?:fdatasync|fsync)\(\d+<(?P<path>[^>]*)>"
    r"(?:\) += 0 <(?P<took>[\d.]+)>| <unfinished)|<\.\.\. (?:fdatasync|fsync) resumed>\) += 0 "
    r"<(?P<resumed>[\d.]+)>)"
)


def trace(cluster: Cluster, place: Path) -> dict[str, Any]:
    """Write one at a time under strace; count acknowledgements without syncs on a quorum."""
    tracers = []
    for node in cluster.nodes:
        output = place / f"{node.name}.strace"
        command = ["strace", "-f", "-ttt", "-T", "-y", "-e", "trace=fdatasync,fsync"]
        tracers.append(subprocess.Popen([*command, "-o", str(output), "-p", str(node.pid)],
                                        stderr=subprocess.DEVNULL))  # fmt: skip
    time.sleep(1.5)
    leader = cluster.leader()
    client = Client(leader.url, cluster.context, key=cluster.key, timeout_s=10)
    writes = []
    for number in range(TRACED_WRITES):
        before = time.time()
        status, _ = client.ask("PUT", "/v1/kv/trace", json.dumps({"value": str(number)}).encode())
        if status in {200, 201}:
            writes.append((before, time.time()))
    client.close()
    time.sleep(0.3)
    for tracer in tracers:
        tracer.terminate()
        tracer.wait()
    syncs = [read_syncs(place / f"{node.name}.strace") for node in cluster.nodes]
    counts = collections.Counter(
        sum(any(before <= start and done <= after for start, done in mine) for mine in syncs)
        for before, after in writes
    )
    without = sum(count for nodes, count in counts.items() if nodes < 2)
    return {
        "traced_writes": len(writes),
        "acks_without_quorum_sync": without,
        "acks_by_nodes_synced": {str(nodes): counts[nodes] for nodes in sorted(counts)},
    }


def read_syncs(path: Path) -> list[tuple[float, float]]:
    """Return start and end of each successful sync of a file of the log."""
    open_calls: dict[str, tuple[float, str]] = {}
    found = []
    for line in path.read_text(errors="replace").splitlines():
        match = _SYNC.match(line)
        if match is None:
            continue
        at = float(match["at"])
        if match["resumed"]:
            start, name = open_calls.pop(match["thread"], (at, ""))
            if "/raft/" in name:
                found.append((start, start + float(match["resumed"])))
        elif match["took"] is None:
            open_calls[match["thread"]] = (at, match["path"])
        elif "/raft/" in match["path"]:
            found.append((at, at + float(match["took"])))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--control", type=int, default=3, help="rounds with syncs switched off")
    given = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="blixard-power-"))
    fabric = Fabric()
    figures: dict[str, Any] = {"rounds": given.rounds}
    bench = Bench(fabric, place, _library(place))
    try:
        bench.begin()
        figures |= trace(bench.cluster, place)
        print(f"trace: {figures}", flush=True)
        figures |= _rounds(bench, given.rounds)
        bench.use_preload()
        figures["control_lost"] = _control(bench, given.control)
    finally:
        bench.close()
        fabric.close()
        shutil.rmtree(place, ignore_errors=True)
    bars = {
        "lost": 0,
        "acks_without_quorum_sync": 0,
        "synced_control_lost": 0,
        "loose_control_gone": "> 0",
        "control_lost": "> 0",
    }
    ok = (
        figures["lost"] == figures["acks_without_quorum_sync"] == figures["synced_control_lost"]
        == 0 < figures["loose_control_gone"]
    )  # fmt: skip
    ok = ok and (figures["control_lost"] > 0 or not given.control)
    for name, bar in bars.items():
        print(f"{name}: {figures[name]} (bar {bar})")
    return report("powercut", figures, bars, ok=ok)


def _rounds(bench: Bench, rounds: int) -> dict[str, Any]:
    lost: list[str] = []
    rows = []
    for number in range(1, rounds + 1):
        row = bench.one_round()
        rows.append(row)
        lost += row["lost"]
        print(
            f"round {number}: {row['writes']} writes, {len(row['lost'])} lost, loose numbers gone "
            f"on {row['loose_gone']} of 3 disks, answering again after {row['restart_s']:.1f} s",
            flush=True,
        )
        for line in row["lost"][:5]:
            print(f"  LOST {line}", flush=True)
    return {
        "writes": sum(row["writes"] for row in rows),
        "lost": len(lost),
        "synced_control_lost": sum(not row["synced_kept"] for row in rows),
        "loose_control_gone": sum(row["loose_gone"] for row in rows),
        "restart_median_s": round(statistics.median(row["restart_s"] for row in rows), 2),
    }


def _control(bench: Bench, rounds: int) -> int:
    """Return how many acknowledged writes are lost with syncs switched off."""
    if not rounds:
        return 0
    for node in bench.cluster.nodes:
        node.kill()
        node.kill_guard()
    lost = len(bench._restart_and_compare())
    for number in range(1, rounds + 1):
        try:
            found = bench.one_round()["lost"]
        except (RuntimeError, LookupError) as error:
            # Without syncs a node may rightly refuse what it finds: that is a loss as well.
            print(f"control {number}: the cluster did not come back: {str(error)[:200]}")
            return lost + 1
        lost += len(found)
        print(f"control {number}: {len(found)} acknowledged writes lost without syncs", flush=True)
    return lost


def _library(place: Path) -> str:
    """Build the library that makes syncs do nothing."""
    source, library = place / "nosync.c", place / "nosync.so"
    source.write_text(_NO_SYNC)
    run("gcc", "-shared", "-fPIC", "-o", str(library), str(source))
    return str(library)


if __name__ == "__main__":
    sys.exit(main())
