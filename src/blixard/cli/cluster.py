"""``cluster status|raise-level|add-node|remove-node|force-remove-node``."""

from __future__ import annotations

from typing import Any

import click

from blixard.base.errors import BlixardError
from blixard.cli.auth import write_secret
from blixard.cli.kinds import kind_named
from blixard.cli.objects import outline
from blixard.cli.output import Object, name_of
from blixard.cli.session import Session, duration_flag_s
from blixard.cli.tree import command

NODE = kind_named("node")
TOKEN = kind_named("jointoken")
CONFIG_PATH = "/v1/clusterconfigs/cluster"
OPERATION = kind_named("operation")


@command(
    examples=(
        "blixard cluster status",
        "blixard cluster status --verbose",
        "blixard cluster status -o json",
    )
)
def status(session: Session) -> int:
    """Show leader, voters, nodes and their health.

    Without a majority the asked node tells what it knew last, and the exit code is 8.
    """
    try:
        cluster, nodes, lost = _asked(session)
    except BlixardError as error:
        if error.code != "NO_QUORUM":
            raise
        cluster, nodes, lost = *_asked(session, stale=True)[:2], error
    trouble = {n["name"]: n["trouble"] for n in cluster.get("nodes", []) if n.get("trouble")}
    value = {
        **cluster,
        "nodes": nodes,
        "trouble": trouble,
        **({"noQuorum": lost.message} if lost else {}),
    }
    session.out.show_value(value, _report(session, cluster, nodes, quorum=lost is None))
    return lost.info.exit_code if lost else 0


def _asked(
    session: Session, *, stale: bool = False
) -> tuple[Object, list[Object], BlixardError | None]:
    session.flags.given.update({"stale": True} if stale else {})
    return session.read("/v1/cluster"), session.list(NODE)[0], None


def _report(session: Session, cluster: Object, nodes: list[Object], *, quorum: bool) -> str:
    ready = sum(1 for n in nodes if n.get("status", {}).get("state") == "Ready")
    lines = [_sentence(cluster, ready, len(nodes))]
    by = cluster.get("answeredBy") or "the asked node"
    if not quorum:
        lines.append(f"no quorum: a majority of the voters does not answer; {by} knew this last")
    if cluster.get("raft", {}).get("diskFull"):
        lines.append(f"disk full: the data directory of {by} has no room; it refuses writes")
    lines += [
        f"{node['name']}: {node['trouble']}"
        for node in cluster.get("nodes", [])
        if node.get("trouble")
    ]
    if nodes:
        columns = [c for c in NODE.columns if not c.wide or session.flags.on("verbose")]
        lines += ["", session.out.table(columns, nodes).rstrip()]
    if session.flags.on("verbose"):
        lines += [
            "",
            "details:",
            *outline({k: v for k, v in cluster.items() if k not in ("apiVersion", "kind")}, 1),
        ]
    return "\n".join(lines)


def _sentence(cluster: Object, ready: int, total: int) -> str:
    name = cluster.get("name") or cluster.get("clusterId") or "cluster"
    leader = cluster.get("leaderName") or cluster.get("leader")
    led = f"led by {leader}" if leader else "without a leader"
    voters = cluster.get("voters")
    count = len(voters) if isinstance(voters, list | dict) else voters
    return f"{name}: {led}, {ready} of {total} nodes ready" + (
        f", {count} voter{'s' if count != 1 else ''}" if count else ""
    )


@command(examples=("blixard cluster raise-level", "blixard cluster raise-level --dry-run"))
def raise_level(session: Session) -> None:
    """Switch on what came with a new version, once all nodes run it. There is no way back."""
    cluster = session.read("/v1/cluster")
    level = int(cluster.get("featureLevel", 1))
    known = {str(n["name"]): int(n.get("featureLevel", 1)) for n in cluster.get("nodes", [])}
    highest = min(known.values(), default=level)
    if highest <= level:
        behind = ", ".join(sorted(name for name, can in known.items() if can == highest)[:5])
        why = (
            f"{behind} can no more"
            if len(set(known.values())) > 1
            else "no node knows a higher one"
        )
        session.out.show_value(
            {"featureLevel": level}, f"the feature level stays at {level}: {why}"
        )
        return
    session.confirm(
        f"Raise the feature level from {level} to {highest}? Older versions cannot return."
    )
    config = session.read(CONFIG_PATH)
    spec = {**config["spec"], "featureLevel": highest}
    metadata = {"name": "cluster", "labels": config["metadata"].get("labels", {})}
    body = {"kind": "ClusterConfig", "metadata": metadata, "spec": spec}
    session.write("PUT", CONFIG_PATH, body)
    session.out.show_value({"featureLevel": highest}, f"the feature level is {highest}")


