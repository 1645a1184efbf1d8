"""Who may do what in the Ceph cluster: Blixard's own user, and one user per node epoch."""

from __future__ import annotations

import re

# Application metadata of a pool: by it a pool is ours, and the caps of node epochs reach it.
APPLICATION, TAG, TAG_VALUE = "rbd", "blixard", "yes"

# Making users and reading the monitors' sessions are an administrator's rights; so is asking the
# OSDs which map they have.
OWN_CAPS = {"mon": "allow *", "mgr": "allow r", "osd": "allow *"}
# No right to blocklist: a guest that took over its hypervisor must not shut others out.
NODE_CAPS = {"mon": "allow r", "osd": f"allow rwx tag {APPLICATION} {TAG}={TAG_VALUE}"}

_USER = re.compile(r"client\.blixard\.([0-9A-Za-z_-]+)\.([0-9]+)")


def node_user(node_uid: str, epoch: int) -> str:
    """Return the user of a node epoch, without ``client.``."""
    return f"blixard.{node_uid}.{epoch}"


def node_epoch(entity: str) -> tuple[str, int] | None:
    """Return the node and epoch whose user an entity is; None: somebody else's."""
    found = _USER.fullmatch(entity)
    return (found[1], int(found[2])) if found else None


def older(entity: str, node_uid: str, before_epoch: int) -> bool:
    """Tell whether an entity is the user of an epoch of *node_uid* before *before_epoch*."""
    found = node_epoch(entity)
    return found is not None and found[0] == node_uid and found[1] < before_epoch
