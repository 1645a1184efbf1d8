"""Real daemons under drawn faults: what clients saw is judged by the simulator's checker.

Three daemons in network namespaces, each data directory an ext4 file system of its own on a loop
device. Rounds of faults, each drawn from the seed; after every round all is healed and the cluster
must be healthy within a bound. Kinds: SIGKILL and restart, also without room on the disk; a node
that is away while many write, so that it needs a snapshot; SIGSTOP shorter and longer than the
election time-out; links cut both ways, inwards, outwards, between one pair, and losing packets
(nftables in the namespaces); a full file system; a disk that hangs or stutters (the file system is
frozen); a power cut of one node or of all (what was not synced is gone). At most two nodes have
faults at once, except in a blackout: nothing on a disk that was synced is ever lost, so that a
quorum can always come back.

A failed run keeps its directory: logs, timeline, history (``python bench/history.py FILE``).
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import http.client
import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import load
from cluster import Client, Cluster, Fabric, report
from faults.machine import RULES, Machine
from faults.plan import ROUND_S, Fault, plan_round
from history import Keys, Recorder, Talker, judge, read_entries, save
from powercut import Disk

from blixard.consensus.config import RaftConfig
from blixard.simulation.models import Operation

CLIENTS, FLOOD_CLIENTS = 6, 8
SNAPSHOT_ENTRIES = (100, 500, 2_000)
TRAILING_ENTRIES = RaftConfig().trailing_entries
HEALTHY_WITHIN_S = 30.0
BARS = {
    "not_linearizable": 0,
    "undecided": 0,
    "lost": 0,
    "copies_differ": 0,
    "hashes_differ": 0,
    "ended_by_itself": 0,
    "fatal_lines": 0,
    "strange_answers": 0,
    "unhealthy_rounds": 0,
}


class Chaos:
    """One run: machines, clients, the clock of the faults, and what was found wrong."""

    def __init__(self, fabric: Fabric, place: Path, seed: int) -> None:
        self.place, self.seed = place, seed
        self.cluster = Cluster(fabric, 3, place / "nodes")
        self.machines = [
            Machine(node, Disk(place / "images" / f"{node.name}.img", node.data))
            for node in self.cluster.nodes
        ]
        entries = random.Random(f"{seed}/knobs").choice(SNAPSHOT_ENTRIES)
        for node in self.cluster.nodes:
            with open(node.config, "a") as file:
                file.write(f"[consensus]\nsnapshot_threshold = {entries}\n")
        self.snapshots_needed = 0
        self.flood: subprocess.Popen[bytes] | None = None
        self.keys, self.recorder, self.end = Keys(), Recorder(), threading.Event()
        self.talkers: list[Talker] = []
        self.faults: Counter[str] = Counter()
        self.problems: dict[str, list[str]] = {name: [] for name in BARS}
        self.healthy_s: list[float] = []
        self.rows: list[str] = []
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._began = time.monotonic()

    @property
    def access(self) -> tuple[Any, str]:
        """What a client needs: TLS and a key."""
        return self.cluster.context, self.cluster.key

    def say(self, text: str) -> None:
        line = f"{time.monotonic() - self._began:7.1f} s  {text}"
        print(line, flush=True)
        with open(self.place / "timeline", "a") as file:
            file.write(line + "\n")

    def begin(self) -> None:
        for machine in self.machines:
            machine.disk.mount()
        self.cluster.form()
        for machine in self.machines:
            machine.up = True
        shared = self.keys, self.recorder, self.end
        self.talkers = [
            Talker(n, self.seed, self.cluster.nodes, self.access, shared) for n in range(CLIENTS)
        ]
        for talker in self.talkers:
            talker.start()
        self.say(f"three voters are ready; {CLIENTS} clients; seed {self.seed}")

    # -- faults --

    def one_round(self, number: int, faults: list[Fault]) -> None:
        """Carry a plan out, heal, and wait until the cluster is healthy."""
        before = Counter(self.recorder.outcomes)
        start = time.monotonic()
        for fault in faults:
            self._at(start + fault.at_s, lambda fault=fault: self._strike(fault))
        while self._due:
            due, _, action = self._due[0]
            time.sleep(min(0.1, max(0.0, due - time.monotonic())))
            if time.monotonic() >= due:
                heapq.heappop(self._due)
                action()
            self._look()
        for machine in self.machines:
            machine.heal()
        waited = self._wait_healthy()
        self.healthy_s.append(waited)
        counts = self.recorder.outcomes - before
        self.rows.append(
            f"{number:>5} {len(faults):>6} {counts['ok']:>7} {counts['unknown']:>7} "
            f"{counts['refused']:>7} {waited:>9.1f}"
        )
        self.say(f"round {number}: healthy {waited:.1f} s after healing")

    def _at(self, due: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (due, next(self._order), action))

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self._at(time.monotonic() + seconds, action)

    def _strike(self, fault: Fault) -> None:
        if fault.kind == "blackout":
            self._blackout(fault)
            return
        leader = self._leader()
        machine = self.machines[leader if fault.leader and leader >= 0 else fault.node]
        if not machine.whole:
            return  # a slow step before this one delayed its end: one fault a node at once
        self.faults[fault.kind] += 1
        role = "leads" if machine is self.machines[leader] and leader >= 0 else "follows"
        self.say(f"{machine.node.name} ({role}): {fault.kind} for {fault.lasts_s:.1f} s")
        if fault.kind in RULES:
            self._cut(machine, fault)
        elif fault.kind == "slow disk":
            self._stutter(machine, time.monotonic() + fault.lasts_s, fault.lasts_s % 0.3)
        elif fault.kind == "power cut":
            self._after(fault.lasts_s, machine.lose_power())
        elif fault.kind == "away":
            self._away(machine, fault.lasts_s)
        else:
            hands = {
                "kill": (machine.kill, machine.start),
                "short stop": (machine.stop, machine.resume),
                "long stop": (machine.stop, machine.resume),
                "full disk": (machine.fill, machine.empty),
                "kill on a full disk": (machine.restart_full, machine.empty),
                "hung disk": (machine.freeze, machine.thaw),
            }
            hurt, undo = hands[fault.kind]
            hurt()
            self._after(fault.lasts_s, undo)

    def _cut(self, machine: Machine, fault: Fault) -> None:
        others = [other for other in self.machines if other is not machine]
        if fault.kind == "cut from one":
            others = [others[fault.other]]
        machine.cut(fault.kind, [other.node.address for other in others])
        self._after(fault.lasts_s, machine.connect)

    def _away(self, machine: Machine, lasts_s: float) -> None:
        """Kill a node, write much, and start it: the others may have dropped what it lacks."""
        before = self._statuses(0.5)[self.machines.index(machine)]
        machine.kill()
        others = [other for other in self.machines if other.whole]
        if others and (self.flood is None or self.flood.poll() is not None):
            script = self.place / "flood.lua"
            script.write_text(load.script("blixard", size=64, keys=20, api_key=self.cluster.key))
            command = ["wrk", "-t1", f"-c{FLOOD_CLIENTS}", f"-d{round(lasts_s)}s", "-s"]
            self.flood = subprocess.Popen(
                [*command, str(script), others[0].node.url],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip

        def back() -> None:
            first = max((s["raft"]["snapshotIndex"] for s in self._statuses(0.5) if s), default=0)
            if before and first - TRAILING_ENTRIES > before["raft"]["lastIndex"]:
                self.snapshots_needed += 1
                self.say(f"{machine.node.name} comes back and needs a snapshot")
            machine.start()

        self._after(lasts_s, back)

    def _stutter(self, machine: Machine, end: float, hang_s: float) -> None:
        """Let a disk hang, and go on for a moment, again and again."""
        machine.freeze()

        def go_on() -> None:
            machine.thaw()
            if time.monotonic() < end and machine.whole:
                self._after(0.05, lambda: self._stutter(machine, end, 0.35 - hang_s))

        self._after(hang_s, go_on)

    def _blackout(self, fault: Fault) -> None:
        self.faults[fault.kind] += 1
        self.say(f"all: power cut for {fault.lasts_s:.1f} s")
        for machine in self.machines:
            self._after(fault.lasts_s, machine.lose_power())

    def _leader(self) -> int:
        """Return the index of the node that most name as leader; -1 if nobody knows."""
        names = Counter(s["leaderName"] for s in self._statuses(0.5) if s and s["leaderName"])
        if not names:
            return -1
        name = names.most_common(1)[0][0]
        return [machine.node.name for machine in self.machines].index(name)

    # -- what must hold --

    def _look(self) -> None:
        """Find daemons that ended though nobody ended them; start them again."""
        for machine in self.machines:
            if machine.up and not machine.node.alive:
                assert machine.node.process is not None
                code = machine.node.process.returncode
                self._wrong("ended_by_itself", f"{machine.node.name} ended with {code}")
                machine.start()

    def _wrong(self, bar: str, text: str) -> None:
        self.problems[bar].append(text)
        self.say(f"WRONG {bar}: {text}")

    def _statuses(self, timeout_s: float) -> list[Any]:
        """Return each node's own view; None for those that do not answer."""
        found: list[Any] = []
        for machine in self.machines:
            client = Client(machine.node.url, self.cluster.context, key=self.cluster.key,
                            timeout_s=timeout_s)  # fmt: skip
            answer: Any = None
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                if machine.up and not machine.stopped:
                    status, answer = client.ask("GET", "/v1/cluster?stale=true")
                    answer = answer if status == 200 else None
            client.close()
            found.append(answer)
        return found

    def _wait_healthy(self) -> float:
        start = time.monotonic()
        why = ""
        while time.monotonic() < start + HEALTHY_WITHIN_S:
            self._look()
            why = self._unhealthy()
            if not why:
                return time.monotonic() - start
            time.sleep(0.2)
        self._wrong("unhealthy_rounds", why)
        return time.monotonic() - start

    def _unhealthy(self) -> str:
        """Return why the cluster is not healthy; nothing when it is."""
        statuses = self._statuses(2.0)
        silent = [m.node.name for m, s in zip(self.machines, statuses, strict=True) if s is None]
        if silent:
            return f"no answer: {silent}"
        if len({(s["leader"], s["term"]) for s in statuses}) != 1 or not statuses[0]["leader"]:
            return f"leaders: {[(s['leaderName'], s['term']) for s in statuses]}"
        for status in statuses:
            states = {node["name"]: (node["state"], node["trouble"]) for node in status["nodes"]}
            if len(status["voters"]) != 3 or set(states.values()) != {("Ready", "")}:
                return f"seen by {status['answeredBy']}: {states}, voters {status['voters']}"
        for machine in self.machines:
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                client = Client(machine.node.url, self.cluster.context, key=self.cluster.key)
                with contextlib.closing(client):
                    status, _ = client.ask("PUT", "/v1/kv/chaos-healthy", b'{"value": "yes"}')
                if status in {200, 201}:
                    continue
            return f"{machine.node.name} takes no write"
        return ""

    def finish(self) -> dict[str, Any]:
        """Stop the clients, compare all copies, judge the history."""
        self.end.set()
        for talker in self.talkers:
            talker.join(30)
        copies = {}
        for machine in self.machines:
            try:
                fresh = read_entries(machine.node, self.access)
                copies[machine.node.name] = read_entries(machine.node, self.access, "&stale=true")
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                self._wrong("lost", f"{machine.node.name} cannot be read: {error}")
                continue
            for key, value in sorted(self.recorder.added.items()):
                if fresh.get(key) != value:
                    self._wrong("lost", f"{machine.node.name}: {key} is {fresh.get(key)}")
            self._final_reads(fresh)
        first = next(iter(copies.values()), {})
        for name, copy in copies.items():
            keys = [key for key in sorted({*copy, *first}) if copy.get(key) != first.get(key)]
            if keys:
                self._wrong("copies_differ", f"{name}: {keys[:5]}")
        self._compare_hashes()
        for machine in self.machines:
            for line in machine.fatal_lines():
                self._wrong("fatal_lines", line)
        for line in self.recorder.strange:
            self._wrong("strange_answers", line)
        save(self.recorder.operations, self.place / "history")
        figures, problems = judge(self.recorder.operations)
        for name, texts in problems.items():
            for text in texts:
                self._wrong(name, text)
        return figures

    def _final_reads(self, found: dict[str, int]) -> None:
        """Add what one node answered at the end to the history: acknowledged values are there."""
        called = time.monotonic_ns()
        for key in sorted({operation.key for operation in self.recorder.operations}):
            done = Operation(client=CLIENTS, kind="read", key=key, called=called, ended=called + 1,
                             result=found.get(key))  # fmt: skip
            self.recorder.keep(done, "final")

    def _compare_hashes(self) -> None:
        """Wait until all have applied the same entries, and compare their states' hashes."""
        deadline = time.monotonic() + HEALTHY_WITHIN_S
        while time.monotonic() < deadline:
            rafts = [status["raft"] for status in self._statuses(2.0) if status]
            if len(rafts) == 3 and len({raft["appliedIndex"] for raft in rafts}) == 1:
                hashes = sorted({raft["stateHash"] for raft in rafts})
                if len(hashes) != 1:
                    self._wrong("hashes_differ", str(hashes))
                return
            time.sleep(0.1)
        self._wrong("hashes_differ", "three copies at one index were never seen")

    def close(self) -> None:
        """Leave nothing frozen, running or mounted."""
        self.end.set()
        if self.flood is not None:
            self.flood.kill()
            self.flood.wait()
        for machine in self.machines:
            machine.thaw()
            with contextlib.suppress(ProcessLookupError, AssertionError):
                machine.resume()
        self.cluster.close()
        for machine in self.machines:
            machine.disk.unmount()


