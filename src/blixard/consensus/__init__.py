"""The Raft group of the voters; its engine is the native extension, built apart from this code."""

from blixard import _raft
from blixard.base.errors import BlixardError

INTERFACE = 1
"""The interface of the engine that this code calls, the same number as in ``native/``."""

if getattr(_raft, "INTERFACE", 0) != INTERFACE:
    raise BlixardError("EXTENSION_STALE")
