"""Which storage this node has: files of its own, and Ceph where its configuration names one."""

from __future__ import annotations

import asyncio
import os

from blixard.base.config_keys import Config
from blixard.base.errors import BlixardError
from blixard.daemon.doctor import Row
from blixard.storage.backends import Backends
from blixard.storage.ceph.backend import CephVolumes
from blixard.storage.ceph.link import CephConfig
from blixard.storage.local.backend import LocalVolumes


def make_backends(config: Config) -> Backends:
    """Return the node's backends; one whose cluster is not there says so when it is asked."""
    data_dir = config.cluster.data_dir
    return {
        "local": LocalVolumes(os.path.join(data_dir, "volumes")),
        "ceph": _ceph(config),
    }


def _ceph(config: Config) -> CephVolumes:
    section = config.storage.ceph
    reach = CephConfig(
        conf=section.config_file,
        user=section.user,
        keyring=section.keyring or f"/etc/ceph/ceph.client.{section.user}.keyring",
    )
    place = os.path.join(config.cluster.data_dir, "ceph")
    return CephVolumes(reach, place, pg_num=section.pg_num)


def storage_rows(config: Config) -> list[Row]:
    """Ask Ceph how it is, where the node is to use one."""
    section = config.storage.ceph
    if not os.path.exists(section.config_file):
        return []
    try:
        found = asyncio.run(_answers(_ceph(config)))
    except BlixardError as error:
        hint = error.hint or f"ceph --id {section.user} status; storage.ceph in the configuration"
        return [Row(check="ceph", state="fail", found=error.message, hint=hint)]
    return [Row(check="ceph", state="ok", found=found)]


async def _answers(ceph: CephVolumes) -> str:
    try:
        return await ceph.answers()
    finally:
        await ceph.close()


async def close_backends(backends: Backends) -> None:
    """End the connection to Ceph."""
    ceph = backends.get("ceph")
    if isinstance(ceph, CephVolumes):
        await ceph.close()
