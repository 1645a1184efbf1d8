"""Keeps the voters in number and carries out removals of nodes, while this node leads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

from blixard.base.errors import BlixardError
from blixard.cluster.facade import Cluster
from blixard.cluster.members import (
    VOTERS_MAX_DEFAULT,
    MemberFact,
    MemberStep,
    NodeFact,
    next_step,
)
from blixard.cluster.resources import Delete, Operation, PatchStatus, Resource
from blixard.consensus.node import Member, RaftNode
from blixard.node import messages as m
from blixard.node.leader import LeaderDuties
from blixard.node.removal import RemovalStep, removal_step
from blixard.node.views import peers_of
from blixard.ports.environment import Environment

LOOK_S = 0.5
CHANGE_S = 5.0
COMMIT_S = 5.0
CAUGHT_UP_ENTRIES = 100

_Patience = Literal["lost", "lags", "removal"]


class Roster:
    """One membership change or removal step at a time."""

    def __init__(
        self,
        env: Environment,
        raft: RaftNode,
        cluster: Cluster,
        duties: LeaderDuties,
        *,
        cluster_id: str,
        own_raft_id: int,
        secrets: Callable[[], Awaitable[dict[str, bytes]]],
    ) -> None:
        self._env = env
        self._raft = raft
        self._cluster = cluster
        self._duties = duties
        self._cluster_id = cluster_id
        self._own_raft_id = own_raft_id
        self._secrets = secrets
        # What goes on with whom, and since when this leader has seen that: boot time, for a wall
        # clock that jumps must not end anybody's patience.
        self._since_ns: dict[_Patience, dict[str, int]] = {}
        self._refusals: dict[str, int] = {}  # invitations of this leader that came to nothing

    async def run(self) -> None:
        """Look again and again; errors are shown and tried again."""
        while True:
            await asyncio.sleep(LOOK_S)
            if not self._raft.is_leader:
                self._since_ns, self._refusals = {}, {}
                continue
            self._look()
            try:
                await self._removals()
                await self._voters()
            except BlixardError as error:
                self._env.log("info", "roster_postponed", code=error.code, detail=error.message)

    def _look(self) -> None:
        nodes = self._cluster.store.list("Node")
        self._note("lost", [n.metadata.uid for n in nodes if n.status.get("state") == "Lost"])
        self._note("removal", [o.metadata.uid for o in self._removals_wanted()])
        known = {node.metadata.uid for node in nodes}
        self._refusals = {uid: n for uid, n in self._refusals.items() if uid in known}

    def _note(self, what: _Patience, uids: list[str]) -> None:
        """Note with whom this goes on now, and forget with whom it no longer does."""
        since_ns, now_ns = self._since_ns.get(what, {}), self._env.boottime_ns()
        self._since_ns[what] = {uid: since_ns.get(uid, now_ns) for uid in uids}

    def _waited_s(self, what: _Patience, uid: str) -> float:
        now_ns = self._env.boottime_ns()
        return (now_ns - self._since_ns.get(what, {}).get(uid, now_ns)) / 1e9

    # -- voters --

    async def _voters(self) -> None:
        config = self._cluster.store.get("ClusterConfig", "", "cluster")
        voters_max = config.spec.get("votersMax", VOTERS_MAX_DEFAULT) if config else 1
        step = next_step(
            self._node_facts(),
            self._member_facts(),
            own_raft_id=self._own_raft_id,
            voters_max=int(voters_max),
        )
        if step is not None:
            await self._change(step)

    def _node_facts(self) -> list[NodeFact]:
        return [
            NodeFact(
                uid=node.metadata.uid,
                raft_id=int(node.spec["raftId"]),
                ready=node.status.get("state") == "Ready",
                removing=bool(node.status.get("removing")) and not self._holds_instances(node),
                lost_for_s=self._waited_s("lost", node.metadata.uid),
                refusals=self._refusals.get(node.metadata.uid, 0),
            )
            for node in self._cluster.store.list("Node")
        ]

    def _holds_instances(self, node: Resource) -> bool:
        """A node that is being emptied still votes; a lost one no longer matters."""
        return node.status.get("state") == "Ready" and any(
            i.spec.get("node") == node.metadata.uid for i in self._cluster.store.list("Instance")
        )

    def _member_facts(self) -> list[MemberFact]:
        near, members = self._near(), sorted(self._raft.members.items())
        far = [member.uid for i, member in members if member.learner and i not in near]
        self._note("lags", [uid for uid in far if self._is_ready(uid)])
        return [
            MemberFact(
                raft_id=member.raft_id,
                learner=member.learner,
                caught_up=raft_id in near,
                lags_for_s=self._waited_s("lags", member.uid),
            )
            for raft_id, member in members
        ]

    def _near(self) -> set[int]:
        """Return the raft ids of the members that may be given a vote."""
        status = self._raft.status()
        return {
            peer.raft_id
            for peer in status.peers
            if peer.active and status.last_index - peer.matched <= CAUGHT_UP_ENTRIES
        } - {health.raft_id for health in status.health if health.quarantined}

    def _is_ready(self, uid: str) -> bool:
        node = self._cluster.store.by_uid(uid)
        return node is not None and node.status.get("state") == "Ready"

    async def _change(self, step: MemberStep) -> None:
        self._env.log("info", "member_change", kind=step.kind, raft_id=step.raft_id, why=step.why)
        match step.kind:
            case "add_learner":
                self._refusals[step.uid] = self._refusals.get(step.uid, 0) + 1
                await self._invite(step)
                del self._refusals[step.uid]
            case "promote":
                await self._raft.promote(step.raft_id, timeout_s=CHANGE_S)
            case "demote":
                await self._raft.demote(step.raft_id, timeout_s=CHANGE_S)
            case "remove":
                await self._raft.remove(step.raft_id, timeout_s=CHANGE_S)
            case "transfer":
                await self._raft.transfer_leader(step.raft_id, timeout_s=CHANGE_S)

    async def _invite(self, step: MemberStep) -> None:
        node = self._cluster.store.by_uid(step.uid)
        assert node is not None
        address = str(node.spec["address"])
        self._env.transport.set_peer(step.uid, address)
        voters = {i for i, member in self._raft.members.items() if not member.learner}
        invitation = m.Invitation(
            cluster_id=self._cluster_id,
            raft_id=step.raft_id,
            members=peers_of(self._cluster.store, voters),
            secrets=await self._secrets(),
        )
        await self._env.transport.request(
            step.uid, m.INVITE, m.encode(invitation), timeout_s=CHANGE_S
        )
        member = Member(raft_id=step.raft_id, uid=step.uid, address=address, learner=True)
        await self._raft.add_learner(member, timeout_s=CHANGE_S)

    # -- removals --

    async def _removals(self) -> None:
        for operation in self._removals_wanted():
            await self._removal(operation)

    def _removals_wanted(self) -> list[Resource]:
        return [
            operation
            for operation in self._cluster.store.list("Operation")
            if operation.spec.get("type") in ("remove-node", "force-remove-node")
            and operation.status.get("phase", "Running") == "Running"
        ]

    async def _removal(self, operation: Resource) -> None:
        term = self._duties.lead()
        node = self._cluster.store.by_uid(str(operation.spec.get("targetUid", "")))
        step = removal_step(
            self._cluster.store,
            node,
            force=operation.spec["type"] == "force-remove-node",
            raft_ids=set(self._raft.members),
            waited_s=self._waited_s("removal", operation.metadata.uid),
        )
        await self._do(step, node, term)
        phase = {"done": "Succeeded", "failed": "Failed"}.get(step.kind, "Running")
        status: dict[str, object] = {"phase": phase, "step": step.kind, "message": step.message}
        if any(operation.status.get(key) != value for key, value in status.items()):
            await self._commit((PatchStatus.of(operation, status),), term)

    async def _do(self, step: RemovalStep, node: Resource | None, term: int) -> None:
        if node is None:
            return
        if step.kind == "mark":
            await self._commit((PatchStatus.of(node, {"removing": True}),), term)
        elif step.kind == "fence":
            self._duties.stop_granting(node.metadata.uid)
        elif step.kind == "delete":
            await self._commit((Delete.of(node),), term)
            self._env.transport.remove_peer(node.metadata.uid)

    async def _commit(self, ops: tuple[Operation, ...], term: int) -> None:
        await self._cluster.commit(ops, actor="system:roster", term=term, timeout_s=COMMIT_S)
