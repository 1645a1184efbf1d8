"""Double runs, part (b): no effect of an older run is accepted after a newer one has started.

Part (a), two running processes of one instance, is judged by the hypervisors' observer in
``oracles``. This part looks at what the replicated state accepts: the reports of nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from blixard.cluster.commands import BadCommand, decode_command
from blixard.cluster.resources import Outcome, PatchStatus
from blixard.ports.hypervisor import LaunchPlan

Fail = Callable[[str, str], None]

# For oracles, which look at an entry one after the other; each machine decodes it by itself.
read_command = lru_cache(4)(decode_command)


class Effects:
    """Remembers the newest start of each instance, and judges each accepted report once."""

    def __init__(self, fail: Fail) -> None:
        self._fail = fail
        self._newest: dict[str, tuple[int, int]] = {}  # instance uid -> run, node epoch
        self._judged = 0
        self._requests: set[str] = set()
        self.accepted = 0

    def started(self, plan: LaunchPlan) -> None:
        """The CPUs of a run were let go."""
        newest = self._newest.get(plan.instance_uid, (0, 0))
        self._newest[plan.instance_uid] = max(newest, (plan.run, plan.node_epoch))

    def applied(self, index: int, data: bytes, outcome: object) -> None:
        """An entry was applied; the first host that applies it is the one that counts."""
        if index <= self._judged or not isinstance(outcome, Outcome):
            return
        self._judged = index
        try:
            transaction = read_command(data)
        except BadCommand:
            return
        if transaction.request_id in self._requests:
            return  # a repetition: it was answered from memory and changed nothing
        self._requests.add(transaction.request_id)
        for number, op in enumerate(transaction.ops):
            if isinstance(op, PatchStatus) and op.node_uid and _stood(outcome, number):
                self._accepted(index, op)

    def _accepted(self, index: int, op: PatchStatus) -> None:
        self.accepted += 1
        newest = self._newest.get(op.uid, (0, 0))
        # A kept instance outlives its node's epochs: only the run orders its starts.
        if op.run < newest[0]:
            self._fail(
                "double run",
                f"entry {index} accepts a report of {op.name} of run {op.run}, epoch "
                f"{op.node_epoch}, after run {newest[0]}, epoch {newest[1]} has started",
            )


def _stood(outcome: Outcome, number: int) -> bool:
    if outcome.code or number >= len(outcome.results):
        return False
    return not outcome.results[number].code
