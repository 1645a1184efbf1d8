"""The operator who replaces a broken node, as the hint of LOG_CORRUPT tells her to.

The disk is emptied, the machine joins as a new node with a new identity, and the old node is
removed through the leader; a raft id is never used again. One node at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from blixard.base.errors import BlixardError
from blixard.simulation.environment import SimEnvironment
from blixard.simulation.workload import Asking
from blixard.simulation.world import Host, World

REPLACE = "sim.replace"
_CLIENT = 90
_RETRY_S = 0.5


class Replace(msgspec.Struct, frozen=True, array_like=True):
    """Let the node *new_uid* in and those go that the machine was before: (uid, raft id)."""

    old: tuple[tuple[str, int], ...]
    new_uid: str
    new_raft_id: int
    address: str


class Repairs:
    """Replaces broken nodes, one after the other."""

    def __init__(self, world: World, happened: Callable[[str], None]) -> None:
        self._world = world
        self._happened = happened
        self._wanted: dict[int, Replace] = {}
        self._env: SimEnvironment | None = None
        self.done = 0

    @property
    def idle(self) -> bool:
        """Whether all that was broken is replaced."""
        return not self._wanted

    def replace(self, host: Host) -> None:
        """Give a host whose daemon is gone an empty disk and a new identity."""
        before = self._wanted.get(host.number)
        old = (*(before.old if before is not None else ()), (host.uid, host.raft_id))
        host.renew()
        self._wanted[host.number] = Replace(old, host.uid, host.raft_id, host.address)
        self._world.note(host.number, "replace", host.raft_id)
        if self._env is None:
            self._env = self._world.client(_CLIENT)
            self._env.spawn(self._run(self._env), name="repairs")

    async def _run(self, env: SimEnvironment) -> None:
        while True:
            for number in list(self._wanted)[:1]:
                await self._step(env, number)
            await asyncio.sleep(_RETRY_S)

    async def _step(self, env: SimEnvironment, number: int) -> None:
        """Ask whoever leads to go on, until the new node votes and the old ones are gone."""
        wanted = self._wanted[number]
        nodes = [host.uid for host in self._world.hosts]
        asking = Asking(env, nodes, env.random.randrange(len(nodes)))
        try:
            await asking.ask(REPLACE, msgspec.msgpack.encode(wanted))
        except BlixardError as error:
            env.log("info", "replacement_postponed", code=error.code, detail=error.message)
            return
        if self._wanted[number] == wanted:
            del self._wanted[number]
            self.done += 1
            self._happened("broken node replaced")


def pending(what: str) -> BlixardError:
    """Return the error that makes the operator ask again."""
    return BlixardError("CONFLICT", f"the replacement goes on: {what}")
