"""Making a cluster on this machine, or joining one: what is written before a daemon runs."""

from __future__ import annotations

import asyncio
import os
import secrets

from blixard.base.config_keys import Config
from blixard.base.errors import BlixardError
from blixard.base.ids import ulid
from blixard.consensus.node import Member, RaftNode
from blixard.daemon.files import NodeFiles, Stored
from blixard.node import messages as m
from blixard.node.founding import Founding, NodeFacts
from blixard.node.node import RAFT_DIRECTORY, NodeIdentity
from blixard.runtime.disk import RealDisk
from blixard.runtime.environment import RealEnvironment, make_spawner
from blixard.runtime.joining import join_cluster as ask_to_join
from blixard.runtime.logs import JsonLog
from blixard.runtime.offline import OfflineTransport
from blixard.security import ca, join
from blixard.security.identity import Identity, trust_domain_of
from blixard.security.tls import TlsIdentity

MEMORY_SHARE = 0.9  # of the machine's memory, for guests
FUNCTION_SHARE = 1 / 8  # of that, for functions; VMs get the rest


def transport_address(config: Config) -> str:
    """Return host:port between nodes."""
    return f"{config.cluster.address}:{config.discovery.port}"


def api_address(config: Config) -> str:
    """Return host:port of the API."""
    return f"{config.cluster.address}:{config.api.port}"


def machine_facts(config: Config) -> NodeFacts:
    """Return what this machine offers: configured, else detected."""
    memory_mib = config.node.memory_mb
    if not memory_mib:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        memory_mib = int(pages * size * MEMORY_SHARE) >> 20
    functions_mib = config.node.function_memory_mb or int(memory_mib * FUNCTION_SHARE)
    if functions_mib >= memory_mib:
        raise BlixardError(
            "INVALID", f"node.function_memory_mb leaves nothing of {memory_mib} MiB for VMs"
        )
    return NodeFacts(
        vcpus=config.node.vcpus or os.cpu_count() or 1,
        memory_mib=memory_mib - functions_mib,
        function_memory_mib=functions_mib,
        api_address=api_address(config),
        roles=config.node.roles,
        labels=config.node.labels,
        max_vms=config.microvm.max_vms_per_node,
    )


def init_cluster(config: Config) -> None:
    """Make a cluster of one node: authority, identity, first log.

    Raises:
        BlixardError: WRONG_CLUSTER, if the data directory holds a node.
    """
    files = NodeFiles(config.cluster.data_dir)
    files.make()
    now_ms = _now_ms()
    cluster_id, uid = _new_id(), _new_id()
    trust_domain = trust_domain_of(cluster_id)
    root = ca.make_root(trust_domain, now_ms)
    issuer = ca.make_issuer(root, trust_domain, now_ms)
    key = ca.make_key()
    identity = Identity(trust_domain=trust_domain, kind="node", name=uid, epoch=1)
    chain = ca.issue_node_certificate(issuer, ca.make_request(key), identity, now_ms=now_ms)
    files.store_tls(TlsIdentity(chain_pem=chain, key_pem=key, roots_pem=root.certificate_pem))
    files.store_issuer(issuer)
    files.store_root_key(root)
    founding = Founding(
        trust_domain=trust_domain, facts=machine_facts(config), pool=config.network.pool
    )
    node = NodeIdentity(
        cluster_id=cluster_id,
        uid=uid,
        name=config.cluster.node_id,
        raft_id=1,
        address=transport_address(config),
        founding=founding,
    )
    asyncio.run(_first_log(config.cluster.data_dir, node))
    files.store(Stored(node=node, trust_domain=trust_domain, api_port=config.api.port))


async def _first_log(data_dir: str, node: NodeIdentity) -> None:
    log = JsonLog(level="warning")
    disk = RealDisk(data_dir)
    env = RealEnvironment(
        disk=disk, transport=OfflineTransport(), log=log, spawner=make_spawner(log)
    )
    member = Member(raft_id=node.raft_id, uid=node.uid, address=node.address)
    try:
        await RaftNode.bootstrap(
            env, directory=RAFT_DIRECTORY, cluster_id=node.cluster_id, member=member
        )
    finally:
        disk.close()


def join_cluster(config: Config, *, token: str, server: str, timeout_s: float) -> None:
    """Join with a token: the key is kept first, so that a lost answer can be asked for again.

    Raises:
        BlixardError: what the token, the connection or the leader says.
    """
    files = NodeFiles(config.cluster.data_dir)
    files.make()
    key = files.pending_key() or ca.make_key()
    files.store_pending_key(key)
    facts = machine_facts(config)
    joined = ask_to_join(
        token,
        name=config.cluster.node_id,
        facts=join.NodeFacts(
            address=transport_address(config),
            api_address=api_address(config),
            vcpus=facts.vcpus,
            memory_mib=facts.memory_mib,
            function_memory_mib=facts.function_memory_mib,
            max_vms=facts.max_vms,
            labels=facts.labels,
            roles=facts.roles,
        ),
        key_pem=key,
        log=JsonLog(level="warning"),
        addresses=(_with_port(server, config.api.port),) if server else (),
        timeout_s=timeout_s,
    )
    answer = joined.answer
    files.store_tls(joined.identity)
    peers = tuple(
        m.Peer(
            uid=member.uid,
            name=member.name,
            address=member.address,
            raft_id=member.raft_id,
            epoch=0,
            voter=member.voter,
        )
        for member in answer.members
    )
    node = NodeIdentity(
        cluster_id=answer.cluster_id,
        uid=answer.node_uid,
        name=config.cluster.node_id,
        raft_id=answer.raft_id,
        address=transport_address(config),
        peers=peers,
    )
    domain = trust_domain_of(answer.cluster_id)
    files.store(Stored(node=node, trust_domain=domain, api_port=config.api.port))
    files.drop_pending_key()


def _with_port(host: str, port: int) -> str:
    return host if host.rpartition(":")[2].isdigit() and ":" in host else f"{host}:{port}"


def _now_ms() -> int:
    import time

    return time.time_ns() // 1_000_000


def _new_id() -> str:
    return ulid(_now_ms(), secrets.randbits(80))
