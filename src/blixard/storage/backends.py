"""The backends that a node has, by name."""

from __future__ import annotations

from collections.abc import Mapping

from blixard.base.errors import BlixardError
from blixard.ports.volumes import Backend, VolumeBackend

Backends = Mapping[Backend, VolumeBackend]


def backend_for(backends: Backends, name: Backend) -> VolumeBackend:
    """Return a backend. Raises BlixardError STORAGE_UNAVAILABLE, if this node lacks it."""
    found = backends.get(name)
    if found is None:
        raise BlixardError("STORAGE_UNAVAILABLE", f"this node has no storage of the kind {name}")
    return found
