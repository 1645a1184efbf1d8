"""The kinds VM and Instance, with their rules."""

from __future__ import annotations

from blixard.base.errors import BlixardError, Problem
from blixard.base.units import parse_memory_mib
from blixard.vms.spec import InstanceSpec, InstanceStatus, VMSpec

MEMORY_MIN_MIB = 64


def validate_vm(spec: VMSpec) -> list[Problem]:
    """Return what the types cannot say: one source of the guest, a sane size."""
    problems = []
    if (spec.image is None) == (spec.recipe is None):
        problems.append(Problem(pointer="/spec", message="give exactly one of image and recipe"))
    try:
        if parse_memory_mib(spec.memory) < MEMORY_MIN_MIB:
            problems.append(
                Problem(pointer="/spec/memory", message=f"at least {MEMORY_MIN_MIB} MiB")
            )
    except BlixardError as error:
        problems.append(Problem(pointer="/spec/memory", message=error.message))
    return problems


__all__ = ["InstanceSpec", "InstanceStatus", "VMSpec", "validate_vm"]
