"""What a node does while it leads: acknowledge leases, fence the lost, plan, keep the voters.

Everything here is bound to one term: a duty object is made at the election and dropped with it;
its commands carry the term, and apply refuses them in any other.
"""

from __future__ import annotations

import asyncio

import msgspec

from blixard.base.errors import BlixardError
from blixard.cluster.facade import Cluster
from blixard.cluster.kind import level_of
from blixard.cluster.kinds import EventSpec
from blixard.cluster.leases import LeaderLeases, LeaseConfig
from blixard.cluster.resources import Operation, PatchStatus, Resource
from blixard.consensus.node import RaftNode
from blixard.node import messages as m
from blixard.node.events import event_ops, instance_event, node_event
from blixard.node.images import image_changes
from blixard.node.views import (
    ClusterView,
    heartbeat_verdict,
    lost_status,
    may_start,
    source_of,
    to_be_fenced,
)
from blixard.ports.environment import Environment
from blixard.vms import migrations
from blixard.vms.moves import MoveAnswer, MoveWord

COMMIT_S = 5.0
ROUND_S = 1.2
LOOK_S = 0.25
VIEW_WAIT_MAX_S = 10.0
MOVE_TRIES = 5
_REFUSALS = ("INVARIANT", "FENCED", "NOT_FOUND")  # apply's: it was not done and never will be


