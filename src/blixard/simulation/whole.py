"""The whole node on each host: founded, joined by records, with VMs to run and keys to write."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from blixard.base.errors import BlixardError
from blixard.cluster.facade import Cluster
from blixard.cluster.resources import Delete, Operation, Outcome, PatchStatus, Put, Resource
from blixard.cluster.store import Store
from blixard.consensus.config import Member, RaftConfig
from blixard.consensus.node import RaftNode
from blixard.consensus.recovery import has_state
from blixard.node.founding import Founding, NodeFacts
from blixard.node.kinds import Program
from blixard.node.messages import Peer
from blixard.node.node import Node, NodeConfig, NodeIdentity, Voter
from blixard.simulation.effects import read_command
from blixard.simulation.observed import Change, Watch, watch_machine, watch_raft
from blixard.simulation.repair import REPLACE, Replace, pending
from blixard.simulation.workload import APPLY, ASK, MOVE, Answer, Ask, Declare, Wish
from blixard.simulation.world import Host

CLUSTER_ID = "01JSJM00000000000000000000"
_RAFT = "raft"
_COMMIT_S = 1.2
_RETRY_S = 0.3
_DECODE_ASK = msgspec.msgpack.Decoder(Ask).decode
_ENCODE = msgspec.msgpack.Encoder().encode


class NodeApp:
    """One incarnation of the node on a host."""

    def __init__(
        self,
        host: Host,
        hosts: list[Host],
        watch: Watch,
        *,
        config: RaftConfig,
        voters_max: int = 0,
        program: Program | None = None,
        function_memory_mib: int = 0,
    ) -> None:
        assert host.daemon is not None
        self._host = host
        self._hosts = hosts
        self._capacity = {"vcpus": 8, "memoryMib": 8192}
        if function_memory_mib:
            self._capacity["functionMemoryMib"] = function_memory_mib
        self._function_memory_mib = function_memory_mib
        self._voters_max = voters_max or len(hosts)
        self._watch = watch
        self._env = host.daemon.env
        self.node = Node(
            self._env,
            self._identity(),
            NodeConfig(raft=config, program=program or Program()),
            hypervisor=host.daemon.hypervisor,
            network=host.network_backend,
            builder=host.builder,
            backends=host.daemon.backends,
        )
        self.node.on_voter = self._observe
        watch.oracles.stops.watch(host.number, self.node, self._env)

    def _identity(self) -> NodeIdentity:
        host, first = self._host, self._hosts[0]
        founding = Founding(
            trust_domain="sim",
            facts=NodeFacts(
                vcpus=8, memory_mib=8192, function_memory_mib=self._function_memory_mib
            ),
            voters_max=self._voters_max,
        )  # fmt: skip
        others = [h for h in self._hosts if h is not host] if host.generation else [first]
        return NodeIdentity(
            cluster_id=CLUSTER_ID,
            uid=host.uid,
            name=host.uid,
            raft_id=host.raft_id,
            address=host.address,
            peers=tuple(map(_peer, others)),
            founding=founding if self._founder else None,
        )

    @property
    def _founder(self) -> bool:
        return self._host.number == 1 and self._host.generation == 0

    def _observe(self, voter: Voter) -> None:
        watch_machine(voter.machine, self._host.raft_id, self._watch, change_of)
        watch_raft(voter.raft, voter.machine, self._host.raft_id, self._watch)

    @property
    def raft(self) -> RaftNode | None:
        """The Raft node, if this one votes or learns."""
        return self.node.voter.raft if self.node.voter is not None else None

    def values(self) -> dict[str, str]:
        """Return the applied texts by key."""
        if self.node.voter is None:
            return {}
        store = self.node.voter.machine.store
        return {r.metadata.name: str(r.spec["value"]) for r in store.list("KeyValue")}

    def formed(self, nodes: int) -> bool:
        """Tell whether this node knows all voters."""
        raft = self.raft
        return raft is not None and sum(not m.learner for m in raft.members.values()) == nodes

    def unsettled(self) -> list[str]:
        """Return the VMs that lack ready replicas, and the guests here that nobody wants here."""
        if self.node.voter is None:
            return []
        store = self.node.voter.machine.store
        texts = [
            f"{vm.metadata.name}: {vm.status}"
            for vm in store.list("VM")
            if vm.status.get("readyReplicas") != wanted_replicas(vm)
        ]
        for plan in self._host.guests.running():
            if plan.purpose == "function":
                continue
            instance = store.by_uid(plan.instance_uid)
            if instance is None or instance.spec.get("node") != self._host.uid:
                texts.append(f"{plan.instance_uid} runs on {self._host.uid}, unwanted")
        return texts

    async def run(self) -> None:
        """Make the first node's first state if there is none, start, serve; then let others in."""
        first = self._founder and not has_state(self._env.disk, _RAFT)
        if first:
            member = Member(1, self._host.uid, self._host.address)
            await RaftNode.bootstrap(
                self._env, directory=_RAFT, cluster_id=CLUSTER_ID, member=member
            )
        await self.node.start()
        handlers: dict[str, Callable[[str, bytes], Awaitable[bytes]]] = {
            ASK: self._ask, APPLY: self._apply, MOVE: self._move, REPLACE: self._replace,
        }  # fmt: skip
        for method, handler in handlers.items():
            self._env.transport.on_request(method, handler)
        if first:
            while not await self._let_in():
                await asyncio.sleep(_RETRY_S)

    async def _let_in(self) -> bool:
        """Record all other nodes as joined; True once that is committed."""
        voter = self.node.voter
        assert voter is not None
        config = voter.machine.store.get("ClusterConfig", "", "cluster")
        if config is None:
            return False
        spec = {**config.spec, "nextRaftId": len(self._hosts) + 1}
        ops = [Put(kind="ClusterConfig", namespace="", name="cluster", spec=spec)]
        for host in self._hosts[1:]:
            node = {"address": host.address, "raftId": host.number, "capacity": self._capacity}
            ops.append(
                Put(kind="Node", namespace="", name=host.uid, spec=node, uid=host.uid, expect=0,
                    status={"epoch": 1, "state": "Joining"})
            )  # fmt: skip
        try:
            await voter.cluster.commit(tuple(ops), actor="system:join", timeout_s=_COMMIT_S)
        except BlixardError as error:
            self._env.log("info", "join_postponed", code=error.code, detail=error.message)
            return False
        return True

    async def _replace(self, _uid: str, payload: bytes) -> bytes:
        """One step of the replacement of a node: the new one joins, then the old one goes."""
        wanted = msgspec.msgpack.decode(payload, type=Replace)
        voter = self._voter()
        if not voter.raft.is_leader:
            raise voter.raft.not_leader()
        store = voter.machine.store
        new = store.by_uid(wanted.new_uid)
        old = [node for uid, _ in wanted.old if (node := store.by_uid(uid)) is not None]
        if new is None:
            await voter.cluster.commit(_joins(store, wanted), actor="system:join",
                                       timeout_s=_COMMIT_S)  # fmt: skip
        elif new.status.get("state") == "Ready":
            for node in old:
                await self._remove(voter, node)
        if new is None or old:
            raise pending(f"{wanted.new_uid} is not known, or one of {wanted.old} still is")
        return b""

    async def _remove(self, voter: Voter, node: Resource) -> None:
        name = f"replace-{node.metadata.uid.replace('.', '-')}"
        if voter.machine.store.get("Operation", "", name) is None:
            spec = {"type": "force-remove-node", "target": node.metadata.name,
                    "targetUid": node.metadata.uid}  # fmt: skip
            put = Put(kind="Operation", namespace="", name=name, spec=spec,
                      uid=self._env.new_id(), expect=0)  # fmt: skip
            await voter.cluster.commit((put,), actor="operator", timeout_s=_COMMIT_S)

    # what clients ask

    def _voter(self) -> Voter:
        if self.node.voter is None:
            raise BlixardError("NOT_LEADER", "not a voter", details={"leader": ""})
        return self.node.voter

    async def _ask(self, _uid: str, payload: bytes) -> bytes:
        ask = _DECODE_ASK(payload)
        voter = self._voter()
        if not (ask.kind in ("write", "delete") or ask.stale):
            await voter.cluster.barrier(timeout_s=_COMMIT_S)
        if ask.kind == "read":
            found = voter.cluster.store.get("KeyValue", "", ask.key)
            text = str(found.spec["value"]) if found is not None else ""
            answer = Answer(text, voter.raft.applied_index, self._env.process.name)
        else:
            answer = Answer(await self._change(voter.cluster, ask))
        return _ENCODE(answer)

    async def _change(self, cluster: Cluster, ask: Ask) -> bool:
        """Do it under the client's request id; False: the key was not as expected."""
        op: Operation
        if ask.kind == "delete":
            op = Delete(kind="KeyValue", namespace="", name=ask.key)
        else:
            expect = -1
            if ask.kind == "cas":
                known = cluster.machine.known_outcome(ask.id)
                found = cluster.store.get("KeyValue", "", ask.key)
                if known is None and (found is None or found.spec["value"] != ask.expected):
                    return False
                expect = found.metadata.revision if found is not None else 0
            op = Put(
                kind="KeyValue", namespace="", name=ask.key, spec={"value": ask.text},
                uid=self._env.new_id(), expect=expect,
            )  # fmt: skip
        try:
            await cluster.commit((op,), actor="client", timeout_s=_COMMIT_S, request_id=ask.id)
        except BlixardError as error:
            if error.code in ("CONFLICT", "NOT_FOUND", "ALREADY_EXISTS"):
                return False
            raise
        self._watch.acknowledged(ask.id)
        return True

    async def _apply(self, _uid: str, payload: bytes) -> bytes:
        wanted = msgspec.msgpack.decode(payload, type=Declare)
        put = Put(
            kind="VM", namespace="default", name=wanted.name, uid=self._env.new_id(),
            spec={"replicas": wanted.replicas, "recipe": {"packages": ["nginx"]},
                  "memory": "256MiB", "onPartition": wanted.on_partition},
        )  # fmt: skip
        await self._voter().cluster.commit((put,), actor="operator", timeout_s=_COMMIT_S)
        return b""

    async def _move(self, _uid: str, payload: bytes) -> bytes:
        number = msgspec.msgpack.decode(payload, type=Wish).number
        cluster = self._voter().cluster
        running = [i for i in cluster.store.list("Instance") if i.status.get("phase") == "Running"]
        if running:
            name = running[number % len(running)].metadata.name
            spec = {"instance": name, "live": bool(number & 1024), "deadlineS": 20}
            put = Put(kind="Migration", namespace="default", name=f"{name}-{number}", spec=spec,
                      uid=self._env.new_id(), expect=0)  # fmt: skip
            await cluster.commit((put,), actor="operator", timeout_s=_COMMIT_S)
        return b""


