# ruff: noqa: ARG002 - the port gives node and epoch; a file needs neither
"""Pools and volumes in the node's data directory: implements the VolumeBackend port.

A pool is a directory, a volume a raw sparse file in it. Whoever has a volume open holds a lock on
its file: the launcher takes it for the hypervisor, the kernel gives it back when that ends.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import TypeVar

import msgspec

from blixard.base.errors import BlixardError
from blixard.ports.volumes import DiskAttachment, PoolHealth, PoolPlan, StoredVolume

PLAN = "pool.json"
SUFFIX = ".raw"
T = TypeVar("T")


class LocalVolumes:
    """Implements ``ports.volumes.VolumeBackend`` for pools of this node; *place* holds them."""

    def __init__(self, place: str) -> None:
        self._place = pathlib.Path(place)

    def has(self, pool: str) -> bool:
        """Tell whether the pool is here."""
        return (self._place / pool / PLAN).exists()

    # -- pools --

    async def ensure_pool(self, plan: PoolPlan) -> None:
        """Make the pool, or make its quota match."""
        await _done(lambda: self._ensure_pool(plan))

    def _ensure_pool(self, plan: PoolPlan) -> None:
        directory = self._place / plan.name
        self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        fresh = directory / f"{PLAN}.new"
        fresh.write_bytes(msgspec.json.encode(plan))
        fresh.rename(directory / PLAN)

    async def delete_pool(self, name: str) -> None:
        """Remove an empty pool; absent is fine."""
        await _done(lambda: self._delete_pool(name))

    def _delete_pool(self, name: str) -> None:
        directory = self._place / name
        if not directory.exists():
            return
        if left := [volume.uid for volume in self._volumes(name)]:
            raise BlixardError("POOL_IN_USE", f"{name} holds {', '.join(left[:5])}")
        shutil.rmtree(directory)

    async def pool_health(self, name: str) -> PoolHealth:
        """Return the room that is left."""
        return await _done(lambda: self._pool_health(name))

    def _pool_health(self, name: str) -> PoolHealth:
        plan = self._plan(name)
        used = sum(os.stat(self._file(name, v.uid)).st_blocks * 512 for v in self._volumes(name))
        free = shutil.disk_usage(self._place).free
        left = min(free, plan.quota_bytes - used) if plan.quota_bytes else free
        return PoolHealth(state="healthy", used_bytes=used, available_bytes=max(0, left))

    def _plan(self, pool: str) -> PoolPlan:
        try:
            return msgspec.json.decode((self._place / pool / PLAN).read_bytes(), type=PoolPlan)
        except FileNotFoundError as error:
            raise BlixardError("POOL_NOT_FOUND", f"this node has no pool {pool}") from error

    # -- volumes --

    def _file(self, pool: str, volume_uid: str) -> pathlib.Path:
        return self._place / pool / f"{volume_uid}{SUFFIX}"

    def _volumes(self, pool: str) -> list[StoredVolume]:
        found = sorted((self._place / pool).glob(f"*{SUFFIX}"))
        return [StoredVolume(uid=f.stem, size_bytes=f.stat().st_size) for f in found]

    async def ensure_volume(self, pool: str, volume_uid: str, size_bytes: int) -> None:
        """Make the volume if it is absent; one that is there keeps its bytes and size."""
        await _done(lambda: self._ensure_volume(pool, volume_uid, size_bytes))

    def _ensure_volume(self, pool: str, volume_uid: str, size_bytes: int) -> None:
        plan, path = self._plan(pool), self._file(pool, volume_uid)
        if path.exists():
            return
        self._check_room(plan, size_bytes)
        fresh = path.with_suffix(".new")
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.ftruncate(descriptor, size_bytes)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        fresh.rename(path)

    def _check_room(self, plan: PoolPlan, more_bytes: int) -> None:
        """Files are sparse: the quota counts sizes, the disk what is written."""
        promised = sum(volume.size_bytes for volume in self._volumes(plan.name))
        if plan.quota_bytes and promised + more_bytes > plan.quota_bytes:
            raise BlixardError(
                "POOL_FULL", f"{plan.name}: {promised} of {plan.quota_bytes} bytes are given out"
            )
        free = shutil.disk_usage(self._place).free
        if more_bytes > free:
            raise BlixardError("POOL_FULL", f"{plan.name}: the node has {free} bytes free")

    async def resize_volume(self, pool: str, volume_uid: str, size_bytes: int) -> None:
        """Make it larger; never smaller."""
        await _done(lambda: self._resize(pool, volume_uid, size_bytes))

    def _resize(self, pool: str, volume_uid: str, size_bytes: int) -> None:
        plan, now_bytes = self._plan(pool), self._size(pool, volume_uid)
        if size_bytes < now_bytes:
            raise BlixardError("INVALID", f"{volume_uid} has {now_bytes} bytes: never smaller")
        self._check_room(plan, size_bytes - now_bytes)
        os.truncate(self._file(pool, volume_uid), size_bytes)

    def _size(self, pool: str, volume_uid: str) -> int:
        try:
            return os.stat(self._file(pool, volume_uid)).st_size
        except FileNotFoundError as error:
            raise BlixardError("VOLUME_NOT_FOUND", f"{pool} has no volume {volume_uid}") from error

    async def delete_volume(self, pool: str, volume_uid: str) -> None:
        """Remove the volume with its bytes; absent is fine."""
        await _done(lambda: self._delete_volume(pool, volume_uid))

    def _delete_volume(self, pool: str, volume_uid: str) -> None:
        path = self._file(pool, volume_uid)
        if not path.exists():
            return
        with open(path, "rb+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlixardError("VOLUME_IN_USE", f"a guest has {volume_uid} open") from error
            path.unlink()

    async def list_volumes(self, pool: str) -> list[StoredVolume]:
        """Return the volumes of the pool, sorted by uid."""

        def listed() -> list[StoredVolume]:
            self._plan(pool)
            return self._volumes(pool)

        return await _done(listed)

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
        """Return the disk: its file is locked when the hypervisor starts."""
        if moves_from:
            raise BlixardError("INVALID", f"{volume_uid} is a file of {moves_from}: it stays there")
        size_bytes = await _done(lambda: self._size(pool, volume_uid))
        return DiskAttachment(
            name=name,
            size_bytes=size_bytes,
            kind="file",
            pool=pool,
            volume=volume_uid,
            path=str(self._file(pool, volume_uid)),
        )

    async def detach(
        self,
        pool: str,
        volume_uid: str,
        *,
        node_uid: str,
        epoch: int,
        left: tuple[str, ...] = (),
    ) -> None:
        """Nothing to do: the lock ended with the process."""

    async def fence(self, node_uid: str, *, before_epoch: int) -> None:
        """Nothing to fence: the data are only where the node is."""


async def _done(work: Callable[[], T]) -> T:
    """Do it in a thread: a file system may take its time."""
    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        raise BlixardError(
            "STORAGE_UNAVAILABLE", f"{error.filename or 'volumes'}: {error.strerror}"
        ) from error
