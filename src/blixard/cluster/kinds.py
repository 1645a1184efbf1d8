"""The cluster's own kinds: their specs and the rules that apply enforces."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from blixard.base.errors import Problem
from blixard.cluster import moves
from blixard.cluster.fences import may_still_write
from blixard.cluster.kind import FIRST_LEVEL, NAME_PATTERN, Kind, StateView
from blixard.cluster.resources import Resource

KEY_PATTERN = r"[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*"
VALUE_BYTES_MAX = 512 * 1024
_Count = Annotated[int, Meta(ge=0)]


class _Spec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Base of the specs: camelCase in documents, unknown fields are an error."""


class NamespaceSpec(_Spec, frozen=True, kw_only=True):
    """A tenant."""

    description: Annotated[str, Meta(max_length=1000)] = ""


class Capacity(_Spec, frozen=True, kw_only=True, omit_defaults=True):
    """What a node offers: to VMs, and apart from that to functions."""

    vcpus: Annotated[int, Meta(ge=0, le=4096)] = 0
    memory_mib: _Count = 0
    function_memory_mib: _Count = 0


class NodeSpec(_Spec, frozen=True, kw_only=True):
    """A machine of the cluster; ``address`` is host:port between nodes."""

    address: str
    raft_id: Annotated[int, Meta(ge=1)]
    api_address: str = ""
    roles: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    capacity: Capacity = Capacity()
    max_vms: Annotated[int, Meta(ge=0, le=10_000)] = 100
    schedulable: bool = True


class JoinTokenSpec(_Spec, frozen=True, kw_only=True):
    """A one-time right to join; only the public key is known here."""

    public_key: str
    expires_at_ms: _Count
    node_name: str = ""
    roles: tuple[str, ...] = ()
    address: str = ""


class ClusterConfigSpec(_Spec, frozen=True, kw_only=True):
    """What holds for the whole cluster; there is one, named ``cluster``.

    ``local_users``: which nodes are believed when they pass on a request of a user of their own
    socket: ``own`` believes voters, and other nodes for what concerns their own instances.
    """

    cluster_id: str
    trust_domain: str = ""
    next_raft_id: Annotated[int, Meta(ge=1)] = 1
    voters_max: Literal[1, 3, 5, 7] = 5
    local_users: Literal["nodes", "own", "voters", "none"] = "own"
    feature_level: Annotated[int, Meta(ge=1)] = 1
    overcommit_vcpus: Annotated[float, Meta(ge=1, le=64)] = 4.0
    overcommit_memory: Annotated[float, Meta(ge=0.1, le=16)] = 1.0


class OperationSpec(_Spec, frozen=True, kw_only=True):
    """Long work that the leader carries out step by step."""

    type: Literal["remove-node", "force-remove-node"]
    target: str
    target_uid: str = ""
    options: dict[str, str] = {}


class KeyValueSpec(_Spec, frozen=True, kw_only=True):
    """One value of the path-addressed view."""

    value: Annotated[str, Meta(max_length=VALUE_BYTES_MAX)]


class ApiKeySpec(_Spec, frozen=True, kw_only=True):
    """A key's public half: its id is the name; only a hash of the whole is kept."""

    hash: str
    role: Literal["admin", "viewer"] = "viewer"
    expires_at_ms: _Count = 0
    description: str = ""


class EventSpec(_Spec, frozen=True, kw_only=True):
    """Something that happened to an object."""

    type: Literal["Normal", "Warning"] = "Normal"
    reason: str
    message: str
    about_kind: str = ""
    about_name: str = ""
    about_namespace: str = ""
    node: str = ""
    at_ms: _Count = 0


def node_rule(state: StateView, old: Resource | None, new: Resource | None) -> str:
    """Raft ids and uids are never used twice; epochs never go back; none goes that may write."""
    if new is None:
        return _may_write(state, old) if old is not None else ""
    raft_id = int(new.spec.get("raftId", 0))
    if old is None:
        if state.node_uid_used(new.metadata.uid):
            return f"the uid {new.metadata.uid} was a node's before"
        return f"raft id {raft_id} was used before" if state.raft_id_used(raft_id) else ""
    if raft_id != old.spec.get("raftId"):
        return "a node's raft id cannot change"
    if new.status.get("epoch", 0) < old.status.get("epoch", 0):
        return "a node's epoch cannot go back"
    return ""


