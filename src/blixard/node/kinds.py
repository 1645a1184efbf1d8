"""The table of all kinds: each domain registers its own."""

from __future__ import annotations

import msgspec

from blixard import __version__
from blixard.cluster import kinds as cluster_kinds
from blixard.cluster.kind import HIGHEST_LEVEL, Kind
from blixard.functions import kinds as function_kinds
from blixard.images import kinds as image_kinds
from blixard.network import kinds as network_kinds
from blixard.storage import kinds as storage_kinds
from blixard.vms import kinds as vm_kinds


def all_kinds() -> tuple[Kind, ...]:
    """Return every kind that this version knows."""
    return (
        *cluster_kinds.KINDS,
        *function_kinds.KINDS,
        *image_kinds.KINDS,
        *network_kinds.KINDS,
        *storage_kinds.KINDS,
        *vm_kinds.KINDS,
    )


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says of the program that it runs, and the kinds that this one knows."""

    version: str = __version__
    level: int = HIGHEST_LEVEL
    kinds: tuple[Kind, ...] = msgspec.field(default_factory=all_kinds)
