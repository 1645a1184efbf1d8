"""What Ceph answers (JSON of release 16), as our own values. Pure."""

from __future__ import annotations

import json
from typing import NamedTuple

import msgspec

from blixard.ports.volumes import PoolHealth, PoolState, StoredVolume
from blixard.storage.ceph.caps import APPLICATION, TAG, TAG_VALUE

IMAGE_PREFIX = "blixard-"
_REASONS_MAX = 3


class _Stats(msgspec.Struct, frozen=True):
    stored: int = 0
    objects: int = 0
    max_avail: int = 0


class _Usage(msgspec.Struct, frozen=True):
    name: str
    stats: _Stats = _Stats()


class _Df(msgspec.Struct, frozen=True):
    pools: list[_Usage] = []


class Pool(msgspec.Struct, frozen=True):
    """One row of ``osd pool ls detail``."""

    pool_name: str
    size: int = 0
    flags_names: str = ""
    quota_max_bytes: int = 0
    application_metadata: dict[str, dict[str, str]] = {}

    @property
    def ours(self) -> bool:
        """Whether the pool carries our mark."""
        return self.application_metadata.get(APPLICATION, {}).get(TAG) == TAG_VALUE

    @property
    def full(self) -> bool:
        """Whether Ceph refuses writes for want of room."""
        return not {"full", "full_quota"}.isdisjoint(self.flags_names.split(","))


class _Summary(msgspec.Struct, frozen=True):
    message: str = ""


class _Check(msgspec.Struct, frozen=True):
    summary: _Summary = _Summary()


class _Health(msgspec.Struct, frozen=True):
    checks: dict[str, _Check] = {}


class _PgState(msgspec.Struct, frozen=True):
    state_name: str
    count: int = 0


class _PgMap(msgspec.Struct, frozen=True):
    pgs_by_state: list[_PgState] = []


class _OsdMap(msgspec.Struct, frozen=True):
    num_osds: int = 0
    num_up_osds: int = 0
    num_in_osds: int = 0


class _MonMap(msgspec.Struct, frozen=True):
    num_mons: int = 0


class Status(msgspec.Struct, frozen=True):
    """The part of ``status`` that counts."""

    health: _Health = _Health()
    quorum_names: list[str] = []
    monmap: _MonMap = _MonMap()
    osdmap: _OsdMap = _OsdMap()
    pgmap: _PgMap = _PgMap()


class _Recovery(msgspec.Struct, frozen=True):
    degraded_objects: int = 0
    misplaced_objects: int = 0


class _PoolStats(msgspec.Struct, frozen=True):
    recovery: _Recovery = _Recovery()


class _Image(msgspec.Struct, frozen=True):
    image: str
    size: int
    snapshot: str = ""


class _Entity(msgspec.Struct, frozen=True):
    entity: str
    key: str = ""


class _AuthDump(msgspec.Struct, frozen=True):
    auth_dump: list[_Entity] = []


class _Watcher(msgspec.Struct, frozen=True):
    address: str


class _Watchers(msgspec.Struct, frozen=True):
    watchers: list[_Watcher] = []


class Lock(msgspec.Struct, frozen=True):
    """One row of ``rbd lock ls``."""

    id: str
    locker: str
    address: str


class _Address(msgspec.Struct, frozen=True):
    addr: str = ""
    nonce: int = 0


class _Session(msgspec.Struct, frozen=True):
    entity_name: str = ""
    socket_addr: _Address = _Address()


class _Size(msgspec.Struct, frozen=True):
    size: int


class _Osd(msgspec.Struct, frozen=True):
    osd: int
    up: int = 0


class _OsdDump(msgspec.Struct, frozen=True):
    epoch: int
    osds: list[_Osd] = []


class _OsdStatus(msgspec.Struct, frozen=True):
    newest_map: int


class Osds(NamedTuple):
    """The epoch of the map, and the OSDs that are up in it."""

    epoch: int
    up: tuple[int, ...]


class Holder(NamedTuple):
    """Who has a volume: kept as names in an object of the pool."""

    volume_uid: str
    node_uid: str
    epoch: int

    @property
    def text(self) -> str:
        """The name in that object."""
        return f"{self.volume_uid}/{self.node_uid}/{self.epoch}"


def pools(text: bytes) -> dict[str, Pool]:
    """Read ``osd pool ls detail``."""
    return {pool.pool_name: pool for pool in msgspec.json.decode(text, type=list[Pool])}


def usage(text: bytes, pool: str) -> tuple[int, int, int]:
    """Read ``df``: bytes used, bytes available and objects of a pool."""
    for row in msgspec.json.decode(text, type=_Df).pools:
        if row.name == pool:
            return row.stats.stored, row.stats.max_avail, row.stats.objects
    return 0, 0, 0


