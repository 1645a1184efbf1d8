"""The node's hypervisor with its guard: start stopped, arm, continue.

Find again after a restart; call functions that were loaded into a guest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

import msgspec

from blixard.ports.transport import Stream
from blixard.ports.volumes import DiskAttachment

PAYLOAD_MAX_BYTES = 6 << 20  # of an event and of a result, as with AWS Lambda
LOG_TAIL_LINES = 50


class LaunchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """All that starting one instance needs; sizes in MiB.

    ``runner`` is a runner directory (microvm.nix layout), ``tap`` the host interface made by the
    network backend (empty: no network), ``address`` the guest's ``IP/prefix``, ``node`` the name of
    the node that starts it, which the guest is told, ``disks`` its volumes in the VM's own order.
    ``incoming``: the process waits for the memory and state of another one
    (:meth:`Hypervisor.receive_state`); it never boots by itself. ``purpose``: an instance of a
    function belongs to the daemon that started it, and ends with it; instances of VMs are found
    again. ``recipe`` and ``restart_generation`` tell a daemon that finds the process what it was
    started for: a digest of the guest's recipe, and the restart that had been asked for last (empty
    and -1: started by an older program).
    """

    instance_uid: str
    name: str
    namespace: str
    node_epoch: int
    run: int
    runner: str
    memory_mib: int
    vcpus: int
    tap: str = ""
    mac: str = ""
    address: str = ""
    gateway: str = ""
    mtu: int = 1450
    node: str = ""
    incoming: bool = False
    disks: tuple[DiskAttachment, ...] = ()
    purpose: Literal["vm", "function"] = "vm"
    recipe: str = ""
    restart_generation: int = -1


GuardMode = Literal["keep", "fence"]
ProcessState = Literal["paused", "running", "exited"]


class HypervisorInstance(msgspec.Struct, frozen=True, kw_only=True):
    """One hypervisor process as the guard knows it; survives restarts of the daemon.

    ``guard`` is what the guard does with it when the node's lease ends (``fence``: it kills),
    ``guard_seq`` the number of the word by which it was told so, ``guard_epoch`` the node epoch
    under which it was armed last (0: never). ``ran``: its CPUs have been let run before.
    """

    instance_uid: str
    plan: LaunchPlan
    state: ProcessState
    pid: int
    exit_code: int | None = None
    killed_by_guard: bool = False
    guard: GuardMode = "keep"
    guard_seq: int = 0
    guard_epoch: int = 0
    ran: bool = False


class GuestStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent in the guest says: ready, since when, services, figures."""

    ready: bool
    uptime_s: float = 0.0
    services: dict[str, str] = {}
    metrics: dict[str, float] = {}


class MigrationFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What moving a guest took: the whole, how long its CPUs stood still here, bytes sent."""

    total_ms: int
    downtime_ms: int
    bytes_sent: int


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a function: ``event`` is JSON of at most PAYLOAD_MAX_BYTES.

    ``handler`` is ``file.function`` as it was loaded, ``deadline_s`` what remains of the call in
    seconds, ``context`` what the handler is told beside the event (names, not secrets).
    """

    request_id: str
    handler: str
    event: bytes
    deadline_s: float
    context: dict[str, str] = {}


class InvocationResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a call: ``payload`` is JSON, what the handler returned or what it raised.

    ``timeout``: the handler still ran at the deadline; nobody knows what its guest does now.
    """

    status: Literal["ok", "error", "timeout"]
    payload: bytes
    error_type: str = ""
    log_tail: list[str] = []
    duration_ms: float = 0.0


class Hypervisor(Protocol):
    """Start, watch and stop instances on this node. Every call has its own deadline inside."""

    async def instances(self) -> list[HypervisorInstance]:
        """Return all processes that the guard holds, exited ones until ``forget``."""

    async def start_paused(self, plan: LaunchPlan) -> HypervisorInstance:
        """Spawn the hypervisor with the CPUs stopped, waiting for a state if the plan says so.

        Raises BlixardError GUEST_START_FAILED.
        """

    async def arm(
        self, instance_uid: str, deadline_boottime_ns: int, *, epoch: int, seq: int
    ) -> None:
        """Let the guard kill the instance at the deadline, whatever the daemon does.

        *epoch* is the node's; a *seq* lower than one heard before is refused, also after the
        daemon restarted. Raises BlixardError HYPERVISOR_UNAVAILABLE.
        """

    async def disarm(self, instance_uid: str, *, seq: int) -> None:
        """Take the deadline from an instance. Raises as :meth:`arm` does."""

    async def extend(self, deadline_boottime_ns: int) -> None:
        """Move the deadline of all armed instances later; never earlier."""

    async def resume(self, instance_uid: str) -> None:
        """Let the CPUs run. Raises BlixardError if the process is gone or its deadline passed."""

    async def pause(self, instance_uid: str) -> None:
        """Stop the CPUs."""

    async def shutdown(self, instance_uid: str, *, grace_s: float) -> None:
        """Ask the guest to stop, kill after *grace_s*; returns once the process is gone."""

    async def kill(self, instance_uid: str) -> None:
        """Kill now; returns once the process is gone."""

    async def forget(self, instance_uid: str) -> None:
        """Remove what is left of an exited instance (state directory, cgroup)."""

    def copies_live(self) -> bool:
        """Tell whether a guest's memory can be sent safely while it runs."""

    async def send_state(
        self,
        instance_uid: str,
        stream: Stream,
        *,
        live: bool,
        switch: Callable[[], Awaitable[None]],
    ) -> MigrationFigures:
        """Send memory and state of a running instance; return once the receiver has all of it.

        *live*: the memory goes while it runs, what it changes meanwhile again; otherwise the CPUs
        stop first. Once they have stopped and only the rest is to be sent, *switch* is awaited,
        exactly once. If it raises, nothing more is sent, its error is raised and the CPUs stay
        stopped: the caller decides whether they go on (:meth:`resume`).

        Raises:
            BlixardError: MIGRATION_FAILED. Before *switch* was awaited, the guest runs on as if
                nothing had been; after it returned, the CPUs stay stopped for good.
        """

    async def receive_state(self, instance_uid: str, stream: Stream) -> None:
        """Take what another host's :meth:`send_state` sends into a process that waits for it.

        Returns once all is there and acknowledged; the CPUs are still stopped. Raises BlixardError
        MIGRATION_FAILED: the process is of no use then.
        """

    async def guest_status(self, instance_uid: str) -> GuestStatus:
        """Ask the agent. Raises BlixardError GUEST_UNREACHABLE."""

    async def load_function(
        self,
        instance_uid: str,
        *,
        source: bytes,
        handler: str,
        environment: dict[str, str],
        timeout_s: float,
    ) -> None:
        """Give a booted guest the code of a function, once.

        Raises:
            BlixardError: FUNCTION_LOAD_FAILED with the guest's words, also after *timeout_s*;
                GUEST_UNREACHABLE.
        """

    async def invoke(self, instance_uid: str, call: Invocation) -> InvocationResult:
        """Run the handler that was loaded once; a guest serves one call at a time.

        Raises:
            BlixardError: GUEST_UNREACHABLE if the guest does not answer: the handler may have run.
        """

    async def exec(
        self, instance_uid: str, command: list[str], *, tty: bool, stream: Stream
    ) -> None:
        """Run a command in the guest and join it to *stream* (frames.

        See hypervisors/channel.py).
        """

    async def logs(self, instance_uid: str, *, tail: int, follow: bool, stream: Stream) -> None:
        """Send the instance's log lines (UTF-8, sanitised) as frames."""

    async def console(self, instance_uid: str, stream: Stream) -> None:
        """Join the serial console to *stream*, raw bytes both ways."""

    def console_tail(self, instance_uid: str, lines: int) -> list[str]:
        """Return the last console lines, sanitised; also of an exited instance."""

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Call *callback* with an instance uid when its process or guest changed."""