def _may_write(state: StateView, node: Resource) -> str:
    """A node that is forgotten can no longer be fenced."""
    uid = node.metadata.uid
    left = [i for i in state.list("Instance") if i.spec.get("node") == uid]
    writes = any(may_still_write(node, instance.spec) for instance in left)
    return "the storage still takes its writes" if writes else ""


def namespace_rule(state: StateView, old: Resource | None, new: Resource | None) -> str:
    """The default namespace stays; only an empty one goes."""
    if new is not None or old is None:
        return ""
    name = old.metadata.name
    if name == "default":
        return "the namespace default cannot be deleted"
    return f"the namespace {name} is not empty" if state.namespace_used(name) else ""


def config_rule(state: StateView, old: Resource | None, new: Resource | None) -> str:
    """One configuration, never deleted; ids only grow, the level as far as all nodes can."""
    if new is None:
        return "the cluster's configuration cannot be deleted"
    if new.metadata.name != "cluster":
        return "the cluster's configuration is named cluster"
    if old is not None:
        if new.spec.get("nextRaftId", 0) < old.spec.get("nextRaftId", 0):
            return "nextRaftId cannot go back"
        if new.spec.get("clusterId") != old.spec.get("clusterId"):
            return "the cluster's id cannot change"
        return _level_step(state, level_in(old), level_in(new))
    return ""


def level_in(resource: Resource) -> int:
    """Return the feature level in a configuration, or the highest that a node's status names."""
    found = resource.status if resource.kind == "Node" else resource.spec
    return int(found.get("featureLevel", FIRST_LEVEL))


def _level_step(state: StateView, was: int, now: int) -> str:
    if now < was:
        return f"the feature level cannot go back from {was}"
    behind = sorted(n.metadata.name for n in state.list("Node") if level_in(n) < now)
    if now > was and behind:
        return f"feature level {now} is beyond the program on {', '.join(behind[:5])}"
    return ""


def token_rule(_state: StateView, old: Resource | None, new: Resource | None) -> str:
    """A token is used by one key and one name, once."""
    if old is None or new is None or not old.status.get("usedByKey"):
        return ""
    same = all(old.status.get(k) == new.status.get(k) for k in ("usedByKey", "usedByName"))
    return "" if same else "the token was used by another node"


def instance_rule(state: StateView, old: Resource | None, new: Resource | None) -> str:
    """One node, epoch and run at a time; nothing moves or goes while it may run; capacity holds."""
    if new is None:
        return _still_there(state, old, str(old.spec.get("node", ""))) if old is not None else ""
    before = old.spec if old is not None else {}
    was, now = str(before.get("node", "")), str(new.spec.get("node", ""))
    run_was, run_now = int(before.get("run", 0)), int(new.spec.get("run", 0))
    if run_now < run_was:
        return "an instance's run number cannot go back"
    if now and now != was and run_now <= run_was:
        return "a new placement needs a higher run number"
    begins = before.get("desired") == "Stopped" and new.spec.get("desired") == "Running"
    if now and begins and run_now <= run_was:
        return "a start after a stop needs a higher run number"
    if was and old is not None and (now != was or _size(before) != _size(new.spec)):
        broken = _still_there(state, old, was)
        if broken and moves.switch_problem(state, old, new):
            return broken
    broken = _guard_step(old, new) if old is not None else ""
    if broken:
        return broken
    if moves.move_of(new.spec) is not None:
        target = str(new.spec["migration"].get("target", ""))
        broken = moves.move_problem(state, old, new) or _capacity(state, old, new, target)
        if broken:
            return broken
    return _capacity(state, old, new, now) if now else ""


def _size(spec: dict[str, Any]) -> tuple[object, object]:
    return spec.get("vcpus"), spec.get("memoryMib")


def _guard_step(old: Resource, new: Resource) -> str:
    """An instance counts as fenced only if no process of it can outlive its node's lease."""
    was, now = old.spec, new.spec
    if int(now.get("guardSeq", 0)) < int(was.get("guardSeq", 0)):
        return "an instance's guardSeq cannot go back"
    if not now.get("fenced"):
        return ""
    if now.get("guard") == "keep":
        return "an instance that its guard keeps is not fenced"
    if was.get("fenced") or not was.get("node") or was.get("node") != now.get("node"):
        return ""
    told = tuple(old.status.get(key) for key in ("run", "guardSeq", "guard"))
    wanted = (was.get("run"), now.get("guardSeq"), "fence")
    return "" if told == wanted else "its guard has not said that it is armed"


