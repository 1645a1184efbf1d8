"""The table of all kinds: each domain registers its own."""

from __future__ import annotations

from blixard.cluster import kinds as cluster_kinds
from blixard.cluster.kind import Kind
from blixard.images import kinds as image_kinds
from blixard.network import kinds as network_kinds
from blixard.vms import kinds as vm_kinds


def all_kinds() -> tuple[Kind, ...]:
    """Return every kind that this version knows."""
    return (
        *cluster_kinds.KINDS,
        *image_kinds.KINDS,
        *network_kinds.KINDS,
        *vm_kinds.KINDS,
    )
