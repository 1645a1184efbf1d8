"""A whole cluster on this machine: made, killed in parts, started again, removed."""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

from blixard.api.client import ApiClient
from blixard.app import dev_layout as layout
from blixard.app import dev_network as network
from blixard.app import dev_processes as processes
from blixard.app import dev_state as state_files
from blixard.app.dev_layout import Machine, Place
from blixard.app.dev_state import State
from blixard.base.errors import BlixardError

READY_S = 60.0
JOIN_S = 60.0
POLL_S = 0.05
VOTERS = 3
CACHE = "/var/cache/blixard/images"
Say = Callable[[str], None]


class DevCluster:
    """The cluster of a directory; *say* is told of progress."""

    def __init__(self, directory: str, say: Say) -> None:
        self.directory = directory
        self._say = say

    @property
    def places(self) -> list[Place]:
        """The nodes; none if there is no cluster."""
        state = state_files.read(self.directory)
        return layout.places(self.directory, state.nodes if state else 0)

    def place(self, name: str) -> Place:
        """Return a node. Raises BlixardError NOT_FOUND."""
        found = layout.place_named(self.places, name)
        if found is None:
            names = ", ".join(p.name for p in self.places)
            raise BlixardError(
                "NOT_FOUND",
                f"there is no node {name!r}" + (f"; nodes: {names}" if names else ""),
                hint="blixard dev status" if names else "blixard dev up",
            )
        return found

    def live(self) -> list[Place]:
        """Return the nodes whose daemons run."""
        return [p for p in self.places if processes.daemon_pid(p) is not None]

    def ask(self, method: str, path: str, *, body: Any = None, timeout_s: float = 5.0) -> Any:
        """Ask whichever node answers. Raises BlixardError."""
        addresses = (p.socket for p in self.live() or self.places)
        with contextlib.closing(ApiClient(*addresses)) as client:
            return client.request(method, path, body=body, timeout_s=timeout_s)

    # -- up and down --

    def up(self, nodes: int) -> None:
        """Make the cluster, or complete one that is there; return once every node is ready."""
        with state_files.only_one():
            self._refuse_another()
            state = state_files.read(self.directory)
            if state is not None and state.complete:
                self._resume(state, nodes)
            else:
                self._remove()
                self._make(nodes)

    def down(self) -> None:
        """Remove everything, whatever state it is in."""
        with state_files.only_one():
            self._refuse_another()
            self._remove()

    def _refuse_another(self) -> None:
        owner = network.owner()
        if owner and owner != self.directory:
            raise BlixardError(
                "CONFLICT",
                f"a cluster runs on this machine already, in {owner}",
                hint=f"blixard dev down --dir {owner}",
            )

    def _make(self, nodes: int) -> None:
        places = layout.places(self.directory, nodes)
        machine = machine_here()
        state_files.make_directories(places, self.directory)
        pathlib.Path(machine.cache).mkdir(parents=True, exist_ok=True, mode=0o755)
        forwarded = network.forwarding()
        state = State(nodes=nodes, forwarded=forwarded)
        state_files.write(self.directory, state)
        network.make(self.directory, places)
        for place in places:
            pathlib.Path(place.config).write_text(layout.config_text(place, machine, nodes))
        self._say(f"network made: {layout.BRIDGE} and {nodes} namespaces")
        first, *others = places
        argv = processes.blixard("init", "--config-file", first.config)
        processes.call(first, argv, timeout_s=JOIN_S)
        self._run(first)
        for place in others:
            self._join(first, place)
        self._wait_ready(nodes)
        network.lead_to_guests(first)
        state.complete = True
        state_files.write(self.directory, state)

    def _join(self, member: Place, place: Place) -> None:
        """Join a node: a one-time token made on a member, used in the new node's namespace."""
        add = ("cluster", "add-node", "--node-id", place.name, "--address", place.address, "-q")
        argv = processes.blixard("--address", member.socket, *add)
        token = processes.call(member, argv, timeout_s=JOIN_S)
        path = pathlib.Path(place.token)
        path.touch(mode=0o600)
        path.write_text(token)
        join = ("cluster", "join", "--token-file", place.token, "--config-file", place.config)
        processes.call(place, processes.blixard(*join), timeout_s=JOIN_S)
        path.unlink()
        self._say(f"{place.name} joined")
        self._run(place)

    def _run(self, place: Place) -> None:
        """Start a daemon; return once its API answers."""
        processes.start_daemon(place)
        self._until(lambda: _answers(place), f"{place.name} does not answer", place)
        self._say(f"{place.name} runs at {place.address}")

    def _resume(self, state: State, nodes: int) -> None:
        if state.nodes != nodes:
            raise BlixardError(
                "CONFLICT",
                f"a cluster of {state.nodes} nodes is here",
                hint="blixard dev down first, or the same --nodes",
            )
        if not network.owner():
            network.make(self.directory, self.places)
        dead = [p for p in self.places if processes.daemon_pid(p) is None]
        for place in dead:
            self._run(place)
        self._wait_ready(nodes)
        self._lead()
        self._say("started again" if dead else "it is up already")

    def _remove(self) -> None:
        state = state_files.read(self.directory)
        names = state_files.guard_names(self.directory)
        for namespace in network.namespaces():
            processes.kill_all(namespace)
        network.remove(forwarded=state is None or state.forwarded)
        state_files.remove_cgroups(names)
        state_files.remove_directories(self.directory)

    # -- parts --

    def kill(self, name: str, *, daemon_only: bool = False) -> str:
        """Kill a node without warning; return what died."""
        with state_files.only_one():
            place = self.place(name)
            pid = processes.daemon_pid(place)
            if daemon_only:
                died = "the daemon" if processes.kill_daemon(place) else "nothing"
            else:
                guests = processes.guests(place.namespace)
                count = processes.kill_all(place.namespace, pid)
                died = f"{count} processes, {guests} of them guests"
            self._lead()
        return died

    def start(self, name: str, *, wait: bool = True) -> None:
        """Start a node's daemon; return once the node is ready."""
        with state_files.only_one():
            place = self.place(name)
            if processes.daemon_pid(place) is None:
                self._run(place)
            if wait:
                self._wait_ready(len(self.live()))
            self._lead()

    def _lead(self) -> None:
        """Reach the guests through a node that lives."""
        live = self.live()
        if live:
            network.lead_to_guests(live[0])

    # -- waiting --

    def cluster_state(self) -> dict[str, Any]:
        """Return what the cluster says of itself; empty if nobody answers now."""
        try:
            found: dict[str, Any] = self.ask("GET", "/v1/cluster", timeout_s=2.0)
            return found
        except BlixardError:
            return {}

    def _wait_ready(self, nodes: int) -> None:
        last = ""

        def reached() -> bool:
            nonlocal last
            found = self.cluster_state()
            ready = [n for n in found.get("nodes", []) if n.get("state") == "Ready"]
            voters = len(found.get("voters", []))
            sentence = f"{len(ready)} of {nodes} nodes ready, {voters} voters"
            if found and sentence != last:
                last = sentence
                self._say(sentence)
            return len(ready) >= nodes and voters >= (VOTERS if nodes >= VOTERS else 1)

        self._until(reached, "the nodes do not become ready", *self.places)

    def _until(self, reached: Callable[[], bool], message: str, *places: Place) -> None:
        deadline = time.monotonic() + READY_S
        while not reached():
            dead = [p for p in places if processes.daemon_pid(p) is None]
            if dead and len(places) == 1:
                name, words = dead[0].name, _last_line(dead[0].log)
                raise BlixardError("INTERNAL", f"{name}: the daemon ended: {words}")
            if time.monotonic() > deadline:
                logs = " ".join(p.log for p in places)
                raise BlixardError("TIMEOUT", f"{message} within {READY_S:.0f} s", hint=logs)
            time.sleep(POLL_S)


def _answers(place: Place) -> bool:
    try:
        with contextlib.closing(ApiClient(place.socket)) as client:
            client.request("GET", "/v1/version", timeout_s=2.0)
    except BlixardError as error:
        return error.code not in ("UNREACHABLE", "TIMEOUT")
    return True


def _last_line(path: str) -> str:
    lines = pathlib.Path(path).read_text(errors="replace").strip().splitlines()
    return lines[-1][:400] if lines else "it wrote nothing"


def machine_here() -> Machine:
    """Return what this machine has to share among the nodes."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    return Machine(memory, os.cpu_count() or 1, CACHE, _group(os.environ.get("SUDO_GID", "")))


def _group(gid: str) -> str:
    import grp

    return grp.getgrgid(int(gid)).gr_name if gid.isdigit() and int(gid) else ""