def _still_there(state: StateView, old: Resource, node_uid: str) -> str:
    """A placed instance leaves a node, or takes another size, once that node said that it stopped.

    It was told to: one that ended by itself may be starting again by now. A node that is lost says
    nothing: its fenced instances have ended, the others run on for all that is known.
    """
    node = state.by_uid(node_uid)
    if node is None:
        return ""
    if node.status.get("state") == "Lost" and old.spec.get("fenced"):
        writes = may_still_write(node, old.spec)
        return f"the storage still takes writes of {node.metadata.name}" if writes else ""
    ended = old.spec.get("desired") == "Stopped" and old.status.get("phase") == "Stopped"
    stopped = ended and old.status.get("run") == old.spec.get("run")
    return "" if stopped else f"it may still run on {node.metadata.name}"


def _capacity(state: StateView, old: Resource | None, new: Resource, node_uid: str) -> str:
    """Reservations never exceed a node's capacity times overcommit."""
    vcpus, memory_mib = int(new.spec.get("vcpus", 0)), int(new.spec.get("memoryMib", 0))
    if old is not None and moves.reserves(old.spec, node_uid):
        vcpus -= int(old.spec.get("vcpus", 0))
        memory_mib -= int(old.spec.get("memoryMib", 0))
    if vcpus <= 0 and memory_mib <= 0:
        return ""
    node = state.by_uid(node_uid)
    if node is None:
        return "its node does not exist"
    config = state.get("ClusterConfig", "", "cluster")
    factors = config.spec if config is not None else {}
    capacity = node.spec.get("capacity", {})
    used_vcpus, used_mib = state.reserved(node_uid)
    most_vcpus = capacity.get("vcpus", 0) * float(factors.get("overcommitVcpus", 4.0))
    most_mib = capacity.get("memoryMib", 0) * float(factors.get("overcommitMemory", 1.0))
    if vcpus > 0 and used_vcpus + vcpus > most_vcpus:
        return f"{node.metadata.name} has no room for {vcpus} vCPUs"
    if memory_mib > 0 and used_mib + memory_mib > most_mib:
        return f"{node.metadata.name} has no room for {memory_mib} MiB"
    return ""


def validate_config(spec: ClusterConfigSpec) -> list[Problem]:
    """Return what the types cannot say."""
    if not spec.cluster_id:
        return [Problem(pointer="/spec/clusterId", message="must not be empty")]
    return []


KINDS: tuple[Kind, ...] = (
    Kind(
        name="Namespace",
        plural="namespaces",
        short=("ns",),
        namespaced=False,
        spec=NamespaceSpec,
        rule=namespace_rule,
    ),
    Kind(
        name="Node",
        plural="nodes",
        short=("no",),
        namespaced=False,
        spec=NodeSpec,
        rule=node_rule,
        internal=True,
    ),
    Kind(
        name="JoinToken",
        plural="jointokens",
        short=("token",),
        namespaced=False,
        spec=JoinTokenSpec,
        rule=token_rule,
        internal=True,
    ),
    Kind(
        name="ClusterConfig",
        plural="clusterconfigs",
        short=("cc",),
        namespaced=False,
        spec=ClusterConfigSpec,
        rule=config_rule,
        validate=validate_config,
    ),
    Kind(
        name="Operation",
        plural="operations",
        short=("op",),
        namespaced=False,
        spec=OperationSpec,
        name_pattern=r"[a-z0-9][-a-z0-9]{0,80}",
    ),
    Kind(
        name="KeyValue",
        plural="keyvalues",
        short=("kv",),
        namespaced=False,
        spec=KeyValueSpec,
        name_pattern=KEY_PATTERN,
    ),
    Kind(
        name="ApiKey",
        plural="apikeys",
        short=("key",),
        namespaced=False,
        spec=ApiKeySpec,
        name_pattern=r"[A-Za-z0-9]{1,63}",
        internal=True,
        secret_fields=("hash",),
    ),
    Kind(
        name="Event",
        plural="events",
        short=("ev",),
        namespaced=False,
        spec=EventSpec,
        name_pattern=r"[a-z0-9][-a-z0-9]{0,80}",
        internal=True,
    ),
)

__all__ = ["KEY_PATTERN", "KINDS", "NAME_PATTERN", "instance_rule"]
