"""First durable state, identity, and what a start finds on disk."""

from __future__ import annotations

import struct
from posixpath import dirname
from zlib import crc32

import msgspec

from blixard._raft import RawRaft, RecoveryError
from blixard.base.errors import BlixardError
from blixard.consensus.config import Member, RaftConfig
from blixard.consensus.log import (
    Log,
    Recovered,
    corrupt,
    no_raw_errors,
    read_file,
    sync_directory,
    sync_file,
)
from blixard.consensus.snapshots import SnapshotMeta, SnapshotStore
from blixard.ports.disk import Disk
from blixard.ports.environment import Environment

FIRST_INDEX = FIRST_TERM = 1
RESERVE = "reserve"
_CHECK = struct.Struct("<I")


class Identity(msgspec.Struct, frozen=True):
    """Whose data this is; written once."""

    cluster_id: str
    member: Member
    version: int = 1


class Start(msgspec.Struct, frozen=True):
    """A recovered node: engine, open log, and the snapshot that its state starts from."""

    identity: Identity
    core: RawRaft
    log: Log
    snapshots: SnapshotStore
    meta: SnapshotMeta
    payload: bytes
    cut_bytes: int


def make_log(disk: Disk, directory: str, config: RaftConfig) -> Log:
    """Return the log of a raft directory, not yet open."""
    return Log(
        disk,
        f"{directory}/log",
        segment_bytes=config.segment_bytes,
        record_bytes=config.record_bytes,
    )


async def write_first_state(
    env: Environment,
    directory: str,
    identity: Identity,
    *,
    first: SnapshotMeta | None,
    payload: bytes = b"",
) -> None:
    """Write an empty log, the *first* snapshot if there is one, and the identity last.

    A crash before the end leaves no identity: the call is made again and starts over.
    """
    disk = env.disk
    if has_state(disk, directory):
        raise BlixardError("WRONG_CLUSTER", f"{directory} already holds a node's state")
    with no_raw_errors(f"the first state in {directory}"):
        await _write_first_state(env, directory, identity, first, payload)


async def _write_first_state(
    env: Environment,
    directory: str,
    identity: Identity,
    first: SnapshotMeta | None,
    payload: bytes,
) -> None:
    disk = env.disk
    for path in (directory, f"{directory}/log", f"{directory}/snap"):
        disk.mkdir(path)
        for name in disk.listdir(path):
            if name not in ("log", "snap"):
                disk.unlink(f"{path}/{name}")
    snapshots = SnapshotStore(disk, f"{directory}/snap")
    if first is not None:
        await snapshots.save(first, payload)
    log = make_log(disk, directory, RaftConfig())
    await log.start_segment(b"")
    log.close()
    await _write_identity(disk, directory, identity)


def genesis(identity: Identity) -> SnapshotMeta:
    """Return the first snapshot of a new group: one voter, no state."""
    conf: tuple[list[int], list[int], list[int], list[int], bool]
    conf = ([identity.member.raft_id], [], [], [], False)
    return SnapshotMeta(
        identity.cluster_id, FIRST_INDEX, FIRST_TERM, conf, (identity.member,), genesis=True
    )


async def _write_identity(disk: Disk, directory: str, identity: Identity) -> None:
    path = f"{directory}/identity"
    file = disk.open(path + ".tmp", create=True)
    data = msgspec.json.encode(identity)
    file.truncate(0)
    file.pwrite(0, data + _CHECK.pack(crc32(data)))
    await sync_file(file, path)
    file.close()
    disk.rename(path + ".tmp", path)
    await sync_directory(disk, f"{directory}/log")
    await _sync_directories(disk, directory)


async def _sync_directories(disk: Disk, directory: str) -> None:
    for place in (f"{directory}/snap", directory, dirname(directory)):
        await sync_directory(disk, place)


def has_state(disk: Disk, directory: str) -> bool:
    """Tell whether the first state was written to its end; if not, it is written again."""
    return disk.exists(f"{directory}/identity")


