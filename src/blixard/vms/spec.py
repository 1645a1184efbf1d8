"""Specs and states of VMs and their instances; what users write and what controllers decide."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from blixard.base.machine import Machine
from blixard.ports.guests import GuestRecipe
from blixard.storage.spec import InstanceVolume, VolumeClaim
from blixard.vms.moves import Move

Phase = Literal[
    "Pending",
    "Building",
    "Starting",
    "Running",
    "Paused",
    "Migrating",
    "Stopping",
    "Stopped",
    "Failed",
    "Unknown",
]
Event = Literal[
    "build",
    "launch",
    "ready",
    "pause",
    "resume",
    "stop",
    "rest",
    "exited",
    "fail",
    "lose",
    "found",
    "migrate",
    "arrive",
    "unplace",
]

# Every transition of an instance's phase (decisions.md, "VM states"). The worker takes no other,
# and apply refuses a report of any other. ``stop``: a process is asked to end; ``rest``: there is
# none and none is wanted; ``lose``: nobody knows, which is also where a restarted daemon begins;
# ``found``: it is known again.
LIFECYCLE: Machine[Phase, Event] = Machine(
    "instance",
    "Pending",
    {
        "Pending": {
            "build": "Building",
            "launch": "Starting",
            "rest": "Stopped",
            "fail": "Failed",
            "lose": "Unknown",
        },
        "Building": {
            "launch": "Starting",
            "rest": "Stopped",
            "fail": "Failed",
            "lose": "Unknown",
            "unplace": "Pending",
        },
        "Starting": {
            "ready": "Running",
            "stop": "Stopping",
            "exited": "Failed",
            "lose": "Unknown",
            "unplace": "Pending",
        },
        "Running": {
            "pause": "Paused",
            "migrate": "Migrating",
            "stop": "Stopping",
            "exited": "Failed",
            "lose": "Unknown",
            "unplace": "Pending",
        },
        "Paused": {
            "resume": "Running",
            "stop": "Stopping",
            "exited": "Failed",
            "lose": "Unknown",
            "unplace": "Pending",
        },
        "Migrating": {
            "arrive": "Running",
            "stop": "Stopping",
            "exited": "Failed",
            "lose": "Unknown",
            "unplace": "Pending",
        },
        "Stopping": {
            "exited": "Stopped",
            "found": "Running",
            "lose": "Unknown",
            "unplace": "Pending",
        },
        "Stopped": {
            "build": "Building",
            "launch": "Starting",
            "fail": "Failed",
            "lose": "Unknown",
            "unplace": "Pending",
        },
        "Failed": {
            "build": "Building",
            "launch": "Starting",
            "stop": "Stopping",
            "rest": "Stopped",
            "found": "Running",
            "lose": "Unknown",
            "unplace": "Pending",
        },
        "Unknown": {
            "build": "Building",
            "launch": "Starting",
            "found": "Running",
            "stop": "Stopping",
            "rest": "Stopped",
            "exited": "Failed",
            "unplace": "Pending",
        },
    },
)

_Name = Annotated[str, Meta(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
_Port = Annotated[int, Meta(ge=1, le=65535)]


class TcpCheck(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A port that accepts connections."""

    port: _Port