def wanted_replicas(vm: Resource) -> int:
    """Return how many instances of a VM should be ready."""
    return int(vm.spec.get("replicas", 1)) if vm.spec.get("running", True) else 0


def _peer(host: Host) -> Peer:
    return Peer(
        uid=host.uid, name=host.uid, address=host.address, raft_id=host.raft_id, epoch=1, voter=True
    )


def _joins(store: Store, wanted: Replace) -> tuple[Put, ...]:
    """Return what the join of a new node writes."""
    config = store.get("ClusterConfig", "", "cluster")
    assert config is not None
    next_id = max(int(config.spec["nextRaftId"]), wanted.new_raft_id + 1)
    capacity = {"vcpus": 8, "memoryMib": 8192}
    spec = {"address": wanted.address, "raftId": wanted.new_raft_id, "capacity": capacity}
    return (
        Put(kind="ClusterConfig", namespace="", name="cluster",
            spec={**config.spec, "nextRaftId": next_id}),
        Put(kind="Node", namespace="", name=wanted.new_uid, spec=spec, uid=wanted.new_uid,
            expect=0, status={"epoch": 1, "state": "Joining"}),
    )  # fmt: skip


def change_of(data: bytes, result: object) -> Change | None:
    """Return what an entry means for the clients, None for all other entries."""
    transaction = read_command(data)
    op = transaction.ops[0] if transaction.ops else None
    if op is None or op.kind != "KeyValue" or isinstance(op, PatchStatus):
        return None
    assert isinstance(result, Outcome)
    text = str(op.spec["value"]) if isinstance(op, Put) else ""
    return transaction.request_id, op.name, text, not result.code
