"""Which VMs the planner need not look at again, as long as nothing that it looks at changes."""

from __future__ import annotations

from blixard.cluster.resources import Resource
from blixard.cluster.store import Store

SHARED_KINDS = ("Node", "Image", "Network", "ClusterConfig", "Volume")


class Settled:
    """VMs that were found as wanted, with the very objects that said so.

    VMs that wait for room or an address are not kept here: they depend on all others.
    A memory of one process; losing it costs one full pass.
    """

    def __init__(self) -> None:
        self._store = Store()
        self._facts: dict[str, tuple[Resource, ...]] = {}

    def look(self, store: Store) -> None:
        """Take the newest state; forget everything if what all VMs depend on changed."""
        if not self._store.same(store, SHARED_KINDS):
            self._facts.clear()
        elif len(self._facts) > store.count("VM"):
            self._facts = {uid: f for uid, f in self._facts.items() if store.by_uid(uid)}
        self._store = store

    def is_settled(self, vm_uid: str, facts: tuple[Resource, ...]) -> bool:
        """Tell whether the VM and its instances are the same objects as when it was settled."""
        known = self._facts.get(vm_uid)
        if known is None or len(known) != len(facts):
            return False
        return all(old is new for old, new in zip(known, facts, strict=True))

    def add(self, vm_uid: str, facts: tuple[Resource, ...]) -> None:
        """The plan of the VM is empty."""
        self._facts[vm_uid] = facts
