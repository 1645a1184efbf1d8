"""Going on with one node after a majority of the voters was lost for good; the daemon is stopped.

The node gets a new cluster: new id, new authority, new certificate. Members of the old one can
neither speak to it nor be let in with what they have.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import secrets
import shutil
import time

import msgspec

from blixard.base.errors import BlixardError
from blixard.base.ids import ulid
from blixard.cluster.machine import ClusterMachine
from blixard.cluster.recovery import Losses, go_on_alone, losses
from blixard.consensus.comparison import COMPARE_METHOD, Answer, Question
from blixard.consensus.config import Member, RaftConfig
from blixard.consensus.offline import FoundLog, read_log, replay, start_over
from blixard.consensus.wire import Hello
from blixard.daemon.files import NodeFiles, Stored
from blixard.node.kinds import all_kinds
from blixard.node.node import PEERS_FILE, RAFT_DIRECTORY
from blixard.runtime.disk import RealDisk
from blixard.runtime.environment import RealEnvironment, make_random, make_spawner
from blixard.runtime.logs import JsonLog
from blixard.runtime.offline import OfflineTransport
from blixard.runtime.transport import GrpcTransport
from blixard.security import ca
from blixard.security.identity import Identity, from_pem, trust_domain_of
from blixard.security.tls import TlsIdentity, TlsMaterial

PROBE_S = 4.0
MARK = "recovering"


class MemberFound(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A voter or learner of the old cluster; ``last_index`` is 0 unless it answered."""

    uid: str
    name: str
    address: str
    voter: bool
    own: bool
    answers: bool
    last_index: int = 0


