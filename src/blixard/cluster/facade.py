"""What the rest of a node uses of the cluster: commit, a linearizable barrier, the store."""

from __future__ import annotations

from typing import Any, Protocol

from blixard.base.errors import BlixardError
from blixard.base.ids import ulid, ulid_time_ms
from blixard.cluster.commands import encode_command
from blixard.cluster.machine import ClusterMachine
from blixard.cluster.resources import Operation, Outcome, Transaction
from blixard.cluster.store import Store
from blixard.cluster.watch import Subscription
from blixard.ports.environment import Environment

OPS_MAX = 1_000
COMMAND_BYTES_MAX = 1 << 20
HORIZON_MARGIN_MS = 1_000


class Proposer(Protocol):
    """What the facade needs of consensus."""

    async def propose(self, data: bytes, *, timeout_s: float) -> Any:
        """Return the result of applying *data*."""

    async def read_barrier(self, *, timeout_s: float) -> int:
        """Return once everything committed before the call is applied here."""


class Cluster:
    """The replicated state as one member of the Raft group sees it."""

    def __init__(self, raft: Proposer, machine: ClusterMachine, env: Environment) -> None:
        self._raft = raft
        self._machine = machine
        self._env = env

    @property
    def store(self) -> Store:
        """The state applied here; linearizable only after :meth:`barrier`."""
        return self._machine.store

    @property
    def machine(self) -> ClusterMachine:
        """The state machine itself."""
        return self._machine

    async def commit(
        self,
        ops: tuple[Operation, ...],
        *,
        actor: str,
        timeout_s: float,
        request_id: str = "",
        term: int = 0,
        partial: bool = False,
    ) -> Outcome:
        """Propose one transaction and return its outcome.

        Raises:
            BlixardError: the outcome's own code, with the number of the operation in
                ``details["op"]``; TOO_LARGE; whatever proposing raises (NOT_LEADER, NO_QUORUM,
                OUTCOME_UNKNOWN, OVERLOADED, DISK_FULL).
        """
        if len(ops) > OPS_MAX:
            raise BlixardError("TOO_LARGE", f"{len(ops)} operations; at most {OPS_MAX} at once")
        made_id, time_ms = self._stamp()
        command = encode_command(
            Transaction(
                request_id=request_id or made_id,
                time_ms=time_ms,
                actor=actor,
                ops=ops,
                term=term,
                partial=partial,
            )
        )
        if len(command) > COMMAND_BYTES_MAX:
            raise BlixardError("TOO_LARGE", f"{len(command)} bytes; at most {COMMAND_BYTES_MAX}")
        outcome: Outcome = await self._raft.propose(command, timeout_s=timeout_s)
        if outcome.code:
            raise BlixardError(
                outcome.code, outcome.message, details=self._refusal_details(outcome)
            )
        return outcome

    def _refusal_details(self, outcome: Outcome) -> dict[str, object]:
        """Name the operation at fault; to an id of a wrong date, the time that would be right."""
        if outcome.code in {"REQUEST_ID_INVALID", "REQUEST_ID_EXPIRED"}:
            return {"timeMs": self._stamp()[1]}
        return {"op": outcome.pointer} if outcome.pointer else {}

    def _stamp(self) -> tuple[str, int]:
        """Return a request id and a time, both past what the state machine forgot.

        An earlier leader's clock may have run ahead: ids of this node's clock would then look
        forgotten, and all writes would be refused until the clock caught up.
        """
        made_id, time_ms = self._env.new_id(), self._env.wall_time_ms()
        horizon_ms = self._machine.horizon_ms
        if ulid_time_ms(made_id) > horizon_ms:
            return made_id, time_ms
        time_ms = max(time_ms, horizon_ms + HORIZON_MARGIN_MS)
        return ulid(time_ms, 0)[:10] + made_id[10:], time_ms

    async def barrier(self, *, timeout_s: float) -> int:
        """Return once everything committed before the call is applied here."""
        return await self._raft.read_barrier(timeout_s=timeout_s)

    def subscribe(
        self, from_revision: int, kinds: tuple[str, ...] = (), namespace: str | None = None
    ) -> Subscription:
        """Follow changes. Raises BlixardError REVISION_COMPACTED."""
        return self._machine.subscribe(from_revision, kinds, namespace)