def read_identity(disk: Disk, directory: str) -> Identity:
    """Return whose data this is.

    Raises:
        BlixardError: NOT_FOUND before the first state is written, LOG_CORRUPT.
    """
    path = f"{directory}/identity"
    if not disk.exists(path):
        raise BlixardError("NOT_FOUND", f"{path}: this node has no consensus state yet")
    file = disk.open(path)
    try:
        data = read_file(file)
        body = data[: -_CHECK.size]
        if len(data) < _CHECK.size or _CHECK.pack(crc32(body)) != data[-_CHECK.size :]:
            raise corrupt(path, 0, "the checksum does not fit")
        return msgspec.json.decode(body, type=Identity)
    except msgspec.MsgspecError as error:
        raise corrupt(path, 0, str(error)) from error
    finally:
        file.close()


async def recover(env: Environment, directory: str, config: RaftConfig, uid: str) -> Start:
    """Read snapshots and log, and build the engine on them.

    Raises:
        BlixardError: LOG_CORRUPT naming file and offset; NOT_FOUND; WRONG_CLUSTER if the state is
            that of another node; DISK_FAILED, DISK_FULL.
    """
    with no_raw_errors(f"recovery from {directory}"):
        return await _recover(env, directory, config, uid)


async def _recover(env: Environment, directory: str, config: RaftConfig, uid: str) -> Start:
    disk = env.disk
    identity = read_identity(disk, directory)
    if uid and identity.member.uid != uid:
        raise BlixardError(
            "WRONG_CLUSTER",
            f"{directory} holds the state of node {identity.member.uid}, this is node {uid}",
        )
    snapshots = SnapshotStore(disk, f"{directory}/snap")
    snapshots.sweep()
    # Names of a first state whose last syncs failed may be known to the system's cache alone.
    await _sync_directories(disk, directory)
    log = make_log(disk, directory, config)
    found = await log.open()
    damaged: list[tuple[str, BlixardError]] = []
    meta, payload = _newest_snapshot(snapshots, identity, damaged)
    try:
        core = _build_core(env, config, identity, meta, found)
    except BlixardError as error:
        raise (damaged[0][1] if damaged else error) from error
    mending = core.mending_group()
    if mending:
        # The reserve is there for this: a full disk must not keep a node from starting.
        disk.unlink(f"{directory}/{RESERVE}")
        log.write(mending, meta.index)
        await log.sync()
    for path, damage in damaged:
        env.log("error", "snapshot_damaged", file=path, message=damage.message)
        disk.rename(path, path + ".damaged")
    return Start(identity, core, log, snapshots, meta, payload, found.cut_bytes)


def _newest_snapshot(
    snapshots: SnapshotStore, identity: Identity, damaged: list[tuple[str, BlixardError]]
) -> tuple[SnapshotMeta, bytes]:
    """Return the newest snapshot that can be read; older ones do if the log joins on."""
    for path in snapshots.paths():
        try:
            meta, payload = snapshots.load(path)
        except BlixardError as error:
            damaged.append((path, error))
            continue
        if meta.cluster_id != identity.cluster_id:
            raise BlixardError("WRONG_CLUSTER", f"{path} is of cluster {meta.cluster_id}")
        return meta, payload
    if damaged:
        raise damaged[0][1]
    return SnapshotMeta(identity.cluster_id, 0, 0, ([], [], [], [], False), (), genesis=True), b""


def _build_core(
    env: Environment,
    config: RaftConfig,
    identity: Identity,
    meta: SnapshotMeta,
    found: Recovered,
) -> RawRaft:
    try:
        return RawRaft(
            id=identity.member.raft_id,
            seed=env.random.getrandbits(64),
            incarnation=env.random.getrandbits(64),
            election_tick=config.election_ticks,
            heartbeat_tick=config.heartbeat_ticks,
            max_size_per_msg=config.max_message_bytes,
            max_inflight=config.max_inflight_messages,
            max_uncommitted=config.max_uncommitted_bytes,
            max_committed=config.max_apply_bytes,
            snapshot_index=meta.index,
            snapshot_term=meta.term,
            conf=meta.conf,
            records=[record.payload for record in found.records],
        )
    except RecoveryError as error:
        place, message = error.args
        if place < len(found.records):
            record = found.records[place]
            raise corrupt(record.path, record.offset, message) from error
        first = found.records[0]
        raise corrupt(first.path, first.offset, message) from error
