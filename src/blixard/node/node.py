"""One node, composed from ports: what the daemon and the simulator both run, unmodified.

A node always keeps its lease, its duties and its instances. A voter (or learner) also runs Raft and
the replicated state; the leader among them serves the nodes and plans. A worker becomes a learner
when the leader invites it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from blixard.base.errors import BlixardError
from blixard.cluster.facade import Cluster
from blixard.cluster.kind import level_of
from blixard.cluster.leases import LeaseConfig
from blixard.cluster.machine import ClusterMachine
from blixard.consensus.log import read_file
from blixard.consensus.node import Member, RaftConfig, RaftNode
from blixard.consensus.recovery import has_state
from blixard.functions.loops import FunctionNode
from blixard.functions.spec import FunctionDuty
from blixard.images.loops import ImageBuilds
from blixard.node import messages as m
from blixard.node.founding import Founding, founding_ops
from blixard.node.functions import FunctionGateway
from blixard.node.kinds import Program
from blixard.node.leader import LeaderDuties
from blixard.node.leadership import Leadership
from blixard.node.link import NodeLink
from blixard.node.roster import Roster
from blixard.ports.environment import Environment
from blixard.ports.guests import GuestBuilder
from blixard.ports.hypervisor import Hypervisor
from blixard.ports.network import NetworkBackend
from blixard.storage.backends import Backends
from blixard.storage.loops import StorageController
from blixard.storage.remote import METHOD as UNMAKE
from blixard.storage.remote import answer
from blixard.vms.disks import Disks
from blixard.vms.loops import MigrationController, Reconciler, ReplicaController

RAFT_DIRECTORY = "raft"
PLAN_RETRY_S = 0.5
PLAN_IDLE_S = 10.0
PLAN_BUSY_S = 1.0
FOUND_S = 5.0
PEERS_FILE = "peers"
SOURCE_S = 5.0


class NodeIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Who this node is.

    ``peers`` are the members known when it joined; ``founding`` is set on the cluster's first node.
    """

    cluster_id: str
    uid: str
    name: str
    raft_id: int
    address: str
    peers: tuple[m.Peer, ...] = ()
    founding: Founding | None = None


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Timing of a node; every default is the one that users get."""

    raft: RaftConfig = RaftConfig()
    lease: LeaseConfig = LeaseConfig()
    program: Program = Program()


class Secrets:
    """What an invitation to vote carries; the daemon stores the authority's key, others nothing."""

    async def give(self) -> dict[str, bytes]:
        """Return what a new voter must hold."""
        return {}

    async def take(self, secrets: dict[str, bytes]) -> None:
        """Store what an invitation brought."""


class Voter:
    """The parts that only a member of the Raft configuration has."""

    def __init__(self, node: Node) -> None:
        env, config = node.env, node.config
        self.machine = ClusterMachine(config.program.kinds)
        self.raft = RaftNode(
            env,
            config.raft,
            self.machine,
            directory=RAFT_DIRECTORY,
            uid=node.identity.uid,
        )
        self.cluster = Cluster(self.raft, self.machine, env)
        self.duties = LeaderDuties(env, self.raft, self.cluster, config.lease)
        self.controller = ReplicaController(env, self.cluster)
        self.migrations = MigrationController(env, self.cluster)
        self.storage = StorageController(
            env, self.cluster, self.raft, node.backends, own_uid=node.identity.uid
        )
        self._stores = False  # the loop of storage runs once there is a pool
        self.roster = Roster(
            env,
            self.raft,
            self.cluster,
            self.duties,
            cluster_id=node.identity.cluster_id,
            own_raft_id=node.identity.raft_id,
            secrets=node.secrets.give,
        )
        self._env = env
        self._identity = node.identity
        self._program = config.program
        self._planned = asyncio.Event()
        self._seen = self.machine.store.kind_revisions(WATCHED)

    async def start(self) -> None:
        """Recover from disk and take part."""
        self.raft.on_applied(self._applied)
        self.raft.on_role_change(self._planned.set)
        await self.raft.start()
        self._check_level()
        self._env.spawn(self.duties.run_fencing(), name="fencing")
        self._env.spawn(self.roster.run(), name="roster")
        self._env.spawn(self._plan(), name="replicas")
        self._look_for_pools()

    def _look_for_pools(self) -> None:
        if not self._stores and self.machine.store.count("StoragePool"):
            self._stores = True
            self._env.spawn(self.storage.run(), name="storage")
        self.storage.wake()

    def _applied(self, _index: int) -> None:
        seen = self.machine.store.kind_revisions(WATCHED)
        if seen != self._seen:
            self._seen = seen
            self._check_level()
            self._planned.set()
            self.duties.state_changed()
            self._look_for_pools()

    def _check_level(self) -> None:
        """Stop where this program would apply entries by other rules than the newer ones do."""
        level = level_of(self.machine.store)
        if level > self._program.level:
            self._env.fatal(
                f"the cluster is at feature level {level}, this program knows "
                f"{self._program.level}: "
                "install a newer version"
            )

    async def _plan(self) -> None:
        while True:
            try:
                async with asyncio.timeout(PLAN_BUSY_S if self.migrations.busy else PLAN_IDLE_S):
                    await self._planned.wait()
            except TimeoutError:
                pass
            self._planned.clear()
            if not self.raft.is_leader:
                continue
            try:
                await self._found()
                await self.controller.one_pass(self.raft.term)
                await self.migrations.one_pass(self.raft.term)
            except BlixardError as error:
                self._env.log("info", "plan_refused", code=error.code, detail=error.message)
                await asyncio.sleep(PLAN_RETRY_S)
                self._planned.set()

    async def _found(self) -> None:
        """Make an empty state a cluster, on the node that ``init`` ran on."""
        founding = self._identity.founding
        if founding is None or self.cluster.store.get("ClusterConfig", "", "cluster") is not None:
            return
        ops = founding_ops(
            founding,
            cluster_id=self._identity.cluster_id,
            uid=self._identity.uid,
            name=self._identity.name,
            address=self._identity.address,
            new_uid=self._env.new_id,
        )
        await self.cluster.commit(
            ops, actor="system:founding", term=self.raft.term, timeout_s=FOUND_S
        )


