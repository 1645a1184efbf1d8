"""What users write of a function, and what a node is told of it."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from blixard.base.errors import BlixardError, Problem
from blixard.base.units import parse_duration_s, parse_memory_mib
from blixard.images.kinds import PACKAGE
from blixard.ports.guests import GuestRecipe

SOURCE_BYTES_MAX = 256 << 10
ENVIRONMENT_BYTES_MAX = 32 << 10
MEMORY_MIN_MIB, MEMORY_MAX_MIB = 64, 65_536
TIMEOUT_MIN_S, TIMEOUT_MAX_S = 0.1, 300.0
IDLE_MAX_S = 86_400.0
RUNTIMES = ("python",)
# Named in the documents; each is refused with what to do instead, until it is there.
RUNTIMES_ABSENT = ("nix", "wasm", "rust", "container")
# Beside what every guest has: the agent needs Python itself.
RUNTIME_PACKAGES: dict[str, tuple[str, ...]] = {"python": ()}

_Count = Annotated[int, Meta(ge=0, le=10_000)]
_Duration = str | Annotated[float, Meta(gt=0)]


class FunctionSpec(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """A function. Memory is a size (bare number: MB), durations are texts like ``30s`` or seconds.

    ``handler`` is ``file.function``; ``source`` the text of that file. ``packages`` are of the
    distribution, for the guest. ``max_instances`` bounds its VMs in the whole cluster,
    ``max_concurrent`` its simultaneous calls there (0: one per VM): each node is given a share of
    both. ``min_warm`` VMs are kept; others end after ``idle_timeout`` without a call.
    """

    source: str
    runtime: str = "python"
    handler: Annotated[str, Meta(pattern=r"^[A-Za-z_]\w*\.[A-Za-z_]\w*$", max_length=128)] = (
        "main.handler"
    )
    packages: Annotated[tuple[str, ...], Meta(max_length=64)] = ()
    memory: str | Annotated[int, Meta(ge=32)] = "128MiB"
    vcpus: Annotated[int, Meta(ge=1, le=64)] = 1
    timeout: _Duration = "30s"
    environment: dict[str, str] = {}
    min_warm: _Count = 0
    max_instances: Annotated[int, Meta(ge=1, le=10_000)] = 100
    max_concurrent: _Count = 0
    idle_timeout: _Duration = "60s"
    target_concurrency: Literal[1] = 1


class FunctionDuty(msgspec.Struct, frozen=True, array_like=True):
    """A function as a node is to serve it; ``digest`` names the source, which it asks for once.

    ``instances_max`` and ``min_warm`` are the node's own shares.
    """

    uid: str
    namespace: str
    name: str
    generation: int
    digest: str
    handler: str
    recipe: GuestRecipe
    memory_mib: int
    vcpus: int
    timeout_s: float
    idle_s: float
    environment: dict[str, str]
    instances_max: int
    min_warm: int


class FunctionDuties(msgspec.Struct, frozen=True, array_like=True):
    """All functions of a node, in order of uid, and the memory that they share there."""

    memory_mib: int
    functions: tuple[FunctionDuty, ...]


def digest_of(source: str) -> str:
    """Return the name of a source."""
    return hashlib.blake2b(source.encode(), digest_size=16).hexdigest()


def duty_of(
    uid: str, namespace: str, name: str, generation: int, *, spec: FunctionSpec
) -> FunctionDuty:
    """Return the duty of a node that serves all of a function."""
    limit = min(spec.max_instances, spec.max_concurrent or spec.max_instances)
    return FunctionDuty(
        uid=uid,
        namespace=namespace,
        name=name,
        generation=generation,
        digest=digest_of(spec.source),
        handler=spec.handler,
        recipe=GuestRecipe(packages=(*RUNTIME_PACKAGES[spec.runtime], *spec.packages)),
        memory_mib=parse_memory_mib(spec.memory),
        vcpus=spec.vcpus,
        timeout_s=parse_duration_s(spec.timeout),
        idle_s=parse_duration_s(spec.idle_timeout),
        environment=spec.environment,
        instances_max=limit,
        min_warm=min(spec.min_warm, limit),
    )


def validate_function(spec: FunctionSpec) -> list[Problem]:
    """Return all that the types cannot say."""
    problems = _code_problems(spec)
    try:
        memory_mib = parse_memory_mib(spec.memory)
        if not MEMORY_MIN_MIB <= memory_mib <= MEMORY_MAX_MIB:
            message = f"between {MEMORY_MIN_MIB} and {MEMORY_MAX_MIB} MiB"
            problems.append(Problem("/spec/memory", message))
    except BlixardError as error:
        problems.append(Problem("/spec/memory", error.message))
    problems += _duration_problems("/spec/timeout", spec.timeout, TIMEOUT_MIN_S, TIMEOUT_MAX_S)
    problems += _duration_problems("/spec/idleTimeout", spec.idle_timeout, 0.1, IDLE_MAX_S)
    if spec.min_warm > spec.max_instances:
        problems.append(Problem("/spec/minWarm", f"at most maxInstances, {spec.max_instances}"))
    return problems


def _code_problems(spec: FunctionSpec) -> list[Problem]:
    problems = []
    if spec.runtime not in RUNTIMES:
        absent = "is not there yet" if spec.runtime in RUNTIMES_ABSENT else "is no runtime"
        problems.append(Problem("/spec/runtime", f"{spec.runtime!r} {absent}", RUNTIMES))
    if not spec.source.strip():
        problems.append(Problem("/spec/source", "must not be empty"))
    if len(spec.source.encode()) > SOURCE_BYTES_MAX:
        problems.append(Problem("/spec/source", f"at most {SOURCE_BYTES_MAX} bytes"))
    for number, package in enumerate(spec.packages):
        if not PACKAGE.fullmatch(package):
            message = f"{package!r} is no Debian package name"
            problems.append(Problem(f"/spec/packages/{number}", message))
    size = sum(len(f"{key}={value}".encode()) for key, value in spec.environment.items())
    if size > ENVIRONMENT_BYTES_MAX:
        problems.append(Problem("/spec/environment", f"at most {ENVIRONMENT_BYTES_MAX} bytes"))
    return problems + [
        Problem(f"/spec/environment/{key}", "is no name of a variable, or its value has a NUL")
        for key, value in sorted(spec.environment.items())
        if not key.isidentifier() or "\0" in value
    ]


def _duration_problems(
    pointer: str, value: str | float, least_s: float, most_s: float
) -> list[Problem]:
    try:
        seconds = parse_duration_s(value)
    except BlixardError as error:
        return [Problem(pointer, error.message)]
    if least_s <= seconds <= most_s:
        return []
    return [Problem(pointer, f"between {least_s:g} s and {most_s:g} s")]


def same_guest(one: FunctionDuty, other: FunctionDuty) -> bool:
    """Tell whether instances of one duty serve the other as well: limits may differ."""
    return _guest(one) == _guest(other)


def _guest(duty: FunctionDuty) -> tuple[object, ...]:
    return (
        duty.uid, duty.digest, duty.handler, duty.recipe, duty.memory_mib, duty.vcpus,
        duty.environment,
    )  # fmt: skip
