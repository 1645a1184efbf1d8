"""Room on nodes and addresses for instances; what a pass gives away counts in the same pass."""

from __future__ import annotations

import functools

import msgspec

from blixard.cluster.resources import Resource
from blixard.cluster.store import Store
from blixard.network.addresses import AddressPlan
from blixard.placement.choice import Choice, PlacementRequest, choose, shortage
from blixard.vms.rooms import Rooms
from blixard.vms.spec import InstanceSpec, VMSpec


class Places:
    """What is free, read when first needed."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @functools.cached_property
    def _rooms(self) -> Rooms:
        return Rooms(self._store)

    @functools.cached_property
    def _addresses(self) -> AddressPlan:
        return AddressPlan(self._store)

    def address(self, network: str) -> tuple[str, str]:
        """Take a free IP address and its MAC address.

        Raises:
            BlixardError: the network does not exist or has none left.
        """
        return self._addresses.allocate(network)

    def choose(
        self, vm: Resource, spec: VMSpec, wanted: InstanceSpec, *, home: str = ""
    ) -> tuple[Choice, InstanceSpec | None]:
        """Reserve room on the best node: why that one, and the placed instance; None: no room.

        *home*: the uid of the only node that will do.
        """
        request = request_of(spec, wanted)
        rooms = self._rooms.seen_by(vm.metadata.uid)
        choice = choose(request, [room for room in rooms if not home or room.uid == home])
        if choice.node is None:
            return choice, None
        self._rooms.reserve(choice.node.uid, vm.metadata.uid, request)
        return choice, msgspec.structs.replace(
            wanted,
            node=choice.node.uid,
            node_name=choice.node.name,
            node_epoch=self._rooms.epoch(choice.node.uid),
            run=wanted.run + 1,
            placement=choice.why,
        )

    def resize(
        self, vm: Resource, spec: VMSpec, old: InstanceSpec, new: InstanceSpec, *, keep: bool
    ) -> str:
        """Exchange its room on its node for another size; what the node lacks for that, or "".

        Where the node lacks something, the old room is given back, unless it is to be kept.
        """
        node, owner = new.node, vm.metadata.uid
        self._rooms.release(node, owner, request_of(spec, old))
        lacks = shortage(request_of(spec, new), self._rooms.of_node(node))
        if not lacks:
            self._rooms.reserve(node, owner, request_of(spec, new))
        elif keep:
            self._rooms.reserve(node, owner, request_of(spec, old))
        return lacks


def request_of(spec: VMSpec, instance: InstanceSpec) -> PlacementRequest:
    """Return what an instance of a VM needs of a node."""
    return PlacementRequest(
        vcpus=instance.vcpus,
        memory_mib=instance.memory_mib,
        node_selector=spec.placement.node_selector,
        anti_affinity_group=spec.placement.anti_affinity_group,
    )