@contextlib.contextmanager
def chaos(place: Path, seed: int) -> Iterator[Chaos]:
    """A cluster on disks of its own; what it left outside its directory is gone afterwards."""
    fabric = Fabric()
    made = Chaos(fabric, place, seed)
    try:
        made.begin()
        yield made
    finally:
        made.close()
        fabric.close()


def carry_out(place: Path, seed: int, minutes: float) -> tuple[dict[str, Any], bool]:
    """Run rounds until the time is over; return figures and whether all bars hold."""
    draw = random.Random(seed)
    with chaos(place, seed) as made:
        end = time.monotonic() + minutes * 60
        for number in itertools.count(1):
            made.one_round(number, plan_round(draw))
            if time.monotonic() + ROUND_S > end:
                break
        figures = made.finish()
    print(f"{'round':>5} {'faults':>6} {'ok':>7} {'unknown':>7} {'refused':>7} {'healthy s':>9}")
    print("\n".join(made.rows))
    print(f"faults: {dict(sorted(made.faults.items()))}")
    figures |= {
        "seed": seed,
        "rounds": len(made.rows),
        "snapshots_needed": made.snapshots_needed,
        "faults": sum(made.faults.values()),
        "acknowledged": made.recorder.outcomes["ok"],
        "refused": made.recorder.outcomes["refused"],
        "healthy_max_s": round(max(made.healthy_s), 1),
    }
    figures |= {bar: len(texts) for bar, texts in made.problems.items()}
    return figures, all(figures[bar] == 0 for bar in BARS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None, help="drawn if not given")
    parser.add_argument("--keep", action="store_true", help="keep the directory of a good run too")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    place = Path(tempfile.mkdtemp(prefix="blixard-chaos-"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    ok = False
    try:
        figures, ok = carry_out(place, seed, given.minutes)
    finally:
        if ok and not given.keep:
            shutil.rmtree(place)
        else:
            print(f"kept: {place}; again: bench/chaos.py --seed {seed} --minutes {given.minutes:g}")
    for name, bar in BARS.items():
        print(f"{name}: {figures[name]} (bar {bar})")
    (place / "figures").write_text(json.dumps(figures)) if place.exists() else None
    return report("chaos", figures, BARS, ok=ok)


if __name__ == "__main__":
    sys.exit(main())