WATCHED = (
    "VM", "Instance", "Image", "Network", "Node", "ClusterConfig", "Migration", "Volume",
    "StoragePool", "Function",
)  # fmt: skip


class Node:
    """The whole behaviour of one machine of the cluster."""

    def __init__(
        self,
        env: Environment,
        identity: NodeIdentity,
        config: NodeConfig,
        *,
        hypervisor: Hypervisor,
        network: NetworkBackend,
        builder: GuestBuilder,
        backends: Backends | None = None,
        secrets: Secrets | None = None,
    ) -> None:
        self.env = env
        self.identity = identity
        self.config = config
        self.secrets = secrets or Secrets()
        self.hypervisor = hypervisor
        self.backends: Backends = backends or {}
        self.voter: Voter | None = None
        self._becoming = asyncio.Lock()
        self.on_voter: Callable[[Voter], None] = lambda _voter: None
        self.leadership = Leadership(env, identity.uid, self._leader_hint, self._handlers())
        self.leadership.peers = identity.peers
        self.link = NodeLink(env, self.leadership, config.lease, hypervisor, program=config.program)
        self.image_builds = ImageBuilds(env, builder, self.link.report_image)
        self.reconciler = Reconciler(
            env,
            hypervisor=hypervisor,
            network=network,
            builder=builder,
            disks=Disks(self.backends, identity.uid),
            authority=self.link,
            report=self.link.report,
        )
        self.function_pools = FunctionNode(
            env,
            node_name=identity.name,
            hypervisor=hypervisor,
            builder=builder,
            authority=self.link,
            fetch=self._fetch_source,
        )
        self.functions = FunctionGateway(
            env, identity.uid, self.function_pools, lambda: self.leadership.peers
        )
        hypervisor.on_change(self._guest_changed)
        self.link.on_view = self._viewed
        self.link.on_authority = self._entitled
        self.link.on_new_epoch = self.reconciler.report_all

    async def start(self) -> None:
        """Find what is here from before, then take part in the cluster."""
        for method, handler in self._handlers().items():
            self.env.transport.on_request(method, handler)
        self.env.transport.on_request(m.INVITE, self._invited)
        self.functions.register()
        self.env.transport.on_request(UNMAKE, self._unmake)
        self._set_peers(await self._stored_peers())
        if has_state(self.env.disk, RAFT_DIRECTORY):
            await self._start_voter()
        processes = await self.hypervisor.instances()
        self.reconciler.adopt(processes)
        self.function_pools.begin(processes)
        self.env.spawn(self.reconciler.run_network(), name="network")
        self.env.spawn(self.link.run_heartbeats(), name="heartbeats")
        self.env.spawn(self.link.run_views(), name="views")
        self.env.spawn(self.link.run_reports(), name="reports")
        self.env.spawn(self.image_builds.run(), name="images")

    async def stop(self) -> None:
        """Leave in order: hand over leadership if it is here; guests run on."""
        if self.voter is not None:
            await self.voter.raft.stop()

    # -- the leader --

    def _leader_hint(self) -> str:
        return self.voter.raft.leader_uid if self.voter is not None else ""

    def _handlers(self) -> dict[str, Callable[[str, bytes], Awaitable[bytes]]]:
        return {
            m.HEARTBEAT: self._on_heartbeat,
            m.VIEW: self._on_view,
            m.REPORT: self._on_report,
            m.CONFIRM_START: self._on_confirm_start,
            m.MOVE: self._on_move,
            m.FUNCTION_SOURCE: self._on_source,
        }

    def _duties(self) -> LeaderDuties:
        if self.voter is None:
            raise BlixardError(
                "NOT_LEADER",
                "this node does not vote",
                details={"leader": self._leader_hint()},
            )
        return self.voter.duties

    async def _on_heartbeat(self, uid: str, payload: bytes) -> bytes:
        return await self._duties().heartbeat(uid, payload)

    async def _on_view(self, uid: str, payload: bytes) -> bytes:
        return await self._duties().view(uid, payload)

    async def _on_report(self, uid: str, payload: bytes) -> bytes:
        return await self._duties().report(uid, payload)

    async def _on_confirm_start(self, uid: str, payload: bytes) -> bytes:
        return await self._duties().confirm_start(uid, payload)

    async def _on_move(self, uid: str, payload: bytes) -> bytes:
        return await self._duties().move(uid, payload)

    async def _on_source(self, uid: str, payload: bytes) -> bytes:
        return await self._duties().source(uid, payload)

    # -- becoming a voter --

    async def _invited(self, _uid: str, payload: bytes) -> bytes:
        invitation = msgspec.msgpack.decode(payload, type=m.Invitation)
        if invitation.cluster_id != self.identity.cluster_id:
            raise BlixardError("WRONG_CLUSTER", "the invitation is from another cluster")
        async with self._becoming:
            if self.voter is None:
                await self.secrets.take(invitation.secrets)
                self._set_peers(invitation.members)
                await self._become_voter()
        return b""

    async def _unmake(self, _uid: str, payload: bytes) -> bytes:
        return await answer(self.backends, payload)

    async def _become_voter(self) -> None:
        try:
            # A full disk may have ended an invitation between the first state and the start.
            if not has_state(self.env.disk, RAFT_DIRECTORY):
                await self._first_state()
            await self._start_voter()
        except BlixardError as error:
            # As everywhere: after a failed sync this process may not trust what it reads.
            if error.code in ("DISK_FAILED", "LOG_CORRUPT"):
                self.env.fatal(f"this node cannot become a voter: {error.message}")
            raise

    async def _first_state(self) -> None:
        own = self.identity
        learner = Member(raft_id=own.raft_id, uid=own.uid, address=own.address, learner=True)
        await RaftNode.create_empty(
            self.env, directory=RAFT_DIRECTORY, cluster_id=own.cluster_id, member=learner
        )

    async def _start_voter(self) -> None:
        voter = Voter(self)
        await voter.start()
        self.voter = voter
        self.on_voter(voter)

    # -- duties --

    def _guest_changed(self, uid: str) -> None:
        self.reconciler.changed(uid)
        self.function_pools.changed(uid)

    def _entitled(self) -> None:
        self.reconciler.wake_all()
        self.function_pools.look()

    async def _fetch_source(self, duty: FunctionDuty) -> bytes:
        question = m.encode(m.SourceQuestion(duty.uid, duty.digest))
        return await self.leadership.ask(m.FUNCTION_SOURCE, question, timeout_s=SOURCE_S)

    def _viewed(self, view: m.FullView) -> None:
        self._set_peers(view.peers)
        if view.epoch == self.link.epoch:
            self.reconciler.assign(list(view.assignments), view.networks)
            self.image_builds.assign(view.images, view.epoch)
            self.functions.assign(view.functions)
        self.env.spawn(self._store_peers(view.peers), name="store peers")

    def _set_peers(self, peers: tuple[m.Peer, ...]) -> None:
        known = {peer.uid for peer in self.leadership.peers}
        if peers:
            self.leadership.peers = peers
        for peer in peers:
            if peer.uid != self.identity.uid:
                self.env.transport.set_peer(peer.uid, peer.address)
        for uid in sorted(known - {peer.uid for peer in peers}) if peers else ():
            self.env.transport.remove_peer(uid)

    async def _stored_peers(self) -> tuple[m.Peer, ...]:
        """Return the peers last seen: a restarted worker must find the voters of today."""
        disk = self.env.disk
        if not disk.exists(PEERS_FILE):
            return self.identity.peers
        try:
            data = read_file(disk.open(PEERS_FILE))
        except OSError as error:
            self.env.log("warning", "peers_not_read", detail=str(error))
            return self.identity.peers
        try:
            return msgspec.msgpack.decode(data, type=tuple[m.Peer, ...])
        except msgspec.DecodeError:
            return self.identity.peers

    async def _store_peers(self, peers: tuple[m.Peer, ...]) -> None:
        """Write the peers down if they changed; a full disk leaves the older list, and says so."""
        data = msgspec.msgpack.encode(peers)
        async with self._becoming:
            if data == self._peers_written:
                return
            try:
                await self._write_peers(data)
            except OSError as error:
                self.env.log("warning", "peers_not_stored", detail=str(error))
                return
            self._peers_written = data

    async def _write_peers(self, data: bytes) -> None:
        disk = self.env.disk
        file = disk.open(PEERS_FILE + ".new", create=True)
        try:
            file.truncate(0)
            file.pwrite(0, data)
            await file.sync()
        finally:
            file.close()
        disk.rename(PEERS_FILE + ".new", PEERS_FILE)
        await disk.sync_dir("")

    _peers_written = b""
