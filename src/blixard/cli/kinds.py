"""The kinds that the command line knows: their names in paths and in tables.

A kind that is not here can still be read and written: its plural is asked for as it was typed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from blixard.base.errors import BlixardError
from blixard.base.units import format_bytes, format_duration
from blixard.cli import paths

Cell = Callable[[dict[str, Any], int], str]


class Column(NamedTuple):
    """A heading and how to get its text: a path, or a function of object and Unix milliseconds.

    *wide* columns show with ``-o wide`` only, *optional* ones only if a row has something there.
    """

    header: str
    source: str | Cell
    wide: bool = False
    optional: bool = False

    def cell(self, resource: dict[str, Any], now_ms: int) -> str:
        """Return the text of the cell."""
        if callable(self.source):
            return self.source(resource, now_ms)
        return paths.text(paths.get(resource, self.source))


class Kind(NamedTuple):
    """How users and the API call a kind."""

    name: str
    plural: str
    short: tuple[str, ...]
    namespaced: bool
    columns: tuple[Column, ...]
    live: bool = False  # its status is what nodes say now: no watch tells of it

    @property
    def lower(self) -> str:
        """The name as it stands before a slash: ``vm/web``."""
        return self.name.lower()


def age(resource: dict[str, Any], now_ms: int) -> str:
    """Return how long the object exists."""
    created = resource.get("metadata", {}).get("createdAtMs", 0)
    return format_duration(max(0, now_ms - created) / 1000) if created else ""


def since(path: str) -> Cell:
    """Return a cell that says how long ago the time at *path* was."""

    def cell(resource: dict[str, Any], now_ms: int) -> str:
        at = paths.get(resource, path)
        return format_duration(max(0, now_ms - at) / 1000) if isinstance(at, int) and at else ""

    return cell


def until(path: str) -> Cell:
    """Return a cell that says when the time at *path* comes."""

    def cell(resource: dict[str, Any], now_ms: int) -> str:
        at = paths.get(resource, path)
        if not isinstance(at, int) or not at:
            return "never"
        return "over" if at <= now_ms else f"in {format_duration((at - now_ms) / 1000)}"

    return cell


def size(path: str) -> Cell:
    """Return a cell that prints the bytes at *path*."""

    def cell(resource: dict[str, Any], _now_ms: int) -> str:
        count = paths.get(resource, path)
        return format_bytes(count) if isinstance(count, int) else ""

    return cell


def mib(path: str) -> Cell:
    """Return a cell that prints the MiB at *path*; text stays as it is."""

    def cell(resource: dict[str, Any], _now_ms: int) -> str:
        count = paths.get(resource, path)
        return format_bytes(count << 20) if isinstance(count, int) else paths.text(count)

    return cell


def joined(*sources: str) -> Cell:
    """Return a cell with the list at the first path that has something, comma-separated."""

    def cell(resource: dict[str, Any], _now_ms: int) -> str:
        for source in sources:
            found = [paths.text(v) for v in paths.find(resource, paths.parse(source))]
            if any(found):
                return ",".join(found)
        return ""

    return cell


def first(*sources: str) -> Cell:
    """Return a cell with the first path that has something."""

    def cell(resource: dict[str, Any], _now_ms: int) -> str:
        return next((t for s in sources if (t := paths.text(paths.get(resource, s)))), "")

    return cell


def ready_replicas(resource: dict[str, Any], _now_ms: int) -> str:
    """Return ``ready/wanted``."""
    wanted = paths.get(resource, "spec.replicas")
    ready = paths.get(resource, "status.readyReplicas") or 0
    return f"{ready}/{1 if wanted is None else wanted}"


def ready_nodes(resource: dict[str, Any], _now_ms: int) -> str:
    """Return on how many of its nodes it is ready."""
    status = resource.get("status", {})
    return f"{status.get('readyNodes', 0)}/{status.get('nodes', 0)}"


def _yes_no(path: str) -> Cell:
    def cell(resource: dict[str, Any], _now_ms: int) -> str:
        return "yes" if paths.get(resource, path) else "no"

    return cell


def _about(resource: dict[str, Any], _now_ms: int) -> str:
    spec = resource.get("spec", {})
    return f"{str(spec.get('aboutKind', '')).lower()}/{spec.get('aboutName', '')}".strip("/")


NAME = Column("NAME", "metadata.name")
AGE = Column("AGE", age)
UID = Column("UID", "metadata.uid", wide=True)

INSTANCE_COLUMNS = (
    NAME,
    Column("PHASE", "status.phase"),
    Column("READY", _yes_no("status.ready")),
    Column("NODE", first("spec.nodeName", "spec.node")),
    Column("IP", "spec.ip"),
    Column("RESTARTS", "status.restarts"),
    AGE,
    Column("REASON", "status.reason", optional=True),
    Column("WHY", first("status.placement", "spec.placement"), wide=True),
    Column("RUN", "spec.run", wide=True),
    Column("EPOCH", "spec.nodeEpoch", wide=True),
    Column("PID", "status.pid", wide=True),
)

KINDS: tuple[Kind, ...] = (
    Kind(
        "VM",
        "vms",
        ("vm",),
        True,
        (
            NAME,
            Column("PHASE", "status.phase"),
            Column("READY", ready_replicas),
            Column("IMAGE", joined("spec.image", "spec.recipe.packages[*]")),
            Column("MEMORY", mib("spec.memory")),
            Column("VCPUS", "spec.vcpus"),
            AGE,
            Column("MESSAGE", "status.message", optional=True),
            Column("NETWORK", "spec.network", wide=True),
            Column("RESTART", "spec.restartPolicy", wide=True),
            UID,
        ),
    ),
    Kind("Instance", "instances", ("inst",), True, (*INSTANCE_COLUMNS, UID)),
    Kind(
        "Image",
        "images",
        ("img",),
        True,
        (
            NAME,
            Column("PHASE", "status.phase"),
            Column("PACKAGES", joined("spec.packages[*]")),
            Column("SIZE", size("status.sizeBytes")),
            AGE,
            Column("MESSAGE", first("status.message", "status.reason"), optional=True),
            Column("DIGEST", "status.digest", wide=True),
        ),
    ),
    Kind(
        "Function",
        "functions",
        ("fn",),
        True,
        (
            NAME,
            Column("PHASE", "status.phase"),
            Column("NODES", ready_nodes),
            Column("WARM", "status.idle"),
            Column("BUSY", "status.busy"),
            Column("CALLS", "status.calls"),
            Column("COLD", "status.coldStarts"),
            AGE,
            Column("MESSAGE", "status.message", optional=True),
            Column("HANDLER", "spec.handler", wide=True),
            Column("MEMORY", mib("spec.memory"), wide=True),
            Column("TIMEOUT", "spec.timeout", wide=True),
            UID,
        ),
        live=True,
    ),
    Kind(
        "Node",
        "nodes",
        ("no",),
        False,
        (
            NAME,
            Column("STATE", "status.state"),
            Column("ROLES", joined("spec.roles[*]")),
            Column("ADDRESS", "spec.address"),
            Column("VCPUS", "spec.capacity.vcpus"),
            Column("MEMORY", mib("spec.capacity.memoryMib")),
            AGE,
            Column("EPOCH", "status.epoch", wide=True),
            Column("RAFT", "spec.raftId", wide=True),
            Column("VERSION", first("status.version", "status.versions"), wide=True),
            UID,
        ),
    ),
    Kind(
        "Network",
        "networks",
        ("net",),
        False,
        (
            NAME,
            Column("CIDR", "spec.cidr"),
            Column("VNI", "spec.vni"),
            Column("MTU", "spec.mtu"),
            AGE,
        ),
    ),
    Kind(
        "StoragePool",
        "storagepools",
        ("pool", "sp"),
        False,
        (
            NAME,
            Column("BACKEND", "spec.backend"),
            Column("COPIES", "spec.replicas"),
            Column("PHASE", "status.phase"),
            Column("HEALTH", "status.health.state"),
            AGE,
            Column("MESSAGE", first("status.message", "status.health.reason"), optional=True),
        ),
    ),
    Kind(
        "Volume",
        "volumes",
        ("vol",),
        True,
        (
            NAME,
            Column("POOL", "spec.pool"),
            Column("SIZE", "spec.size"),
            Column("PHASE", "status.phase"),
            Column("INSTANCE", "status.instanceName"),
            AGE,
            Column("MESSAGE", "status.message", optional=True),
            Column("RECLAIM", "spec.reclaim", wide=True),
            UID,
        ),
    ),
    Kind(
        "Operation",
        "operations",
        ("op",),
        False,
        (
            NAME,
            Column("TYPE", "spec.type"),
            Column("TARGET", "spec.target"),
            Column("PHASE", "status.phase"),
            Column("STEP", "status.step", optional=True),
            AGE,
            Column("MESSAGE", "status.message", optional=True),
        ),
    ),
    Kind(
        "Event",
        "events",
        ("ev",),
        False,
        (
            Column("AGE", since("spec.atMs")),
            Column("TYPE", "spec.type"),
            Column("REASON", "spec.reason"),
            Column("OBJECT", _about),
            Column("MESSAGE", "spec.message"),
            Column("NODE", "spec.node", wide=True),
        ),
    ),
    Kind(
        "Migration",
        "migrations",
        ("mig",),
        True,
        (
            NAME,
            Column("INSTANCE", "spec.instance"),
            Column("PHASE", "status.phase"),
            Column("FROM", "status.source"),
            Column("TO", "status.target"),
            AGE,
            Column("DOWNTIME-MS", "status.downtimeMs", optional=True),
            Column("REASON", "status.reason", optional=True),
        ),
    ),
    Kind("Namespace", "namespaces", ("ns",), False, (NAME, AGE)),
    Kind(
        "JoinToken",
        "jointokens",
        ("token",),
        False,
        (
            NAME,
            Column("NODE", "spec.nodeName"),
            Column("EXPIRES", until("spec.expiresAtMs")),
            Column("USED-BY", "status.usedByName"),
            AGE,
        ),
    ),
    Kind(
        "ApiKey",
        "apikeys",
        ("key",),
        False,
        (
            Column("ID", "metadata.name"),
            Column("NAME", "spec.description"),
            Column("ROLE", "spec.role"),
            Column("EXPIRES", until("spec.expiresAtMs")),
            AGE,
            Column("LAST-USED", since("status.lastUsedAtMs"), optional=True),
        ),
    ),
    Kind("ClusterConfig", "clusterconfigs", ("cc",), False, (NAME, AGE)),
    Kind(
        "KeyValue",
        "keyvalues",
        ("kv",),
        False,
        (
            Column("KEY", "metadata.name"),
            Column("VALUE", "spec.value"),
            Column("REVISION", "metadata.revision"),
        ),
    ),
)

_BY_NAME = {spelling: kind for kind in KINDS for spelling in (kind.lower, kind.plural, *kind.short)}


def kind_named(text: str) -> Kind:
    """Return the kind of any spelling: ``vm``, ``VMs``, ``Instance``.

    Raises:
        BlixardError: UNKNOWN_KIND, with the nearest name.
    """
    kind = _BY_NAME.get(text.lower())
    if kind is None:
        from blixard.cli.tree import suggestion

        raise BlixardError(
            "UNKNOWN_KIND",
            f"there is no kind {text!r}{suggestion(text.lower(), list(_BY_NAME))}",
            hint=f"kinds: {', '.join(k.plural for k in KINDS)}",
        )
    return kind


def split_reference(text: str) -> tuple[str, str]:
    """Return kind and name of ``vm/web``; without a slash the name is empty."""
    kind, _, name = text.partition("/")
    return kind, name


def named_objects(arguments: tuple[str, ...]) -> list[tuple[Kind, str]]:
    """Return what ``vm web db``, ``vm/web node/n1``, ``vm`` and ``vm,node`` mean.

    Raises:
        BlixardError: UNKNOWN_KIND, BAD_REQUEST.
    """
    if not arguments:
        raise BlixardError("BAD_REQUEST", "name a kind, such as vm, or an object, such as vm/web")
    if any("/" in a for a in arguments):
        if not all("/" in a for a in arguments):
            raise BlixardError("BAD_REQUEST", "write either KIND NAME... or KIND/NAME..., not both")
        return [(kind_named(k), name) for k, name in map(split_reference, arguments)]
    kinds = [kind_named(part) for part in arguments[0].split(",")]
    names = arguments[1:] or ("",)
    return [(kind, name) for kind in kinds for name in names]
