"""``blixard dev demo``: the whole system at work on this machine, with the times it takes."""

from __future__ import annotations

import contextlib
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

from blixard.app.dev import log_tails
from blixard.app.dev_cluster import DevCluster
from blixard.app.dev_functions import show_functions
from blixard.app.dev_progress import Progress, times_table
from blixard.app.dev_root import Interrupted, ignore_signals
from blixard.app.dev_shell import Shell, Visit, fetch
from blixard.base.errors import BlixardError
from blixard.cli import tables

NODES = 3
REPLICAS = 3
SCALED = 5
READY_S = 300.0  # the first time, packages are downloaded
MOVE_S = 120.0  # emulated guests on a busy machine boot slowly
WRITE_S = 20.0
GLANCE_S = 2.0
POLL_S = 0.05
MANIFEST = pathlib.Path(__file__).resolve().parents[3] / "examples" / "web.yaml"
Object = dict[str, Any]
VALUE = {"value": "written"}
BUILT = {"Starting", "Running"}


class Demo:
    """One run from nothing to nothing."""

    def __init__(self, cluster: DevCluster, progress: Progress, manifest: str | None) -> None:
        self._cluster = cluster
        self._progress = progress
        self._manifest = manifest or str(MANIFEST)
        self._shell = Shell("")
        self._step = "starting"

    def run(self) -> int:
        """Run every step; return 0, or 1 after saying what failed. Nothing is left behind."""
        owned = False
        try:
            self._refuse_running()
            owned = True
            self._steps()
            code = 0
        except Interrupted as signal:
            self._progress.head(f"{signal} while {self._step}")
            code = signal.exit_code
        except BlixardError as error:
            self._explain(error, logs=owned)
            code = 1
        finally:
            ignore_signals()
            if owned:
                self._progress.head("removing the cluster")
                self._cluster.down()
        if code == 0:
            sys.stdout.write("\n" + times_table(self._progress.times) + "\n")
            self._progress.head("done; nothing is left behind but the image cache")
        return code

    def _refuse_running(self) -> None:
        if self._cluster.places:
            raise BlixardError(
                "CONFLICT",
                f"a cluster is in {self._cluster.directory} already",
                hint="blixard dev down",
            )
        if not pathlib.Path(self._manifest).is_file():
            raise BlixardError("NOT_FOUND", f"{self._manifest} is not there", hint="--file FILE")

    def _explain(self, error: BlixardError, *, logs: bool) -> None:
        self._progress.head(f"FAILED while {self._step}: {error.message}")
        if error.hint:
            self._progress(f"hint: {error.hint}")
        for line in log_tails(self._cluster) if logs else ():
            self._progress(line)
        for line in self._last_words() if logs else ():
            self._progress(line)

    def _last_words(self) -> list[str]:
        """Return what is known of instances that are not ready."""
        try:
            found = self._instances()
        except BlixardError:
            return []
        return [
            f"{i['metadata']['name']} on {i['spec'].get('nodeName', '')}: "
            f"{i['status'].get('phase')} {i['status'].get('reason', '')} "
            + " | ".join(i["status"].get("console", [])[-5:])
            for i in found
            if not i.get("status", {}).get("ready")
        ]

    def _brief(self) -> str:
        """Return the instances' phases, and the beginning of the reason for a failure."""
        try:
            found = self._instances()
        except BlixardError as error:
            return f"waiting: {error.message}"
        states = [(i["metadata"]["name"], i.get("status", {})) for i in found]
        return ", ".join(
            f"{name} {state.get('phase')}"
            + (f" ({str(state.get('reason'))[:80]})" if state.get("phase") == "Failed" else "")
            for name, state in states
        )

    def _begin(self, text: str) -> None:
        self._step = text
        self._progress.head(text)

    # -- the steps --

    def _steps(self) -> None:
        self._start()
        self._apply()
        self._look()
        self._move()
        self._lose_a_node()
        self._lose_the_leader()
        self._scale()
        self._call()
        self._delete()

    def _start(self) -> None:
        self._begin(f"starting {NODES} nodes on this machine")
        with self._progress.measured("cluster up"):
            self._cluster.up(NODES)
        self._shell = Shell(",".join(p.socket for p in self._cluster.places))
        self._shell.type("cluster", "status")

    def _apply(self) -> None:
        self._begin(f"building a guest and starting {REPLICAS} replicas of it")
        began = time.monotonic()
        self._shell.type("apply", "-f", self._manifest)
        said: set[str] = set()

        def reached() -> bool:
            phases = {i.get("status", {}).get("phase") for i in self._instances()}
            self._keep_once(said, "image build, or its cache", began, phases & BUILT)
            ready = self._serving()
            self._keep_once(said, "first VM ready after apply", began, ready)
            return len(ready) >= REPLICAS

        self._until(reached, READY_S, "the replicas do not answer")
        self._progress.keep("all three answer HTTP 200", time.monotonic() - began)
        self._show_pages()

    def _keep_once(self, said: set[str], what: str, began: float, reached: object) -> None:
        if reached and what not in said:
            said.add(what)
            self._progress.keep(what, time.monotonic() - began)

    def _look(self) -> None:
        self._begin("looking at it: where it runs and why, a log, a command inside")
        self._shell.type("vm", "status", "web")
        self._shell.glance("vm", "logs", "web-1", "--follow", "--tail", "5", seconds=GLANCE_S)
        self._shell.type("vm", "exec", "web-1", "--", "cat", "/etc/hostname", "/proc/uptime")

    def _move(self) -> None:
        target = self._leader()
        instance = next(i for i in self._instances() if i["spec"]["nodeName"] != target)
        name, address = instance["metadata"]["name"], instance["spec"]["ip"]
        self._begin(f"moving {name} to {target} while it runs, with a connection open to it")
        with contextlib.closing(Visit(address)) as visit:
            before = visit.get()[0]
            with self._progress.measured("instance moved with memory and connections"):
                self._shell.type("vm", "migrate", name, "--target-node", target)
            after, why = visit.get()
        if (before, after) != (200, 200):
            raise BlixardError("INTERNAL", f"{address} answers {after} after {before}: {why}")
        self._shell.type("get", "migrations")
        self._progress("the connection of before answers; the guest was up all the time:")
        self._shell.type("vm", "exec", name, "--", "cat", "/etc/hostname", "/proc/uptime")
        (migration,) = self._cluster.ask("GET", "/v1/namespaces/default/migrations")["items"]
        stood_s = migration["status"]["downtimeMs"] / 1000
        self._progress.keep("of that, the guest stood still", stood_s)

    def _lose_a_node(self) -> None:
        leader = self._leader()
        victim = next(i for i in self._instances() if i["spec"]["nodeName"] not in ("", leader))
        name, node = victim["metadata"]["name"], victim["spec"]["nodeName"]
        self._begin(f"killing {node} without warning: its daemon, its guard and {name}")
        began = time.monotonic()
        self._progress(f"killed {self._cluster.kill(node)}")
        self._until(
            lambda: len(self._serving(without=node)) >= REPLICAS,
            MOVE_S,
            f"nothing replaces {name}",
        )
        self._progress.keep(
            "replica again elsewhere after a node's death", time.monotonic() - began
        )
        self._shell.type("get", "instances", "-o", "wide")
        self._begin(f"starting {node} again")
        with self._progress.measured("node ready again"):
            self._cluster.start(node)
            self._until(lambda: self._state_of(node) == "Ready", MOVE_S, f"{node} is not ready")

    def _lose_the_leader(self) -> None:
        leader = self._leader()
        self._begin(f"killing the daemon of the leader, {leader}, while writing")
        self._shell.type("kv", "put", "demo/before", "written")
        began = time.monotonic()
        self._cluster.kill(leader, daemon_only=True)
        accepted = False

        def write() -> bool:
            nonlocal accepted
            try:
                self._cluster.ask("PUT", "/v1/kv/demo/after", body=VALUE, timeout_s=1.0)
                accepted = True
            except BlixardError as error:
                if error.code in ("FORBIDDEN", "INVALID", "BAD_REQUEST"):
                    raise
            return accepted

        self._until(write, WRITE_S, "no write is accepted")
        self._progress.keep("leader's death to the next accepted write", time.monotonic() - began)
        self._shell.type("kv", "get", "demo/before")
        self._progress(f"the leader is {self._leader()} now")
        self._cluster.start(leader)
        self._until(lambda: self._all_serve(REPLICAS), MOVE_S, "the guests do not answer")
        self._progress("its guests ran on meanwhile, and all replicas answer")

    def _scale(self) -> None:
        self._begin(f"scaling to {SCALED} and back to {REPLICAS}")
        with self._progress.measured(f"scale from {REPLICAS} to {SCALED}, all answer"):
            self._shell.type("vm", "scale", "web", "--replicas", str(SCALED), "--detach")
            self._until(lambda: self._all_serve(SCALED), READY_S, "they do not answer")
        self._shell.type("vm", "list")
        with self._progress.measured(f"scale back to {REPLICAS}"):
            self._shell.type("vm", "scale", "web", "--replicas", str(REPLICAS), "--detach")
            self._until(
                lambda: len(self._instances()) == REPLICAS, MOVE_S, "the instances do not go"
            )

    def _call(self) -> None:
        self._begin("deploying a function and calling it")
        show_functions(self._shell, self._progress)

    def _delete(self) -> None:
        self._begin("deleting everything")
        with self._progress.measured("delete"):
            self._shell.type("delete", "-f", self._manifest, "--yes", "--detach")
            self._until(lambda: not self._instances(), MOVE_S, "the instances do not go")

    # -- asking --

    def _instances(self) -> list[Object]:
        path = "/v1/namespaces/default/instances"
        found: list[Object] = self._cluster.ask("GET", path)["items"]
        return sorted(found, key=lambda i: int(i["spec"].get("ordinal", 0)))

    def _serving(self, *, without: str = "") -> list[str]:
        """Return the ready instances whose page the machine gets with status 200.

        Those on the node *without* do not count.
        """
        return [
            str(i["metadata"]["name"])
            for i in self._instances()
            if i.get("status", {}).get("ready")
            and i["spec"].get("nodeName") != without
            and fetch(str(i["spec"]["ip"]))[0] == 200
        ]

    def _all_serve(self, count: int) -> bool:
        return len(self._serving()) >= count

    def _leader(self) -> str:
        found: list[str] = []

        def known() -> bool:
            found[:] = [str(self._cluster.cluster_state().get("leaderName", ""))]
            return bool(found[0])

        self._until(known, WRITE_S, "there is no leader")
        return found[0]

    def _state_of(self, node: str) -> str:
        nodes = self._cluster.cluster_state().get("nodes", [])
        return str(next((n["state"] for n in nodes if n["name"] == node), ""))

    def _show_pages(self) -> None:
        rows = []
        for instance in self._instances():
            status, body = fetch(str(instance["spec"]["ip"]))
            heading = next((x for x in body.splitlines() if "<h1>" in x), body[:60])
            name, node = instance["metadata"]["name"], instance["spec"]["nodeName"]
            rows.append([name, node, f"http://{instance['spec']['ip']}/", str(status), heading])
        table = tables.render(
            ("NAME", "NODE", "URL", "HTTP", "PAGE"), rows, cells=None, heading=True
        )
        sys.stdout.write("".join(f"    {line}\n" for line in table.splitlines()))
        sys.stdout.flush()

    def _until(self, reached: Callable[[], bool], seconds: float, message: str) -> None:
        """Wait until *reached* holds; a cluster that does not answer now may answer later.

        Raises:
            BlixardError: TIMEOUT.
        """
        deadline = time.monotonic() + seconds
        said = time.monotonic()
        why = ""
        while True:
            try:
                if reached():
                    return
            except BlixardError as error:
                if error.code not in ("UNREACHABLE", "TIMEOUT", "NO_QUORUM", "NOT_LEADER"):
                    raise
                why = f" ({error.message})"
            if time.monotonic() > deadline:
                raise BlixardError("TIMEOUT", f"{message} within {seconds:.0f} s{why}")
            if time.monotonic() - said > 5:
                said = time.monotonic()
                self._progress(self._brief())
            time.sleep(POLL_S)
