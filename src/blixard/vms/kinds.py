"""The kinds VM and Instance, with their rules."""

from __future__ import annotations

import msgspec

from blixard.base.errors import BlixardError, Problem
from blixard.base.units import parse_memory_mib
from blixard.cluster.kind import Kind, StateView
from blixard.cluster.kinds import instance_rule
from blixard.cluster.resources import Resource
from blixard.storage.kinds import size_problems, writer_rule
from blixard.storage.spec import VolumeClaim
from blixard.vms.migration_rules import is_under_way, migration_rule
from blixard.vms.moves import MIGRATION, MigrationSpec
from blixard.vms.spec import LIFECYCLE, InstanceSpec, VMSpec

MEMORY_MIN_MIB = 64


def validate_vm(spec: VMSpec) -> list[Problem]:
    """Return what the types cannot say: one source of the guest, a sane size."""
    problems = []
    if (spec.image is None) == (spec.recipe is None):
        message = "give exactly one of image and recipe"
        problems.append(Problem(pointer="/spec/image", message=message))
    try:
        if parse_memory_mib(spec.memory) < MEMORY_MIN_MIB:
            problems.append(
                Problem(pointer="/spec/memory", message=f"at least {MEMORY_MIN_MIB} MiB")
            )
    except BlixardError as error:
        problems.append(Problem(pointer="/spec/memory", message=error.message))
    names = [claim.name for claim in spec.volumes]
    for number, claim in enumerate(spec.volumes):
        place = f"/spec/volumes/{number}"
        problems += size_problems(claim.size, f"{place}/size")
        if names.count(claim.name) > 1:
            problems.append(Problem(f"{place}/name", f"{claim.name!r} is used twice"))
    return problems


def vm_rule(_state: StateView, old: Resource | None, new: Resource | None) -> str:
    """What volumes the instances of a VM have is said once, as with Kubernetes' stateful sets."""
    if old is None or new is None or old.spec.get("volumes") == new.spec.get("volumes"):
        return ""
    was, now = (
        msgspec.convert(vm.spec.get("volumes", ()), tuple[VolumeClaim, ...]) for vm in (old, new)
    )
    return "" if was == now else "the volumes of a VM cannot change: make another VM"


def placed_rule(state: StateView, old: Resource | None, new: Resource | None) -> str:
    """An instance is at one place at a time, and so is each volume that is bound to it."""
    return instance_rule(state, old, new) or writer_rule(state, new)


def has_instances(state: StateView, vm: Resource) -> bool:
    """Tell whether a VM is still to end its instances, which hold their reservations until then."""
    return any(owned.kind == "Instance" for owned in state.owned_by(vm.metadata.uid))


KINDS: tuple[Kind, ...] = (
    Kind(
        name="VM",
        plural="vms",
        spec=VMSpec,
        validate=validate_vm,
        rule=vm_rule,
        outlives=has_instances,
    ),
    Kind(
        name="Instance",
        plural="instances",
        short=("inst",),
        spec=InstanceSpec,
        rule=placed_rule,
        phases=LIFECYCLE,
        name_pattern=r"[a-z0-9]([-a-z0-9]{0,66}[a-z0-9])?",
        internal=True,
    ),
    Kind(
        name="Migration",
        plural="migrations",
        short=("mig",),
        spec=MigrationSpec,
        rule=migration_rule,
        outlives=is_under_way,
        phases=MIGRATION,
        name_pattern=r"[a-z0-9]([-a-z0-9]{0,94}[a-z0-9])?",
    ),
)