class Position(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Where a log ends, and where that is known from."""

    where: str
    last_term: int
    last_index: int


class RecoveryPlan(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a recovery would do; ``refusals`` say why it must not be done."""

    node: str
    data_dir: str
    cluster_id: str
    term: int
    last_term: int
    last_index: int
    commit_index: int
    uncommitted: int
    members: tuple[MemberFound, ...]
    others: tuple[Position, ...]
    losses: Losses
    refusals: tuple[str, ...]


def plan_recovery(data_dir: str, others: tuple[Position, ...]) -> RecoveryPlan:
    """Read this node's log, ask the other members, compare; changes nothing but a torn tail.

    Raises:
        BlixardError: DATA_DIR_IN_USE while the daemon runs, NOT_FOUND, LOG_CORRUPT, QUARANTINED.
    """
    _put_back(data_dir)
    stored = NodeFiles(data_dir).load()
    found = _read(data_dir)
    machine = ClusterMachine(all_kinds())
    replay(found, machine)
    names = {node.metadata.uid: node.metadata.name for node in machine.store.list("Node")}
    answers = asyncio.run(_probe(data_dir, stored, found))
    members = tuple(
        MemberFound(
            uid=member.uid,
            name=names.get(member.uid, member.uid),
            address=member.address,
            voter=not member.learner,
            own=member.uid == stored.node.uid,
            answers=member.uid in answers,
            last_index=answers.get(member.uid, 0),
        )
        for member in found.members
    )
    return RecoveryPlan(
        node=stored.node.name,
        data_dir=data_dir,
        cluster_id=found.identity.cluster_id,
        term=found.term,
        last_term=found.last_term,
        last_index=found.last_index,
        commit_index=found.commit_index,
        uncommitted=found.uncommitted,
        members=members,
        others=others,
        losses=losses(machine.store, stored.node.uid),
        refusals=tuple(refusals(found.position, members, others)),
    )


def refusals(
    position: tuple[int, int], members: tuple[MemberFound, ...], others: tuple[Position, ...]
) -> list[str]:
    """Return why this node must not go on alone; pure."""
    found: list[str] = []
    voters = [m for m in members if m.voter]
    alive = [m for m in voters if m.answers or m.own]
    if 2 * len(alive) > len(voters):
        names = ", ".join(m.name for m in alive if not m.own) or "no other"
        found.append(
            f"a majority of the {len(voters)} voters is there ({names} and this node): start the "
            "daemon here instead"
        )
    found += [
        f"{member.name} answers and has a longer log: stop it and recover there"
        for member in members
        if member.answers and member.last_index > position[1]
    ]
    found += [
        f"the log of {other.where} is longer ({other.last_term}/{other.last_index}): recover there"
        for other in others
        if (other.last_term, other.last_index) > position
    ]
    return found


def position_in(data_dir: str) -> Position:
    """Return where the log in another data directory ends. Raises BlixardError."""
    found = _read(data_dir)
    return Position(where=data_dir, last_term=found.last_term, last_index=found.last_index)


def carry_out(data_dir: str) -> str:
    """Go on alone; return the new cluster's id. The old log stays beside the new one.

    An interrupted attempt is repeated from its beginning: until all is written the daemon refuses
    to start (``recovering`` stands in the data directory).
    """
    files = NodeFiles(data_dir)
    _put_back(data_dir)
    stored = files.load()
    files.mark(MARK, _read(data_dir).identity.cluster_id.lower())
    cluster_id = _new_id()
    trust_domain = trust_domain_of(cluster_id)
    asyncio.run(_start_over(data_dir, stored, cluster_id))
    _new_authority(files, stored.node.uid, trust_domain)
    node = msgspec.structs.replace(stored.node, cluster_id=cluster_id, peers=(), founding=None)
    files.store(msgspec.structs.replace(stored, node=node, trust_domain=trust_domain))
    for name in (PEERS_FILE, MARK):
        path = os.path.join(data_dir, name)
        if os.path.exists(path):
            os.unlink(path)
    return cluster_id


def check_not_recovering(data_dir: str) -> None:
    """Refuse a data directory whose recovery was interrupted. Raises BlixardError CONFLICT."""
    if os.path.exists(os.path.join(data_dir, MARK)):
        raise BlixardError(
            "CONFLICT",
            f"a recovery of {data_dir} was interrupted",
            hint=f"repeat: blixard cluster recover --unsafe --data-dir {data_dir}",
        )


def _put_back(data_dir: str) -> None:
    """Undo what an interrupted attempt renamed: nothing has run on its log yet."""
    mark = pathlib.Path(data_dir, MARK)
    raft = pathlib.Path(data_dir, RAFT_DIRECTORY)
    kept = pathlib.Path(f"{raft}.of-{mark.read_text()}") if mark.exists() else raft
    if kept != raft and kept.exists():
        shutil.rmtree(raft, ignore_errors=True)
        kept.rename(raft)


def _read(data_dir: str) -> FoundLog:
    async def read() -> FoundLog:
        disk = RealDisk(data_dir)
        try:
            return await read_log(_environment(disk), RAFT_DIRECTORY, RaftConfig())
        finally:
            disk.close()

    return asyncio.run(read())


async def _start_over(data_dir: str, stored: Stored, cluster_id: str) -> None:
    disk = RealDisk(data_dir)
    try:
        env = _environment(disk)
        found = await read_log(env, RAFT_DIRECTORY, RaftConfig())
        machine = ClusterMachine(all_kinds())
        replay(found, machine)
        machine.rewrite(
            found.last_index + 1,
            lambda draft: go_on_alone(
                draft,
                stored.node.uid,
                cluster_id=cluster_id,
                trust_domain=trust_domain_of(cluster_id),
                now_ms=env.wall_time_ms(),
                new_uid=env.new_id,
            ),
        )
        payload = machine.encode(machine.freeze())
        await start_over(env, RAFT_DIRECTORY, found, cluster_id=cluster_id, payload=payload)
    finally:
        disk.close()


def _environment(disk: RealDisk) -> RealEnvironment:
    log = JsonLog(level="warning")
    return RealEnvironment(
        disk=disk, transport=OfflineTransport(), log=log, spawner=make_spawner(log)
    )


def _new_authority(files: NodeFiles, uid: str, trust_domain: str) -> None:
    now_ms = _now_ms()
    root = ca.make_root(trust_domain, now_ms)
    issuer = ca.make_issuer(root, trust_domain, now_ms)
    key = ca.make_key()
    identity = Identity(trust_domain=trust_domain, kind="node", name=uid, epoch=1)
    chain = ca.issue_node_certificate(issuer, ca.make_request(key), identity, now_ms=now_ms)
    files.store_issuer(issuer)
    files.store_root_key(root)
    files.store_tls(TlsIdentity(chain_pem=chain, key_pem=key, roots_pem=root.certificate_pem))


async def _probe(data_dir: str, stored: Stored, found: FoundLog) -> dict[str, int]:
    """Ask all other members as the node that this is; return the last index of who answered."""
    others = [m for m in found.members if m.uid != stored.node.uid]
    log = JsonLog(level="critical")
    spawner = make_spawner(log)
    transport = GrpcTransport(
        TlsMaterial(_probing_identity(NodeFiles(data_dir), stored)),
        trust_domain=stored.trust_domain,
        authorize=lambda _uid, _epoch, _method: BlixardError("FORBIDDEN", "nothing runs here"),
        log=log,
        spawner=spawner,
        generator=make_random(),
    )
    own = found.identity.member
    hello = Hello(found.identity.cluster_id, own.raft_id, own.address)
    question = msgspec.msgpack.encode(Question(hello, 0))

    async def ask(member: Member) -> int | None:
        transport.set_peer(member.uid, member.address)
        try:
            data = await transport.request(member.uid, COMPARE_METHOD, question, timeout_s=PROBE_S)
        except BlixardError as error:
            # Whoever refuses is alive; it just does not say how long its log is.
            return None if error.code in ("UNREACHABLE", "TIMEOUT") else 0
        return msgspec.msgpack.decode(data, type=Answer).last_index

    try:
        answers = await asyncio.gather(*[ask(member) for member in others])
    finally:
        await transport.stop()
        await spawner.cancel_all()
    return {m.uid: a for m, a in zip(others, answers, strict=True) if a is not None}


def _probing_identity(files: NodeFiles, stored: Stored) -> TlsIdentity:
    """Return the node's identity, signed anew if its certificate ran out while it was down."""
    tls = files.load_tls()
    peer, now_ms = from_pem(tls.chain_pem), _now_ms()
    issuer = files.load_issuer()
    if now_ms < peer.not_after_ms or issuer is None:
        return tls
    chain = ca.issue_node_certificate(
        issuer, ca.make_request(tls.key_pem), peer.identity, now_ms=now_ms
    )
    assert peer.identity.trust_domain == stored.trust_domain
    return msgspec.structs.replace(tls, chain_pem=chain)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _new_id() -> str:
    return ulid(_now_ms(), secrets.randbits(80))
