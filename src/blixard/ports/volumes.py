"""Storage pools and volumes, wherever the bytes lie: on the node itself or in a Ceph cluster.

A volume is written by one node epoch at a time. The backend itself refuses what a fenced epoch
writes: whoever is cut off from the cluster of nodes may still reach the storage.
Every call may be repeated and has its own deadline inside; a call that fails leaves nothing that a
repetition would trip over.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

Backend = Literal["local", "ceph"]
PoolState = Literal["healthy", "degraded", "unavailable", "unknown"]


class PoolPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A pool as the cluster wants it; ``name`` is also its name in the backend.

    ``replicas`` is the number of copies of each byte (``local``: always 1), ``quota_bytes`` the
    room that its volumes may use (0: no limit).
    """

    name: str
    backend: Backend
    replicas: int = 3
    quota_bytes: int = 0


class PoolHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How a pool is, now.

    ``quorum``: monitors that agree, all monitors. ``osds``: all, up, in. Objects are counted
    ``degraded`` while a copy is missing, ``misplaced`` while one lies elsewhere than it should;
    with both 0 there is nothing to rebalance. ``unavailable``: writes wait. ``unknown``: the
    backend could not be asked; ``reason`` says why, in one sentence, of whatever is not healthy.
    """

    state: PoolState = "unknown"
    quorum: tuple[int, int] = (0, 0)
    osds: tuple[int, int, int] = (0, 0, 0)
    degraded_objects: int = 0
    misplaced_objects: int = 0
    used_bytes: int = 0
    available_bytes: int = 0
    reason: str = ""


class StoredVolume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume as the backend has it, wanted or not."""

    uid: str
    size_bytes: int


class DiskAttachment(msgspec.Struct, frozen=True, kw_only=True):
    """A disk as a hypervisor opens it; ``name`` is the serial that the guest sees.

    ``pool`` and ``volume`` (a uid) are the cluster's names for it, of either kind.
    ``file``: ``path`` is a raw image on the node. ``rbd``: ``pool``, ``image``, ``user`` (without
    ``client.``) and ``conf``, the path of the cluster's configuration. There is no secret in here:
    ``key_file`` is the path of a file of mode 0600 that the adapter wrote for this node epoch.
    """

    name: str
    size_bytes: int
    kind: Literal["file", "rbd"]
    pool: str
    volume: str
    path: str = ""
    image: str = ""
    user: str = ""
    conf: str = ""
    key_file: str = ""


class VolumeBackend(Protocol):
    """The node's way to all pools; a pool of a backend that the node lacks raises.

    Raises, from every call:
        BlixardError: STORAGE_UNAVAILABLE: the backend is absent or does not answer; nothing is
            known of what was asked. POOL_NOT_FOUND: it answers, and has no such pool.
    """

    async def ensure_pool(self, plan: PoolPlan) -> None:
        """Make the pool, or make it match: copies, quota."""

    async def delete_pool(self, name: str) -> None:
        """Remove an empty pool; absent is fine. Raises BlixardError POOL_IN_USE."""

    async def pool_health(self, name: str) -> PoolHealth:
        """Return how the pool is; a backend that does not answer is ``unknown``, no error."""

    async def ensure_volume(self, pool: str, volume_uid: str, size_bytes: int) -> None:
        """Make the volume if it is absent, all zeros; one that is there keeps its bytes and size.

        Raises:
            BlixardError: POOL_FULL.
        """

    async def resize_volume(self, pool: str, volume_uid: str, size_bytes: int) -> None:
        """Make it larger. Raises BlixardError VOLUME_NOT_FOUND, POOL_FULL, INVALID (smaller)."""

    async def delete_volume(self, pool: str, volume_uid: str) -> None:
        """Remove the volume with its bytes; absent is fine.

        Raises:
            BlixardError: VOLUME_IN_USE: somebody has it open.
        """

    async def list_volumes(self, pool: str) -> list[StoredVolume]:
        """Return what of ours is in the pool, sorted by uid; the cluster compares it with its own.

        Volumes that this product did not make are not listed.
        """

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
        """Return the disk for a guest of this node epoch, under a credential of that epoch.

        Whatever the same node opened before, under this epoch or an earlier one, is shut out: its
        process is gone, but a write of it may still be under way. *left* are nodes that a guest
        was moved away from, or was not moved to after all: none of them writes any more, and what
        they did not give back is taken from them.

        *moves_from* is the node whose guest moves here: it has the volume, and keeps it, so that
        there are two until one of both gives it back. A guest opens it here only once its CPUs may
        run here; nobody is shut out.

        Raises:
            BlixardError: VOLUME_NOT_FOUND; VOLUME_IN_USE: another node has it, attached and neither
                detached nor fenced, or *moves_from* has it no more; FENCED: this node epoch was
                fenced; INVALID: a ``local`` volume does not move.
        """

    async def detach(
        self,
        pool: str,
        volume_uid: str,
        *,
        node_uid: str,
        epoch: int,
        left: tuple[str, ...] = (),
    ) -> None:
        """Give it back, so that another node may attach it; absent is fine.

        The process that had it open is gone. Returns once no write of it can arrive any more;
        one that was attached by another node since stays as it is, unless it is one of *left*, as
        in :meth:`attach`.
        """

    async def fence(self, node_uid: str, *, before_epoch: int) -> None:
        """Return once nothing that *node_uid* began before *before_epoch* can write any more.

        Deletes the credentials of its earlier epochs, shuts their open connections out, breaks
        their locks. It lasts until the node itself attaches under *before_epoch* or later.
        ``local`` pools have nothing to fence: their data is only where the node is.
        """
