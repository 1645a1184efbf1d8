"""The kinds VM and Instance, with their rules."""

from __future__ import annotations

from blixard.base.errors import BlixardError, Problem
from blixard.base.units import parse_memory_mib
from blixard.cluster.kind import Kind, StateView
from blixard.cluster.kinds import instance_rule
from blixard.cluster.resources import Resource
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
    return problems


def has_instances(state: StateView, vm: Resource) -> bool:
    """Tell whether a VM is still to end its instances, which hold their reservations until then."""
    return any(owned.kind == "Instance" for owned in state.owned_by(vm.metadata.uid))


KINDS: tuple[Kind, ...] = (
    Kind(name="VM", plural="vms", spec=VMSpec, validate=validate_vm, outlives=has_instances),
    Kind(
        name="Instance",
        plural="instances",
        short=("inst",),
        spec=InstanceSpec,
        rule=instance_rule,
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
