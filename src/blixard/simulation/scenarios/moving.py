"""What scenarios ask for and ask about when running instances move to other nodes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from blixard.api.client import ApiClient
from blixard.base.errors import BlixardError
from blixard.cluster.resources import Resource
from blixard.simulation.guest_processes import SimInstance
from blixard.simulation.scenarios.guests import store_of
from blixard.simulation.scenarios.shell import Shell
from blixard.simulation.scenarios.stage import Stage
from blixard.simulation.world import Host

FINISHED = ("Succeeded", "Failed")
ASK_S = 5
ASK_TRIES = 5
_UNKNOWN = ("OUTCOME_UNKNOWN", "NO_QUORUM", "UNREACHABLE", "TIMEOUT", "NOT_LEADER")
_LOOK_S = 0.001


class Moves:
    """Migrations of one stage, by the names of their instances."""

    def __init__(self, stage: Stage, shell: Shell) -> None:
        self._stage = stage
        self._shell = shell
        self._asked = 0
        self._newest: dict[str, tuple[str, Host | None]] = {}  # instance -> migration, target

    def ask(
        self,
        instance: str,
        target: Host | None = None,
        *,
        live: bool | None = None,
        deadline_s: int = 60,
    ) -> str:
        """Ask for a migration; return its name. Raises BlixardError: why it is refused."""
        self._asked += 1
        name = f"{instance}-m{self._asked}"
        spec: dict[str, Any] = {"instance": instance, "live": live, "deadlineS": deadline_s}
        if target is not None:
            spec["targetNode"] = target.uid
        metadata = {"name": name, "namespace": "default"}
        self._put(name, {"kind": "Migration", "metadata": metadata, "spec": spec})
        self._newest[instance] = (name, target)
        return name

    def _put(self, name: str, body: dict[str, Any]) -> None:
        """Write it, again while nobody knows whether it was written: that changes nothing."""
        path = f"/v1/namespaces/default/migrations/{name}"
        nodes = [host.uid for host in self._stage.world.hosts]
        for left in reversed(range(ASK_TRIES)):
            # Another node each time: one that is cut off with a few cannot know more than that.
            client = ApiClient(*nodes[left:], *nodes[:left], outside=self._shell.outside)
            try:
                client.request("PUT", path, timeout_s=ASK_S, body=body)
            except BlixardError as error:
                if not left or error.code not in _UNKNOWN:
                    raise
            else:
                return
            finally:
                client.close()

    def begin(
        self,
        instance: str,
        target: Host | None = None,
        *,
        live: bool | None = None,
        deadline_s: int = 60,
    ) -> str:
        """Ask for a migration that has to be accepted; return its name."""
        try:
            return self.ask(instance, target, live=live, deadline_s=deadline_s)
        except BlixardError as error:
            self._stage.expect(False, f"{instance}: {error}", "migration")
            raise

    def resource(self, name: str) -> Resource | None:
        """Return a migration as the leader knows it, None while nobody leads."""
        for host in self._stage.leaders():
            store = store_of(self._stage, host)
            found = store.get("Migration", "default", name) if store is not None else None
            if found is not None:
                return found
        return None

    def status(self, name: str) -> dict[str, Any]:
        """Return the status of a migration, empty while nobody leads."""
        found = self.resource(name)
        return found.status if found is not None else {}

    def reach(self, name: str, *phases: str, within_s: float = 40.0) -> None:
        """Wait until a migration is in one of these phases."""
        self._stage.until(
            within_s, lambda: self.status(name).get("phase", "Pending") in phases,
            f"{name} is {' or '.join(phases)}", "migration", seen=lambda: str(self.status(name)),
        )  # fmt: skip

    def at(
        self, what: str, condition: Callable[[], bool], *, within_s: float = 20.0, must: bool = True
    ) -> bool:
        """Wait for a moment that is over within milliseconds; return whether it came."""
        end_ns = self._stage.now_ns + int(within_s * 1_000_000_000)
        while not condition():
            if self._stage.now_ns >= end_ns:
                self._stage.expect(not must, f"{what}, within {within_s:g} s", "migration")
                return False
            self._stage.run_for(_LOOK_S)
        return True

    def finish(self, name: str, *, within_s: float = 90.0) -> str:
        """Wait until a migration has ended one way or the other; return its phase."""
        self.reach(name, *FINISHED, within_s=within_s)
        phase = str(self.status(name)["phase"])
        self._stage.happened(f"migration {phase}".lower())
        return phase

    def verify(self, instance: str, *, within_s: float) -> None:
        """The newest migration of an instance succeeds, and moved it as it was."""
        name, target = self._newest[instance]
        before = len(self._stage.oracles.arrivals.of(instance))
        self.reach(name, *FINISHED, within_s=within_s)
        status = self.status(name)
        self._stage.expect(status["phase"] == "Succeeded", f"{name}: {status}", "migration")
        arrivals = self._stage.oracles.arrivals.of(instance)
        last = arrivals[-1] if arrivals else None
        there = last is not None and last.plan.run == status["run"]
        self._stage.expect(there, f"{instance} arrived {arrivals}, not by {name}", "migration")
        assert last is not None
        host = self._stage.host(last.host)
        wanted = target if target is not None else host
        self._stage.expect(host is wanted, f"{instance} is on {host.uid}", "migration")
        self._stage.until(
            20.0, lambda: host.guests.ready(last.plan.instance_uid),
            f"{instance} answers on {host.uid}", "migration",
        )  # fmt: skip
        homes = [h.uid for h, _ in self.processes(instance, "running")]
        self._stage.expect(homes == [host.uid], f"{instance} runs on {homes}", "migration")
        assert before <= len(arrivals)
        self._stage.happened("migration verified")

    def processes(self, instance: str, *states: str) -> list[tuple[Host, SimInstance]]:
        """Return the processes of an instance in these states, host by host."""
        return [
            (host, process)
            for host in self._stage.world.hosts if host.up
            for process in host.guests.instances.values()
            if process.plan.name == instance and process.state in (states or (process.state,))
        ]  # fmt: skip

    def birth(self, instance: str) -> int:
        """Return what tells the guest of an instance from every guest that booted anew."""
        found = self.processes(instance, "running") or self.processes(instance, "paused")
        born = {p.birth for _, p in found if not p.plan.incoming or p.boots_at_ns}
        self._stage.expect(len(born) == 1, f"{instance} is {len(born)} guests", "migration")
        return born.pop()

    def home(self, instance: str) -> Host:
        """Return the host that the state has an instance on."""
        store = store_of(self._stage, self._stage.leader())
        found = store.get("Instance", "default", instance) if store is not None else None
        homes = [h for h in self._stage.world.hosts if found and h.uid == found.spec.get("node")]
        self._stage.expect(bool(homes), f"{instance} is nowhere", "migration")
        return homes[0]

    def try_begin(self, instance: str, target: Host | None = None, **more: Any) -> str:
        """Ask for a migration that may be refused, or not be answered; its name or nothing."""
        name = ""
        with contextlib.suppress(BlixardError):
            name = self.ask(instance, target, **more)
        return name
