"""Pools and volumes in a Ceph cluster: implements the VolumeBackend port.

A volume is an RBD image with the exclusive lock. Who has it is a name in an object of its pool:
two who take it at once both see both names, and neither gets it. A node epoch has a Ceph user of
its own, whose key stands in a file that only root reads; fencing deletes that user
(:mod:`blixard.storage.ceph.fencing`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from blixard.base.errors import BlixardError
from blixard.ports.volumes import DiskAttachment, PoolHealth, PoolPlan, StoredVolume
from blixard.storage.ceph import codecs
from blixard.storage.ceph.caps import (
    APPLICATION,
    NODE_CAPS,
    TAG,
    TAG_VALUE,
    node_epoch,
    node_user,
    older,
)
from blixard.storage.ceph.commands import (
    EBUSY,
    EDQUOT,
    EEXIST,
    ENOENT,
    ENOSPC,
    CephCommands,
)
from blixard.storage.ceph.fencing import Fencing, image_name, spec
from blixard.storage.ceph.link import CephConfig, CephFailed

DELETE_S = 300.0
PLACEMENT_GROUPS = 32
FEATURES = "layering,exclusive-lock,object-map,fast-diff"
MIB = 1 << 20
# A guest has no log, no socket and no file of Ceph's own: its hypervisor may write nowhere.
# It may not shut others out either: where a guest moves, the lock of the process that it left is
# taken over without that. Who may write is in the table of holders.
GUEST_CONF = (
    "[client]\nlog_file =\nadmin_socket =\npid_file =\nclient_mount_timeout = 10\n"
    "rbd_blocklist_on_break_lock = false\n"
)


class CephVolumes:
    """Implements ``ports.volumes.VolumeBackend`` for pools in Ceph.

    *place* is a directory of this node for keys and the configuration that guests are given.
    """

    def __init__(self, config: CephConfig, place: str, *, pg_num: int = PLACEMENT_GROUPS) -> None:
        self._commands = CephCommands(config)
        self._fencing = Fencing(self._commands)
        self._place = place
        self._pg_num = pg_num

    async def answers(self) -> str:
        """Return in a few words how the cluster is. Raises BlixardError STORAGE_UNAVAILABLE."""
        async with _translated():
            now = codecs.status(await self._commands.ask("status"))
        osds = f"{now.osdmap.num_up_osds} of {now.osdmap.num_osds} OSDs up"
        return f"{len(now.quorum_names)} of {now.monmap.num_mons} monitors agree, {osds}"

    async def close(self) -> None:
        """End the connection."""
        await self._commands.close()

    # -- pools --

    async def ensure_pool(self, plan: PoolPlan) -> None:
        """Make the pool, or make it match: copies, quota."""
        async with _translated():
            found = await self._pools()
            pool = found.get(plan.name)
            if pool is None:
                await self._create_pool(plan)
                pool = codecs.Pool(plan.name)
            if not pool.ours:
                await self._check_free(pool)
                await self._mark(plan.name)
            if pool.size != plan.replicas:
                await self._set_copies(plan)
            if pool.quota_max_bytes != plan.quota_bytes:
                quota = {"field": "max_bytes", "val": str(plan.quota_bytes)}
                await self._commands.ask("osd pool set-quota", pool=plan.name, **quota)

    async def _create_pool(self, plan: PoolPlan) -> None:
        await self._commands.ask(
            "osd pool create",
            pool=plan.name,
            pool_type="replicated",
            pg_num=self._pg_num,
            pgp_num=self._pg_num,
        )

    async def _mark(self, pool: str) -> None:
        """Make the pool ours: guests' users reach pools with this mark."""
        application = {"pool": pool, "app": APPLICATION}
        await self._commands.ask("osd pool application enable", **application)
        await self._commands.ask(
            "osd pool application set", **application, key=TAG, value=TAG_VALUE
        )

    async def _check_free(self, pool: codecs.Pool) -> None:
        """Refuse somebody else's pool; one without objects is what a crash of ours left."""
        others = {name for name in pool.application_metadata if name != APPLICATION}
        _used, _left, objects = codecs.usage(await self._commands.ask("df"), pool.pool_name)
        if others or objects:
            mark = f"ceph osd pool application set {pool.pool_name} {APPLICATION} {TAG} {TAG_VALUE}"
            raise BlixardError(
                "ALREADY_EXISTS",
                f"Ceph has a pool {pool.pool_name} that Blixard did not make",
                hint=f"choose another name, or hand it over: {mark}",
            )

    async def _set_copies(self, plan: PoolPlan) -> None:
        """Writes need one copy less than all, yet two of three."""
        least = max(1, plan.replicas - 1)
        for name, value in (("size", plan.replicas), ("min_size", least)):
            await self._commands.ask(
                "osd pool set",
                pool=plan.name,
                var=name,
                val=str(value),
                yes_i_really_mean_it=plan.replicas == 1,
            )

    async def _pools(self) -> dict[str, codecs.Pool]:
        return codecs.pools(await self._commands.ask("osd pool ls", detail="detail"))

    async def delete_pool(self, name: str) -> None:
        """Remove an empty pool of ours; absent is fine."""
        async with _translated():
            pool = (await self._pools()).get(name)
            if pool is None:
                return
            if not pool.ours:
                raise BlixardError("POOL_IN_USE", f"Blixard did not make the pool {name} in Ceph")
            images = await self._commands.rbd("ls", name)
            if left := images.decode().split():
                raise BlixardError("POOL_IN_USE", f"{name} holds {', '.join(sorted(left)[:5])}")
            await self._commands.ask(
                "osd pool delete", pool=name, pool2=name, yes_i_really_really_mean_it=True
            )

    async def pool_health(self, name: str) -> PoolHealth:
        """Return how the pool is; a cluster that does not answer is ``unknown``."""
        ask = self._commands.ask
        try:
            async with _translated(pool=name):
                rows, status, df, stats = await asyncio.gather(
                    ask("osd pool ls", detail="detail"),
                    ask("status"),
                    ask("df"),
                    ask("osd pool stats", target="mgr", pool_name=name),
                )
                return codecs.health(name, rows, status, df, stats)
        except BlixardError as error:
            if error.code != "STORAGE_UNAVAILABLE":
                raise
            return PoolHealth(reason=error.message)

    # -- volumes --

    async def ensure_volume(self, pool: str, volume_uid: str, size_bytes: int) -> None:
        """Make the volume if it is absent; one that is there keeps its bytes and size."""
        async with _translated(pool=pool):
            if await self._size(pool, volume_uid) is not None:
                return
            await self._check_room(pool)
            await self._create(pool, volume_uid, size_bytes)

    async def _create(self, pool: str, volume_uid: str, size_bytes: int) -> None:
        size = ["--size", f"{-(-size_bytes // MIB)}M", "--image-feature", FEATURES]
        try:
            await self._commands.rbd("create", spec(pool, volume_uid), *size)
        except CephFailed as error:
            if error.code != EEXIST:
                raise

    async def _check_room(self, pool: str) -> None:
        """Ceph makes whoever writes into a full pool wait: said before."""
        found = (await self._pools()).get(pool)
        if found is None or not found.ours:
            raise BlixardError("POOL_NOT_FOUND", f"Ceph has no pool {pool} of Blixard's")
        if found.full:
            raise BlixardError("POOL_FULL", f"the pool {pool} is full")

    async def _size(self, pool: str, volume_uid: str) -> int | None:
        try:
            text = await self._commands.rbd("info", spec(pool, volume_uid), "--format", "json")
        except CephFailed as error:
            if error.code != ENOENT:
                raise
            return None
        return codecs.image_size(text)

    async def _existing(self, pool: str, volume_uid: str) -> int:
        size_bytes = await self._size(pool, volume_uid)
        if size_bytes is not None:
            return size_bytes
        if pool not in await self._pools():
            raise BlixardError("POOL_NOT_FOUND", f"Ceph has no pool {pool}")
        raise BlixardError("VOLUME_NOT_FOUND", f"{pool} has no volume {volume_uid}")

    async def resize_volume(self, pool: str, volume_uid: str, size_bytes: int) -> None:
        """Make it larger; never smaller."""
        async with _translated(pool=pool):
            now_bytes = await self._existing(pool, volume_uid)
            if size_bytes < now_bytes:
                raise BlixardError("INVALID", f"{volume_uid} has {now_bytes} bytes: never smaller")
            await self._check_room(pool)
            size = ["--size", f"{-(-size_bytes // MIB)}M", "--no-progress"]
            await self._commands.rbd("resize", spec(pool, volume_uid), *size)

    async def delete_volume(self, pool: str, volume_uid: str) -> None:
        """Remove the volume with its bytes; absent is fine."""
        async with _translated(pool=pool, volume=volume_uid):
            holders = [h for h in await self._fencing.holders(pool) if h.volume_uid == volume_uid]
            if holders:
                raise BlixardError("VOLUME_IN_USE", f"node {holders[0].node_uid} has {volume_uid}")
            rm = ["rm", spec(pool, volume_uid), "--no-progress"]
            try:
                await self._commands.rbd(*rm, deadline_s=DELETE_S)
            except CephFailed as error:
                if error.code != ENOENT:
                    raise

    async def list_volumes(self, pool: str) -> list[StoredVolume]:
        """Return what of ours is in the pool, sorted by uid."""
        async with _translated(pool=pool):
            return codecs.volumes(await self._commands.rbd("ls", "-l", pool, "--format", "json"))

    # -- use --

    async def attach(
        self,
        pool: str,
        volume_uid: str,
        *,
        name: str,
        node_uid: str,
        epoch: int,
        moves_from: str = "",
        left: tuple[str, ...] = (),
    ) -> DiskAttachment:
        """Return the disk for a guest of this node epoch, under the epoch's own user."""
        me = codecs.Holder(volume_uid, node_uid, epoch)
        async with _translated(pool=pool, volume=volume_uid):
            size_bytes = await self._existing(pool, volume_uid)
            user = node_user(node_uid, epoch)
            key_file, conf = await self._credential(user)
            try:
                await self._fencing.take(pool, me, moves_from=moves_from, left=left)
            except BlixardError as error:
                if error.code == "FENCED":
                    os.unlink(key_file)
                raise
        return DiskAttachment(
            name=name,
            size_bytes=size_bytes,
            kind="rbd",
            pool=pool,
            volume=volume_uid,
            image=image_name(volume_uid),
            user=user,
            conf=conf,
            key_file=key_file,
        )

    async def _credential(self, user: str) -> tuple[str, str]:
        """Return the files of a user's key and of the guests' configuration."""
        caps = [word for part, cap in NODE_CAPS.items() for word in (part, cap)]
        answer, minimal = await asyncio.gather(
            self._commands.ask("auth get-or-create", entity=f"client.{user}", caps=caps),
            self._commands.ask("config generate-minimal-conf"),
        )
        key_file = os.path.join(self._place, f"{user}.key")
        conf = os.path.join(self._place, "guest.conf")
        os.makedirs(self._place, mode=0o711, exist_ok=True)
        write(key_file, codecs.key(answer).encode(), 0o600)
        write(conf, minimal + GUEST_CONF.encode(), 0o644)
        self._forget_older(user)
        return key_file, conf

    def _forget_older(self, user: str) -> None:
        """Remove the keys of the node's earlier epochs: nothing is started under them any more."""
        mine = node_epoch(f"client.{user}")
        for name in os.listdir(self._place):
            if mine is not None and older(f"client.{name.removesuffix('.key')}", *mine):
                os.unlink(os.path.join(self._place, name))

    async def detach(
        self,
        pool: str,
        volume_uid: str,
        *,
        node_uid: str,
        epoch: int,
        left: tuple[str, ...] = (),
    ) -> None:
        """Give it back; what a process that was killed left behind is shut out."""
        async with _translated(pool=pool, volume=volume_uid):
            me = codecs.Holder(volume_uid, node_uid, epoch)
            await self._fencing.give_back(pool, me, left)

    async def fence(self, node_uid: str, *, before_epoch: int) -> None:
        """Return once nothing that *node_uid* began before *before_epoch* can write any more."""
        async with _translated():
            ours = [name for name, pool in sorted((await self._pools()).items()) if pool.ours]
            await self._fencing.fence(node_uid, before_epoch, ours)


def write(path: str, data: bytes, mode: int) -> None:
    """Put a file in place as a whole; nobody sees it with other rights."""
    fresh = f"{path}.new"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    try:
        os.fchmod(descriptor, mode)
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
    os.replace(fresh, path)


@asynccontextmanager
async def _translated(*, pool: str = "", volume: str = "") -> AsyncIterator[None]:
    """Turn what a program answers into an error of ours, with the code that callers know."""
    try:
        yield
    except CephFailed as error:
        raise _error(error, pool, volume) from error
    except msgspec.MsgspecError as error:
        raise BlixardError(
            "STORAGE_UNAVAILABLE", f"Ceph answers what this version does not know: {error}"
        ) from error


def _error(error: CephFailed, pool: str, volume: str) -> BlixardError:
    if error.code in (ENOSPC, EDQUOT):
        return BlixardError("POOL_FULL", str(error))
    if error.code == ENOENT and volume:
        return BlixardError("VOLUME_NOT_FOUND", str(error))
    if error.code == ENOENT and pool:
        return BlixardError("POOL_NOT_FOUND", str(error))
    if error.code == EBUSY and volume:
        return BlixardError("VOLUME_IN_USE", str(error))
    return BlixardError("STORAGE_UNAVAILABLE", str(error))
