"""The operations of one pass of the planner: few enough for one command."""

from __future__ import annotations

import msgspec

from blixard.cluster.moves import still_fits
from blixard.cluster.resources import Delete, Operation, PatchStatus, Put, Resource
from blixard.vms.members import Member
from blixard.vms.spec import InstanceSpec, InstanceStatus

OPS_MAX = 200  # a pass begins nothing more after this many operations; the rest waits
BYTES_MAX = 256 * 1024  # or after this many bytes: recipes may be large, a command is bounded


class Batch:
    """Operations in the order in which they are to be applied."""

    def __init__(self) -> None:
        self.ops: list[Operation] = []
        self._bytes = 0

    @property
    def full(self) -> bool:
        """Tell whether it holds as much as one command should."""
        return len(self.ops) >= OPS_MAX or self._bytes >= BYTES_MAX

    def add(self, ops: list[Operation]) -> None:
        """Add operations that were made elsewhere."""
        for op in ops:
            self._add(op)

    def create(self, vm: Resource, uid: str, spec: InstanceSpec, status: InstanceStatus) -> None:
        """Create an instance of a VM."""
        self._add(
            Put(
                kind="Instance",
                namespace=vm.metadata.namespace,
                name=f"{vm.metadata.name}-{spec.ordinal}",
                uid=uid,
                owner=vm.metadata.uid,
                labels=vm.metadata.labels,
                spec=msgspec.to_builtins(spec),
                status=msgspec.to_builtins(status),
                expect=0,
            )
        )

    def put(self, instance: Resource, spec: InstanceSpec) -> None:
        """Give an instance another spec, unless it changed since it was read."""
        document = msgspec.to_builtins(spec)
        if spec.migration:
            before = msgspec.to_builtins(msgspec.convert(instance.spec, InstanceSpec))
            if not still_fits(before, document):
                del document["migration"]  # what it is prepared for is no longer wanted
        self._add(Put.of(instance, document, unchanged=True))

    def delete(self, resource: Resource) -> None:
        """Delete a VM or an instance, unless it changed since it was read."""
        self._add(Delete.of(resource, unchanged=True))

    def set_status(self, member: Member, *, phase: str, ready: bool, reason: str) -> None:
        """Say how an instance is, if that is news."""
        self.patch(member.resource, {"phase": phase, "ready": ready, "reason": reason})

    def patch(self, resource: Resource, status: dict[str, object]) -> None:
        """Set these keys of a status, if one of them is news."""
        if all(resource.status.get(key) == value for key, value in status.items()):
            return
        self._add(PatchStatus.of(resource, status))

    def _add(self, op: Operation) -> None:
        self.ops.append(op)
        self._bytes += len(msgspec.msgpack.encode(op))