class LeaderDuties:
    """Serves the nodes' requests while this node leads; holds the book of leases."""

    def __init__(
        self, env: Environment, raft: RaftNode, cluster: Cluster, config: LeaseConfig
    ) -> None:
        self._env = env
        self._raft = raft
        self._cluster = cluster
        self._config = config
        self._term = 0
        self._leases = LeaderLeases(config, 0.0)
        self._changed = asyncio.Event()
        self._shown: ClusterView | None = None

    # -- terms --

    def lead(self) -> int:
        """Return the term that this node leads; make a new book if it is a new one.

        Raises:
            BlixardError: NOT_LEADER, naming the leader if known.
        """
        if not self._raft.is_leader:
            raise BlixardError(
                "NOT_LEADER", "this node does not lead", details={"leader": self._raft.leader_uid}
            )
        if self._raft.term != self._term:
            self._term = self._raft.term
            self._leases = LeaderLeases(self._config, _now())
        return self._term

    def state_changed(self) -> None:
        """Wake those who wait for a change of duties."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _confirm(self, term: int) -> None:
        """Return once a quorum answered a round begun now, in the same term."""
        await self._raft.quorum_round(timeout_s=ROUND_S)
        if self.lead() != term:
            raise BlixardError("NOT_LEADER", "the term changed", details={"leader": ""})

    # -- requests of nodes --

    async def heartbeat(self, uid: str, payload: bytes) -> bytes:
        """Acknowledge a lease: only after a quorum round begun after the heartbeat arrived."""
        term = self.lead()
        heartbeat = msgspec.msgpack.decode(payload, type=m.Heartbeat)
        await self._confirm(term)
        node = await self._noted(self._node(uid), heartbeat, term)
        epoch, granted = int(node.status.get("epoch", 0)), False
        verdict = heartbeat_verdict(node, heartbeat.epoch)
        if verdict == "welcome":
            await self._welcome(node, term)
        elif verdict == "grant":
            granted = self._leases.acknowledge(uid, _now())
        return m.encode(m.HeartbeatReply(granted=granted, epoch=epoch))

    async def _noted(self, node: Resource, heartbeat: m.Heartbeat, term: int) -> Resource:
        """Write down what program a node runs; one that is too old for the cluster gets no lease.

        Raises:
            BlixardError: FEATURE_LEVEL.
        """
        level = level_of(self._cluster.store)
        name = node.metadata.name
        if heartbeat.level < level:
            message = f"{name} knows feature level {heartbeat.level}; the cluster is at {level}"
            raise BlixardError("FEATURE_LEVEL", message, hint=f"install a newer version on {name}")
        said: dict[str, object] = {"version": heartbeat.version, "featureLevel": heartbeat.level}
        if not heartbeat.version or all(node.status.get(k) == v for k, v in said.items()):
            return node
        await self._commit((PatchStatus.of(node, said, unchanged=True),), term)
        return self._node(node.metadata.uid)

    async def _welcome(self, node: Resource, term: int) -> None:
        """A joined or returned node lives in the current epoch: it may be given work again."""
        # If it was lost, the commit of that is applied; a doubt about its outcome is over.
        self._leases.fencing_answered(node.metadata.uid, "")
        self._leases.acknowledge(node.metadata.uid, _now())
        ready = PatchStatus.of(node, {"state": "Ready", "reason": ""}, unchanged=True)
        event = node_event(node, "Ready", f"{node.metadata.name} takes part")
        await self._commit((ready, *self._events([event])), term)
        self._env.log("info", "node_ready", node=node.metadata.name)

    async def view(self, uid: str, payload: bytes) -> bytes:
        """Answer a node's duties when they differ from what it has, or after its wait."""
        request = msgspec.msgpack.decode(payload, type=m.ViewRequest)
        deadline_s = _now() + min(request.wait_s, VIEW_WAIT_MAX_S)
        while True:
            term = self.lead()
            changed = self._changed
            node = self._node(uid)
            if self._view().digest(node) != request.have:
                await self._confirm(term)
                return m.encode(self._view().of(self._node(uid)))
            remaining_s = deadline_s - _now()
            if remaining_s <= 0:
                epoch, revision = int(node.status.get("epoch", 0)), self._cluster.store.revision
                return m.encode(m.NodeView(request.have, epoch, revision))
            try:
                async with asyncio.timeout(remaining_s):
                    await changed.wait()
            except TimeoutError:
                continue

    def _view(self) -> ClusterView:
        """Return the duties of all nodes, worked out once per state."""
        voters = {i for i, member in self._raft.members.items() if not member.learner}
        store, view = self._cluster.store, self._shown
        if view is None or not view.describes(store, voters):
            self._shown = view = ClusterView(store, voters, view)
        return view

    async def report(self, uid: str, payload: bytes) -> bytes:
        """Commit a batch of statuses; apply refuses those of an older epoch or run."""
        self.lead()
        reports = msgspec.msgpack.decode(payload, type=m.Reports)
        statuses = tuple(
            PatchStatus(
                kind="Instance",
                namespace=item.namespace,
                name=item.name,
                uid=item.uid,
                status={**item.status, "path": list(item.path)},
                node_uid=uid,
                node_epoch=reports.epoch,
                run=item.run,
            )
            for item in reports.items
        )
        images = image_changes(self._cluster.store, self._node(uid), reports)
        if not statuses and not images.ops:
            return m.encode(m.ReportsReply((), images.codes(())))
        outcome = await self._cluster.commit(
            (*statuses, *images.ops, *self._report_events(uid, reports)),
            actor=f"system:node:{uid}",
            partial=True,
            timeout_s=COMMIT_S,
        )
        codes = tuple(result.code for result in outcome.results[: len(statuses)])
        image_codes = images.codes(outcome.results[len(statuses) :])
        return m.encode(m.ReportsReply(codes, image_codes))

    def _report_events(self, uid: str, reports: m.Reports) -> tuple[Operation, ...]:
        store, name = self._cluster.store, self._node(uid).metadata.name
        found = [
            instance_event(store.by_uid(item.uid), item, name)
            for item in reports.items
            if reports.epoch == self._node(uid).status.get("epoch")
        ]
        return self._events([event for event in found if event is not None])

    def _events(self, events: list[EventSpec]) -> tuple[Operation, ...]:
        return event_ops(
            self._cluster.store,
            events,
            now_ms=self._env.wall_time_ms(),
            new_id=self._env.new_id,
        )

    async def confirm_start(self, uid: str, payload: bytes) -> bytes:
        """Answer from a state that is linearizable after the question."""
        term = self.lead()
        question = msgspec.msgpack.decode(payload, type=m.StartQuestion)
        await self._confirm(term)
        allowed = may_start(
            self._cluster.store, uid, uid=question.uid, run=question.run, epoch=question.epoch
        )
        return m.encode(m.StartAnswer(allowed))

    async def move(self, uid: str, payload: bytes) -> bytes:
        """Take a node's word of a migration: answered once what it leads to is committed.

        An error leaves open whether it was; asked again, the answer is the one that holds.
        """
        term = self.lead()
        word = msgspec.msgpack.decode(payload, type=MoveWord)
        await self._confirm(term)
        for _ in range(MOVE_TRIES):
            now_ms = self._env.wall_time_ms()
            said, ops = migrations.answer(self._cluster.store, uid, word, now_ms=now_ms)
            if said is not None:
                return m.encode(said)
            try:
                await self._commit(ops, term)
            except BlixardError as error:
                if error.code in _REFUSALS:
                    return m.encode(MoveAnswer(done=False, reason=error.message))
                if error.code != "CONFLICT":
                    raise
            else:
                return m.encode(MoveAnswer(done=True))
        raise BlixardError("CONFLICT", "the instance changes all the time")

    async def source(self, _uid: str, payload: bytes) -> bytes:
        """Answer the source of a function: its digest proves it, whatever is applied here."""
        self.lead()
        question = msgspec.msgpack.decode(payload, type=m.SourceQuestion)
        source = source_of(self._cluster.store, question.uid, question.digest)
        if source is None:
            raise BlixardError("NOT_FOUND", "the function has another source by now, or is gone")
        return source

    # -- fencing --

    async def run_fencing(self) -> None:
        """While leading, declare nodes lost whose leases have surely ended."""
        while True:
            await asyncio.sleep(LOOK_S)
            if not self._raft.is_leader:
                continue
            try:
                await self._fence_lost(self.lead())
            except BlixardError as error:
                self._env.log("info", "fencing_postponed", code=error.code, detail=error.message)

    async def _fence_lost(self, term: int) -> None:
        now_s = _now()
        self._leases.look(now_s)
        for node in self._cluster.store.list("Node"):
            if to_be_fenced(node, self._leases, now_s):
                await self._fence(node, term)

    async def _fence(self, node: Resource, term: int) -> None:
        """Commit the next epoch; until its outcome is known no lease is acknowledged."""
        uid, leases = node.metadata.uid, self._leases
        leases.begin_fencing(uid)
        reason = f"not heard for {self._config.lost_after_s:.1f} s"
        status = lost_status(node, reason, self._env.wall_time_ms())
        event = node_event(node, "Lost", f"{node.metadata.name} was {reason}")
        try:
            await self._commit(
                (PatchStatus.of(node, status, unchanged=True), *self._events([event])), term
            )
        except BlixardError as error:
            leases.fencing_answered(uid, error.code)
            raise
        leases.fencing_answered(uid, "")
        self._env.log("warning", "node_lost", node=node.metadata.name, epoch=status["epoch"])

    def stop_granting(self, uid: str) -> None:
        """Acknowledge no further lease of a node that is to be removed by force."""
        self._leases.begin_fencing(uid)

    def lease_ended(self, uid: str) -> bool:
        """Tell whether every lease of the node has surely ended."""
        return self._leases.is_lost(uid, _now())

    # -- small things --

    def _node(self, uid: str) -> Resource:
        node = self._cluster.store.by_uid(uid)
        if node is None or node.kind != "Node":
            raise BlixardError("NODE_REMOVED", f"no node has the uid {uid}")
        return node

    async def _commit(self, ops: tuple[Operation, ...], term: int) -> None:
        await self._cluster.commit(ops, actor="system:leader", term=term, timeout_s=COMMIT_S)


def _now() -> float:
    return asyncio.get_running_loop().time()