@command(
    examples=(
        "blixard cluster add-node --node-id node2",
        "blixard cluster add-node --node-id node4 --address 10.0.0.4 --roles hypervisor",
        "blixard cluster add-node --expires 1h --output-file node2.token",
    )
)
@click.option("--node-id", metavar="NAME", help="Only a node of this name may use the token.")
@click.option("--address", "node_address", metavar="HOST", help="Address that the node will have.")
@click.option("--roles", metavar="A,B", help="Roles of the node.")
@click.option(
    "--expires",
    metavar="TIME",
    default="24h",
    show_default=True,
    help="How long the token is valid.",
)
@click.option(
    "--output-file", metavar="FILE", help="Write the token there (mode 0600), not to the screen."
)
def add_node(
    session: Session,
    *,
    node_id: str | None,
    node_address: str | None,
    roles: str | None,
    expires: str,
    output_file: str | None,
) -> None:
    """Make a one-time token with which a node joins."""
    body: Object = {"ttlS": duration_flag_s("--expires", expires)}
    if node_id:
        body["nodeName"] = node_id
    if node_address:
        body["address"] = node_address
    if roles:
        body["roles"] = [r.strip() for r in roles.split(",") if r.strip()]
    answer = session.write("POST", session.path(TOKEN), body)
    token = str(answer.get("token", ""))
    if output_file and token:
        write_secret(output_file, token)
        answer = {k: v for k, v in answer.items() if k != "token"}
    session.out.show_value(answer, f"the token is in {output_file}" if output_file else token)
    name = node_id or "NAME"
    session.out.hint(
        f"on the new machine: blixard cluster join --token-file FILE --node-id {name} "
        f"--address {node_address or 'HOST'}"
    )


@command(
    examples=(
        "blixard cluster remove-node node4",
        "blixard cluster remove-node node4 --migrate-vms --yes",
    )
)
@click.argument("name")
@click.option("--migrate-vms", is_flag=True, help="Move its VMs away first (always done).")
@click.option("--drain-osds", is_flag=True, hidden=True)
def remove_node(
    session: Session,
    name: str,
    migrate_vms: bool,  # noqa: ARG001 - what the flag asks for is always done
    drain_osds: bool,
) -> None:
    """Move the work away from a node, then remove it."""
    _refuse_osds(drain_osds, "--drain-osds")
    session.confirm(f"Move all work away from {name} and remove it?")
    _remove(session, name, force=False)


@command(examples=("blixard cluster force-remove-node node4 --yes",))
@click.argument("name")
@click.option("--mark-osds-down", is_flag=True, hidden=True)
def force_remove_node(session: Session, name: str, mark_osds_down: bool) -> None:
    """Remove a node that is lost for good; what exists only there is lost."""
    _refuse_osds(mark_osds_down, "--mark-osds-down")
    session.confirm(f"Data that exists only on {name} is lost.", name=name)
    _remove(session, name, force=True)


def _refuse_osds(given: bool, flag: str) -> None:
    if given:
        raise BlixardError(
            "FEATURE_ABSENT", f"{flag}: Ceph's OSDs are looked after by its own tools"
        )


def _remove(session: Session, name: str, *, force: bool) -> None:
    """Create the operation that the leader carries out, and follow it."""
    node = session.get(NODE, name)
    kind = "force-remove-node" if force else "remove-node"
    body = {
        "apiVersion": "blixard.dev/v1",
        "kind": OPERATION.name,
        "metadata": {"name": f"{kind}-{name}-{session.suffix(8)}"[:80].lower()},
        "spec": {"type": kind, "target": name, "targetUid": node["metadata"]["uid"]},
    }
    made = session.write("POST", session.path(OPERATION), body)
    word = "would be removed" if session.dry_run else "is being removed"
    session.out.show_value(made, f"node/{name} {word}")
    if not session.dry_run and not session.flags.on("detach"):
        follow_operation(session, made)


def follow_operation(session: Session, operation: Object) -> None:
    """Print the operation's progress until it ends.

    Raises:
        BlixardError: INTERNAL if it failed, TIMEOUT.
    """
    from blixard.cli.following import FOLLOW_S, states

    last = ""
    deadline = session.outside.monotonic() + session.timeout_s(FOLLOW_S)
    for found in states(session, OPERATION, name_of(operation), deadline):
        state: dict[str, Any] = (found or {}).get("status", {})
        message = f"{state.get('phase', 'Pending')}: {state.get('message', '')}".rstrip(": ")
        if message != last:
            session.out.say(message)
            last = message
        if state.get("phase") == "Failed":
            raise BlixardError("CONFLICT", str(state.get("message", "the operation failed")))
        if found is None or state.get("phase") == "Succeeded":
            return
    raise BlixardError(
        "TIMEOUT", f"still running: {last}", hint=f"blixard operation show {name_of(operation)}"
    )
