"""The leader's loop over pools and volumes: decide, call the backend, write down what came of it.

It runs beside the loop of replicas: a storage that hangs must not keep VMs without volumes waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol, TypeVar, cast

import msgspec

from blixard.base.errors import BlixardError
from blixard.cluster.facade import Cluster
from blixard.cluster.resources import Operation, PatchStatus, Resource
from blixard.ports.environment import Environment
from blixard.ports.volumes import Backend, PoolHealth, VolumeBackend
from blixard.storage import remote
from blixard.storage.backends import Backends, backend_for
from blixard.storage.planner import (
    Action,
    actions,
    begun_ops,
    done_ops,
    failed_ops,
    is_current,
    orphans,
    settled_ops,
)
from blixard.storage.spec import StoragePoolSpec, pool_plan, size_bytes

LOOK_S = 2.0
CALL_S = 60.0  # a fence waits until every OSD knows of it
QUESTION_S = 10.0
COMMIT_S = 5.0
HEALTH_S = 5.0
ORPHANS_S = 30.0
ORPHANS_MAX = 100  # that are named in a pool's status
RETRY_FIRST_S, RETRY_MAX_S = 1.0, 30.0

OPS_MAX = 200

T = TypeVar("T")


class Leads(Protocol):
    """What the loop needs of consensus."""

    @property
    def is_leader(self) -> bool:
        """Tell whether this node leads."""

    @property
    def term(self) -> int:
        """The term now."""


class StorageController:
    """Runs on every voter, and acts while it leads."""

    def __init__(
        self,
        env: Environment,
        cluster: Cluster,
        raft: Leads,
        backends: Backends,
        *,
        own_uid: str,
    ) -> None:
        self._env = env
        self._cluster = cluster
        self._raft = raft
        self._backends = backends
        self._own_uid = own_uid
        self._wake = asyncio.Event()
        self._failures: dict[tuple[str, str, int], tuple[int, float]] = {}  # how many, until when
        self._asked_s: dict[tuple[str, str], float] = {}  # what is looked at now and then

    def wake(self) -> None:
        """Look again now."""
        self._wake.set()

    async def run(self) -> None:
        """Work while leading, for ever."""
        while True:
            self._wake.clear()
            if self._raft.is_leader:
                try:
                    await self.one_pass(self._raft.term)
                except BlixardError as error:
                    self._env.log(
                        "info", "storage_postponed", code=error.code, detail=error.message
                    )
                    await asyncio.sleep(RETRY_FIRST_S)
            else:
                self._failures, self._asked_s = {}, {}
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def one_pass(self, term: int) -> None:
        """Do all that is due now, the most urgent first, and look how the pools are."""
        ops = settled_ops(self._cluster.store)
        if ops:
            await self._commit(ops, term)
        while self._raft.is_leader and self._raft.term == term:
            wanted = actions(self._cluster.store)
            due = [action for action in wanted if self._is_due(action)]
            if not due:
                known = {action.key for action in wanted}
                self._failures = {k: v for k, v in self._failures.items() if k in known}
                break
            await self._do(due[0], term)
        for pool in self._cluster.store.list("StoragePool"):
            if is_current(pool) and not pool.status.get("deleting"):
                await self._look(pool, term)

    def _is_due(self, action: Action) -> bool:
        return self._failures.get(action.key, (0, 0.0))[1] <= _now()

    async def _do(self, action: Action, term: int) -> None:
        """Call the backend once. Raises BlixardError, if what it came to cannot be committed."""
        ops = begun_ops(action)
        if ops:
            await self._commit(ops, term)
        try:
            await self._call(action)
        except BlixardError as error:
            count = self._failures.get(action.key, (0, 0.0))[0] + 1
            pause_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(count - 1, 10))
            self._failures[action.key] = (count, _now() + pause_s)
            self._env.log(
                "warning",
                "storage_call_failed",
                kind=action.kind,
                name=action.target.metadata.name,
                code=error.code,
                detail=error.message,
            )
            ops = failed_ops(action, f"{error.code}: {error.message}")
        else:
            self._failures.pop(action.key, None)
            ops = done_ops(action)
            self._env.log(
                "info", "storage_call_done", kind=action.kind, name=action.target.metadata.name
            )
        if ops:
            await self._commit(ops, term)

    async def _call(self, action: Action) -> None:
        """Have it done, by the only node that can if its data are there alone."""
        home = str(action.target.status.get("node", ""))
        if action.backend == "local" and home != self._own_uid:
            if self._cluster.store.by_uid(home) is not None:
                pool = str(action.target.spec.get("pool", ""))
                await remote.ask(self._env, home, pool, action.target.metadata.uid)
            return
        backend = backend_for(self._backends, cast("Backend", action.backend))
        await _bounded(_call(backend, action), CALL_S)

    async def _look(self, pool: Resource, term: int) -> None:
        """Write down how a pool is, and what lies in it that nobody declares, now and then."""
        backend = self._backends.get(cast("Backend", pool.spec.get("backend", "ceph")))
        if backend is None or pool.spec.get("backend", "ceph") == "local":
            return
        name = pool.metadata.name
        told: dict[str, object] = {}
        if self._turn("health", pool, HEALTH_S):
            try:
                health = await _bounded(backend.pool_health(name), QUESTION_S)
            except BlixardError as error:
                health = PoolHealth(reason=error.message)
            told["health"] = _shown(health)
        if self._turn("orphans", pool, ORPHANS_S):
            try:
                found = await _bounded(backend.list_volumes(name), QUESTION_S)
            except BlixardError as error:
                self._env.log("info", "orphans_not_sought", pool=name, detail=error.message)
            else:
                left = orphans(self._cluster.store, [volume.uid for volume in found])
                told["orphans"] = left[:ORPHANS_MAX]
        news = {key: value for key, value in told.items() if pool.status.get(key) != value}
        if news:
            await self._commit([PatchStatus.of(pool, news)], term)

    def _turn(self, what: str, pool: Resource, every_s: float) -> bool:
        """Tell whether it is time again for a look."""
        key, now_s = (what, pool.metadata.uid), _now()
        if now_s < self._asked_s.get(key, 0.0):
            return False
        self._asked_s[key] = now_s + every_s
        return True

    async def _commit(self, ops: list[Operation], term: int) -> None:
        await self._cluster.commit(
            tuple(ops[:OPS_MAX]), actor="system:storage", term=term, timeout_s=COMMIT_S
        )


async def _call(backend: VolumeBackend, action: Action) -> None:
    target = action.target
    name, uid, pool = target.metadata.name, target.metadata.uid, str(target.spec.get("pool", ""))
    match action.kind:
        case "fence":
            await backend.fence(uid, before_epoch=action.epoch)
        case "make-pool":
            spec = msgspec.convert(target.spec, StoragePoolSpec)
            await backend.ensure_pool(pool_plan(name, spec))
        case "make":
            await backend.ensure_volume(pool, uid, size_bytes(target.spec["size"]))
        case "unmake":
            await backend.delete_volume(pool, uid)
        case "unmake-pool":
            await backend.delete_pool(name)


async def _bounded(call: Awaitable[T], most_s: float) -> T:
    """Wait for a backend, though not for ever: it may hang with its network."""
    try:
        async with asyncio.timeout(most_s):
            return await call
    except TimeoutError:
        raise BlixardError("STORAGE_UNAVAILABLE", f"no answer within {most_s:g} s") from None
    except OSError as error:
        raise BlixardError("STORAGE_UNAVAILABLE", f"{type(error).__name__}: {error}") from error


def _shown(health: PoolHealth) -> dict[str, object]:
    """Return a pool's health as its status has it."""
    monitors, osds = health.quorum, health.osds
    return {
        "state": health.state,
        "monitors": {"inQuorum": monitors[0], "all": monitors[1]},
        "osds": {"all": osds[0], "up": osds[1], "in": osds[2]},
        "degradedObjects": health.degraded_objects,
        "misplacedObjects": health.misplaced_objects,
        "usedBytes": health.used_bytes,
        "availableBytes": health.available_bytes,
        "reason": health.reason,
    }


def _now() -> float:
    return asyncio.get_running_loop().time()