class HttpCheck(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A path that answers below 400."""

    port: _Port = 80
    path: Annotated[str, Meta(pattern="^/")] = "/"


class Readiness(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """When an instance counts as ready: the agent says so, and the checks given answer."""

    agent: bool = True
    tcp: TcpCheck | None = None
    http: HttpCheck | None = None
    interval_s: Annotated[float, Meta(ge=0.2, le=300)] = 1.0
    timeout_s: Annotated[float, Meta(ge=0.1, le=60)] = 2.0
    failure_threshold: Annotated[int, Meta(ge=1, le=100)] = 3
    start_timeout_s: Annotated[float, Meta(ge=5, le=3600)] = 120.0


class PlacementSpec(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Where instances may go: labels that a node must have, a group whose members never meet."""

    node_selector: dict[str, str] = {}
    anti_affinity_group: str = ""


class VMSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A set of like instances. ``memory`` is a size (bare number: MB); see ux for each field."""

    type: Literal["long-lived"] = "long-lived"
    replicas: Annotated[int, Meta(ge=0, le=1000)] = 1
    image: _Name | None = None
    recipe: GuestRecipe | None = None
    memory: str | Annotated[int, Meta(ge=32)] = "256MiB"
    vcpus: Annotated[int, Meta(ge=1, le=64)] = 1
    network: _Name = "default"
    running: bool = True
    restart_policy: Literal["Always", "OnFailure", "Never"] = "Always"
    on_partition: Literal["keep", "fence", ""] = ""
    persistent: bool = False
    readiness: Readiness = Readiness()
    placement: PlacementSpec = PlacementSpec()
    restart_generation: Annotated[int, Meta(ge=0)] = 0
    volumes: tuple[VolumeClaim, ...] = ()


class InstanceSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One instance, written by the leader's controller only.

    ``node`` is a node uid (empty: not placed); ``run`` grows with every new placement;
    ``fenced``: the guard kills it when the node's lease ends, surely: the cluster may count on it.
    ``guard`` is what the guard is to do (empty: as ``fenced`` says), ``guard_seq`` is raised by
    each change of that (guarding.py). ``migration`` stands there as long as the instance may still
    be moved while it runs (moves.py). ``left``: nodes that it was moved away from, or was not moved
    to after all: none of them writes to its volumes. Memory in MiB.
    """

    vm: str
    ordinal: int
    desired: Literal["Running", "Stopped"] = "Running"
    node: str = ""
    node_name: str = ""
    node_epoch: int = 0
    run: int = 0
    fenced: bool = False
    guard: Literal["", "keep", "fence"] = ""
    guard_seq: int = 0
    network: str = ""
    ip: str = ""
    mac: str = ""
    vcpus: int = 1
    memory_mib: int = 256
    recipe: GuestRecipe = GuestRecipe()
    restart_policy: Literal["Always", "OnFailure", "Never"] = "Always"
    readiness: Readiness = Readiness()
    persistent: bool = False
    placement: str = ""
    vm_generation: int = 0
    restart_generation: int = 0
    migration: Move | msgspec.UnsetType = msgspec.UNSET
    volumes: tuple[InstanceVolume, ...] | msgspec.UnsetType = msgspec.UNSET
    left: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET

    @property
    def disks(self) -> tuple[InstanceVolume, ...]:
        """The volumes that it is bound to; its document says nothing of them if it has none."""
        return self.volumes or ()

    @property
    def left_nodes(self) -> tuple[str, ...]:
        """The nodes that may not have given its volumes back."""
        return self.left or ()


class InstanceStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the owning node last said; ``reason`` and ``console`` are of the last failure.

    Both stay until the instance is ready.

    ``phases_ms`` is what the last start took, on the node's own clock: ``build`` (the runner is
    built or found), ``prepare`` (tap and stopped hypervisor), ``start`` (guard armed, leader asked,
    CPUs released), ``boot`` (until the agent answers), ``ready`` (until the checks given do).
    ``guard`` and ``guard_seq`` are what the node's guard has confirmed for a process of this run.
    ``paused_for`` is the migration for which the CPUs stood still, ``arrived_by`` the one that
    brought the memory with which this run goes on, ``arrival_ms`` how long the target stood still.
    """

    phase: Phase = "Pending"
    ready: bool = False
    reason: str = ""
    restarts: int = 0
    started_at_ms: int = 0
    ready_at_ms: int = 0
    pid: int = 0
    run: int = 0
    console: list[str] = []
    phases_ms: dict[str, int] = {}
    guard: Literal["", "keep", "fence"] = ""
    guard_seq: int = 0
    paused_for: str | msgspec.UnsetType = msgspec.UNSET
    arrived_by: str | msgspec.UnsetType = msgspec.UNSET
    arrival_ms: int | msgspec.UnsetType = msgspec.UNSET


def is_fenced(spec: VMSpec) -> bool:
    """Tell whether instances of the VM are killed when their node's lease ends.

    Default (decisions.md, minority partition): fence for one replica without local data, keep
    otherwise. Local data is never fenced by itself.
    """
    if spec.persistent:
        return False
    if spec.on_partition:
        return spec.on_partition == "fence"
    return spec.replicas == 1
