"""From VMs and nodes to instances: which exist, where they run, which are moved or removed.

Rules (architecture.md, "Leases and fencing"; decisions.md, "minority partition"):

- An instance on a lost node that is *fenced* keeps its identity and is placed again, with run + 1.
- One that is *kept* stays Unknown; another ordinal replaces it. When the node returns, the one from
  before is the surplus and goes, the replacement stays.
- One with local data (``persistent``) is Unknown until its node returns; nothing replaces it.
- What is deleted or scaled away ends first: its Instance, its address and its reservation stay
  until its node said that it ended (members.py). Then it goes, and with the last one a deleted VM.
- Nothing that is healthy is touched by a change of leader.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from blixard.base.errors import BlixardError
from blixard.base.units import parse_memory_mib
from blixard.cluster.resources import Operation, Resource
from blixard.cluster.store import Store
from blixard.ports.guests import GuestRecipe
from blixard.vms.batch import Batch
from blixard.vms.changes import (
    free_ordinals,
    may_disturb,
    only_desired,
    removal_rank,
    restart_needed,
    size,
    starts_anew,
)
from blixard.vms.claims import Claims
from blixard.vms.guarding import placed, switched
from blixard.vms.members import Member, decode_member, told_to_end
from blixard.vms.places import Places
from blixard.vms.settled import Settled
from blixard.vms.spec import InstanceSpec, InstanceStatus, VMSpec, is_fenced
from blixard.vms.summary import summarise

NODE_LOST = "its node is lost"
STORAGE_NOT_FENCED = "its node is lost, and its storage still takes writes from there"
RESTARTING = "restarting with a changed specification"


class ReplicaPlanner:
    """One pass over the VMs of a store; reservations made earlier in the pass count."""

    def __init__(
        self, store: Store, new_uid: Callable[[], str], settled: Settled | None = None
    ) -> None:
        self.store = store
        self._new_uid = new_uid
        self._settled = settled if settled is not None else Settled()
        self._waits = False  # for room or an address, which others may free
        self._lacks = ""  # why an instance of the VM in hand cannot be created
        self._places = Places(store)
        self._claims = Claims(store, new_uid)
        self._disturbed: set[str] = set()
        self._batch = Batch()

    def plan(self) -> list[Operation]:
        """Return operations that bring the instances closer to the VMs; empty: all is as wanted.

        VMs that were as wanted at the last look, and of which nothing changed, are passed over.
        """
        self._settled.look(self.store)
        for vm in self.store.list("VM"):
            if self._batch.full:
                break
            instances = [r for r in self.store.owned_by(vm.metadata.uid) if r.kind == "Instance"]
            facts = (vm, *instances)
            if self._settled.is_settled(vm.metadata.uid, facts):
                continue
            before, self._waits, self._lacks = len(self._batch.ops), False, ""
            self._plan_vm(vm, instances)
            if len(self._batch.ops) == before and not self._waits:
                self._settled.add(vm.metadata.uid, facts)
        return self._batch.ops

    def _plan_vm(self, vm: Resource, instances: list[Resource]) -> None:
        spec = self._claims.on_one_node(msgspec.convert(vm.spec, VMSpec))
        members = [decode_member(instance, self.store) for instance in instances]
        members.sort(key=lambda m: m.spec.ordinal)
        if vm.status.get("deleting"):
            self._plan_end(vm, spec, members)
            return
        recipe, problem = self._recipe(vm, spec)
        if recipe is not None:
            members = self._drop_gone(members)
            alive = [m for m in members if not m.kept_away]
            alive = self._remove_surplus(spec, alive)
            for member in alive:
                if self._batch.full:
                    return
                self._plan_member(vm, spec, recipe, member, alive)
            for ordinal in free_ordinals(members, spec.replicas - len(alive)):
                if self._batch.full:
                    return
                self._create(vm, spec, recipe, ordinal)
            for member in members:
                if member.kept_away or (member.node_lost and member.spec.persistent):
                    self._batch.set_status(member, phase="Unknown", ready=False, reason=NODE_LOST)
        self._report(vm, spec, members, problem)

    def _plan_end(self, vm: Resource, spec: VMSpec, members: list[Member]) -> None:
        """End the instances of a deleted VM; it goes with the last of them."""
        for member in members:
            if self._batch.full:
                return
            self._end(member)
        if all(member.has_ended for member in members):
            self._batch.delete(vm)
        else:
            self._report(vm, spec, members, "")

    def _end(self, member: Member) -> None:
        """Remove an instance that has ended; tell its node to end another one."""
        if member.has_ended:
            self._batch.delete(member.resource)
            return
        told = told_to_end(member)
        if told != member.spec:
            self._batch.put(member.resource, told)
        if member.node_lost:
            self._batch.set_status(member, phase="Unknown", ready=False, reason=NODE_LOST)
        elif told.run != member.spec.run:
            self._batch.set_status(member, phase="Stopping", ready=False, reason="")

    def _recipe(self, vm: Resource, spec: VMSpec) -> tuple[GuestRecipe | None, str]:
        if spec.recipe is not None:
            return spec.recipe, ""
        image = self.store.get("Image", vm.metadata.namespace, spec.image or "")
        if image is None:
            return None, f"image {spec.image!r} does not exist"
        return msgspec.convert(image.spec, GuestRecipe), ""

    def _drop_gone(self, members: list[Member]) -> list[Member]:
        """Kept instances of a removed node are deleted; fenced ones are placed again later."""
        left = []
        for member in members:
            if member.node_gone and not member.spec.fenced:
                self._batch.delete(member.resource)
            else:
                left.append(member)
        return left

    def _remove_surplus(self, spec: VMSpec, alive: list[Member]) -> list[Member]:
        surplus = len(alive) - spec.replicas
        if surplus <= 0:
            return alive
        ranked = sorted(alive, key=removal_rank)
        for member in ranked[:surplus]:
            self._end(member)
        removed = {m.resource.metadata.uid for m in ranked[:surplus]}
        return [m for m in alive if m.resource.metadata.uid not in removed]

    def _plan_member(
        self, vm: Resource, spec: VMSpec, recipe: GuestRecipe, member: Member, alive: list[Member]
    ) -> None:
        wanted = self._template(vm, spec, recipe, member)
        disturbs = member.status.ready and restart_needed(member.spec, wanted)
        if disturbs and not may_disturb(member, alive, self._disturbed):
            wanted = only_desired(member.spec, wanted)
            disturbs = False
        if member.spec.persistent and member.node_lost:
            return
        if member.writes:
            self._batch.set_status(member, phase="Unknown", ready=False, reason=STORAGE_NOT_FENCED)
            return
        if not wanted.node or member.node_lost or member.node_gone:
            if spec.running:
                self._place(vm, spec, wanted, member)
            else:
                self._unplace(wanted, member, phase="Stopped", reason="")
            return
        if self._leaving(wanted.node):
            if member.spec.migration:
                return  # it leaves while it runs; if that fails, it is stopped there
            self._evacuate(vm, spec, wanted, member, alive)
            return
        if size(member.spec) != size(wanted):
            self._resize(vm, spec, wanted, member)
            return
        if member.stale:
            wanted = msgspec.structs.replace(wanted, node_epoch=member.node_epoch)
        ends = wanted.desired == "Stopped" and member.spec.desired == "Running"
        if ends or starts_anew(member.spec, wanted) or member.shut_out:
            # What was told of the run before, also late, must not speak for the new start or end.
            self._batch.put(member.resource, msgspec.structs.replace(wanted, run=wanted.run + 1))
            phase = "Stopping" if ends else "Pending"
            self._batch.set_status(member, phase=phase, ready=False, reason="")
        elif wanted != member.spec:
            self._batch.put(member.resource, wanted)
        if disturbs:
            self._disturb(member, RESTARTING)

    def _resize(self, vm: Resource, spec: VMSpec, wanted: InstanceSpec, member: Member) -> None:
        """Give it another size once it has stopped: until then it uses what it has."""
        if not member.has_stopped:
            told = told_to_end(member)
            if told != member.spec:
                self._batch.put(member.resource, told)
            if told.run != member.spec.run:
                self._disturbed.add(vm.metadata.uid)
                self._batch.set_status(member, phase="Stopping", ready=False, reason=RESTARTING)
            return
        lacks = self._places.resize(vm, spec, member.spec, wanted, keep=spec.persistent)
        if not lacks:
            anew = msgspec.structs.replace(wanted, run=wanted.run + 1, node_epoch=member.node_epoch)
            self._batch.put(member.resource, anew)
            phase = "Pending" if spec.running else "Stopping"
            self._batch.set_status(member, phase=phase, ready=False, reason="")
        elif spec.persistent:
            self._waits = True
            reason = f"its data exists only on {wanted.node_name}: {lacks}"
            self._batch.set_status(member, phase="Stopped", ready=False, reason=reason)
        elif spec.running:
            self._place(vm, spec, wanted, member)
        else:
            self._unplace(wanted, member, phase="Stopped", reason="")

    def _disturb(self, member: Member, reason: str) -> None:
        """Count it as not ready from now on: the next one waits until it is back."""
        self._disturbed.add(member.resource.metadata.owner)
        self._batch.set_status(member, phase=member.status.phase, ready=False, reason=reason)

    def _template(
        self, vm: Resource, spec: VMSpec, recipe: GuestRecipe, member: Member
    ) -> InstanceSpec:
        if member.spec.node:
            base = switched(member.spec, member.status, fence=is_fenced(spec))
        else:
            base = placed(member.spec, fence=is_fenced(spec))
        base = self._claims.known(base)
        return msgspec.structs.replace(
            base,
            desired="Running" if spec.running else "Stopped",
            vcpus=spec.vcpus,
            memory_mib=parse_memory_mib(spec.memory),
            recipe=recipe,
            restart_policy=spec.restart_policy,
            readiness=spec.readiness,
            persistent=spec.persistent,
            vm_generation=vm.metadata.generation,
            restart_generation=spec.restart_generation,
        )

    def _place(self, vm: Resource, spec: VMSpec, wanted: InstanceSpec, member: Member) -> None:
        why, chosen = self._chosen(vm, spec, placed(wanted, fence=is_fenced(spec)))
        if chosen is None:
            self._unplace(wanted, member, phase="Pending", reason=why)
            return
        self._batch.add(self._claims.stay(vm, chosen))
        self._batch.put(member.resource, chosen)
        self._batch.set_status(member, phase="Pending", ready=False, reason="")

    def _chosen(
        self, vm: Resource, spec: VMSpec, wanted: InstanceSpec
    ) -> tuple[str, InstanceSpec | None]:
        """Return the placed instance; without one, what it waits for."""
        lacks = self._claims.lacking(wanted)
        if not lacks:
            home = self._claims.home(wanted)
            choice, chosen = self._places.choose(vm, spec, wanted, home=home)
            if chosen is not None:
                return "", chosen
            lacks = choice.why
        self._waits = True
        return lacks, None

    def _leaving(self, node_uid: str) -> bool:
        node = self.store.by_uid(node_uid)
        return node is not None and bool(node.status.get("removing"))

    def _evacuate(
        self,
        vm: Resource,
        spec: VMSpec,
        wanted: InstanceSpec,
        member: Member,
        alive: list[Member],
    ) -> None:
        """Its node is to be removed: stop it there, then place it anew, one at a time."""
        if member.spec.persistent:
            self._batch.set_status(
                member,
                phase=member.status.phase,
                ready=member.status.ready,
                reason="its data exists only on the node that is to be removed",
            )
        elif member.has_stopped:
            if spec.running:
                self._place(vm, spec, wanted, member)
            else:
                self._unplace(wanted, member, phase="Stopped", reason="")
        elif member.spec.desired == "Running" and may_disturb(member, alive, self._disturbed):
            self._batch.put(member.resource, told_to_end(member))
            self._disturb(member, "leaving a node that is to be removed")

    def _unplace(self, wanted: InstanceSpec, member: Member, *, phase: str, reason: str) -> None:
        unplaced = msgspec.structs.replace(wanted, node="", node_name="", placement="")
        if unplaced != member.spec:
            self._batch.put(member.resource, unplaced)
        self._batch.set_status(member, phase=phase, ready=False, reason=reason)

    def _create(self, vm: Resource, spec: VMSpec, recipe: GuestRecipe, ordinal: int) -> None:
        uid = self._new_uid()
        blank = Member(
            resource=vm,
            spec=InstanceSpec(vm=vm.metadata.name, ordinal=ordinal, network=spec.network),
            status=InstanceStatus(),
        )
        wanted = self._template(vm, spec, recipe, blank)
        try:
            disks, ops = self._claims.bind(vm, spec, ordinal, uid)
            ip, mac = self._places.address(spec.network)
        except BlixardError as error:
            self._waits = True
            self._lacks = error.message
            return
        volumes = disks or msgspec.UNSET
        wanted = msgspec.structs.replace(wanted, ip=ip, mac=mac, volumes=volumes)
        status = InstanceStatus()
        if spec.running:
            why, chosen = self._chosen(vm, spec, wanted)
            status = InstanceStatus(reason=why)
            wanted = chosen or wanted
        self._batch.add([*ops, *(self._claims.stay(vm, wanted) if wanted.node else ())])
        self._batch.create(vm, uid, wanted, status)

    def _report(self, vm: Resource, spec: VMSpec, members: list[Member], problem: str) -> None:
        deleting = bool(vm.status.get("deleting"))
        status = summarise(spec, members, problem, deleting=deleting)
        self._batch.patch(vm, {**status, "message": self._lacks or status["message"]})
