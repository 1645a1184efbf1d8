"""Specs of pools, volumes and claims on volumes; sizes in bytes of what users write."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from blixard.base.units import parse_size_bytes
from blixard.ports.volumes import Backend, PoolPlan

REPLICAS_DEFAULT = 3
_Name = Annotated[str, Meta(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
# What a virtio disk can say of itself to its guest has room for 20 characters.
_ClaimName = Annotated[str, Meta(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=20)]
_Size = str | Annotated[int, Meta(ge=1)]
Reclaim = Literal["retain", "delete"]


class _Spec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Base of the specs: camelCase in documents, unknown fields are an error."""


class StoragePoolSpec(_Spec, frozen=True, kw_only=True):
    """Where volumes lie: ``replicas`` copies of each byte (default: 3, ``local``: 1).

    ``quota`` is what its volumes may use (a bare number: GB; empty: no limit).
    """

    backend: Backend = "ceph"
    replicas: Annotated[int, Meta(ge=1, le=10)] | None = None
    quota: str | Annotated[int, Meta(ge=0)] = ""


class VolumeSpec(_Spec, frozen=True, kw_only=True):
    """A disk of its own life; ``size`` as users write it (a bare number: GB).

    ``reclaim``: what becomes of it when the instance that it was made for is gone for good.
    """

    pool: _Name
    size: _Size
    reclaim: Reclaim = "retain"


class VolumeClaim(_Spec, frozen=True, kw_only=True):
    """A disk that each instance of a VM has: its volume is ``VM-ORDINAL-NAME``.

    ``name`` is also the serial of the disk in the guest.
    """

    name: _ClaimName
    pool: _Name
    size: _Size = "10GiB"
    reclaim: Reclaim = "retain"


class InstanceVolume(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A volume that an instance is bound to, as its node has to know it.

    ``made``: it was there before, so that one that is missing is an error and no empty disk.
    ``quota_bytes``: what the volumes of a local pool may use on one node (0: no limit).
    """

    name: str
    uid: str
    pool: str
    backend: Backend
    size_bytes: int
    made: bool = False
    quota_bytes: int = 0


def pool_plan(name: str, spec: StoragePoolSpec) -> PoolPlan:
    """Return what the backend is to make of a pool. Raises BlixardError INVALID (quota)."""
    copies = 1 if spec.backend == "local" else spec.replicas or REPLICAS_DEFAULT
    quota_bytes = parse_size_bytes(spec.quota, bare_unit="G") if spec.quota else 0
    return PoolPlan(name=name, backend=spec.backend, replicas=copies, quota_bytes=quota_bytes)


def size_bytes(size: str | int) -> int:
    """Return the bytes of a disk's size. Raises BlixardError INVALID."""
    return parse_size_bytes(size, bare_unit="G")