def status(text: bytes) -> Status:
    """Read ``status``."""
    return msgspec.json.decode(text, type=Status)


def recovery(text: bytes) -> tuple[int, int]:
    """Read ``osd pool stats POOL``: degraded and misplaced objects."""
    rows = msgspec.json.decode(text, type=list[_PoolStats])
    return (
        sum(row.recovery.degraded_objects for row in rows),
        sum(row.recovery.misplaced_objects for row in rows),
    )


def health(pool: str, pool_rows: bytes, status_text: bytes, df: bytes, stats: bytes) -> PoolHealth:
    """Judge a pool by the four answers; states of placement groups are the whole cluster's."""
    now = status(status_text)
    degraded, misplaced = recovery(stats)
    used, available, _objects = usage(df, pool)
    found = pools(pool_rows).get(pool)
    state, reason = _state(now, degraded)
    if found is not None and found.full:
        state, reason = "unavailable", "the pool is full: writes wait"
    return PoolHealth(
        state=state,
        quorum=(len(now.quorum_names), now.monmap.num_mons),
        osds=(now.osdmap.num_osds, now.osdmap.num_up_osds, now.osdmap.num_in_osds),
        degraded_objects=degraded,
        misplaced_objects=misplaced,
        used_bytes=used,
        available_bytes=available,
        reason=reason,
    )


def _state(now: Status, degraded: int) -> tuple[PoolState, str]:
    checks = now.health.checks
    said = "; ".join(checks[name].summary.message for name in sorted(checks)[:_REASONS_MAX])
    states = [set(row.state_name.split("+")) for row in now.pgmap.pgs_by_state if row.count]
    # Of a pool made just now nothing is known yet: that is no failure.
    settled = [state for state in states if not state & {"unknown", "creating"}]
    if "PG_AVAILABILITY" in checks or any("active" not in state for state in settled):
        return "unavailable", said or "placement groups are not active: writes wait"
    down = now.osdmap.num_in_osds - now.osdmap.num_up_osds
    if degraded or down > 0 or any(state & {"degraded", "undersized"} for state in settled):
        return "degraded", said or f"{degraded} objects lack a copy"
    return "healthy", ""


def volumes(text: bytes) -> list[StoredVolume]:
    """Read ``rbd ls -l POOL``: ours, without snapshots, sorted."""
    found = [
        StoredVolume(uid=row.image.removeprefix(IMAGE_PREFIX), size_bytes=row.size)
        for row in msgspec.json.decode(text, type=list[_Image])
        if row.image.startswith(IMAGE_PREFIX) and not row.snapshot
    ]
    return sorted(found, key=lambda volume: volume.uid)


def image_size(text: bytes) -> int:
    """Read ``rbd info``."""
    return msgspec.json.decode(text, type=_Size).size


def entities(text: bytes) -> list[str]:
    """Read ``auth ls``: the names; the keys in it are left alone."""
    return [row.entity for row in msgspec.json.decode(text, type=_AuthDump).auth_dump]


def key(text: bytes) -> str:
    """Read ``auth get-or-create``."""
    return msgspec.json.decode(text, type=list[_Entity])[0].key


def watchers(text: bytes) -> set[str]:
    """Read ``rbd status``: the addresses of who has the image open."""
    return {row.address for row in msgspec.json.decode(text, type=_Watchers).watchers}


def locks(text: bytes) -> list[Lock]:
    """Read ``rbd lock ls``."""
    return msgspec.json.decode(text, type=list[Lock])


def sessions(text: bytes) -> list[tuple[str, str]]:
    """Read a monitor's ``sessions``: entity and address, as the blocklist writes it."""
    rows = msgspec.json.decode(text, type=list[_Session])
    return [(row.entity_name, f"{row.socket_addr.addr}/{row.socket_addr.nonce}") for row in rows]


def osds(text: bytes) -> Osds:
    """Read ``osd dump``."""
    dump = msgspec.json.decode(text, type=_OsdDump)
    return Osds(dump.epoch, tuple(row.osd for row in dump.osds if row.up))


def newest_map(text: bytes) -> int:
    """Read an OSD's ``status``: the epoch of the map that it has."""
    return msgspec.json.decode(text, type=_OsdStatus).newest_map


def holders(text: bytes) -> list[Holder]:
    """Read the names in the object that says who has which volume."""
    found = []
    for line in text.decode().splitlines():
        parts = line.split("/")
        if len(parts) == 3 and parts[2].isdigit():
            found.append(Holder(parts[0], parts[1], int(parts[2])))
    return found


def fences(text: bytes) -> dict[str, int]:
    """Read ``config-key dump``: the first epoch of each node that is not fenced."""
    rows = json.loads(text or b"{}")
    return {str(name).rpartition("/")[2]: int(value) for name, value in rows.items()}
