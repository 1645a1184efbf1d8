"""``blixard dev``: a whole cluster on this machine, in network namespaces."""

from __future__ import annotations

import os
from typing import Any

import click

from blixard.app import dev_layout as layout
from blixard.app import dev_processes as processes
from blixard.app import dev_state
from blixard.app.dev_cluster import DevCluster
from blixard.app.dev_network import owner
from blixard.app.dev_progress import Progress
from blixard.app.dev_root import as_root, as_user, raise_signals
from blixard.base.errors import BlixardError
from blixard.cli import tables
from blixard.cli.session import Session
from blixard.cli.tree import LazyGroup, Row, command

DEFAULT_DIRECTORY = "/var/lib/blixard-dev"
_HERE = "blixard.app.dev"

dev = LazyGroup(
    "dev",
    {
        "up": Row(f"{_HERE}:up", "Start a cluster on this machine."),
        "down": Row(f"{_HERE}:down", "Remove it, and everything that it made."),
        "status": Row(f"{_HERE}:status", "Show the nodes, their processes and their state."),
        "kill": Row(f"{_HERE}:kill", "Kill a node without warning: daemon, guard and guests."),
        "start": Row(f"{_HERE}:start", "Start a killed node again."),
        "demo": Row(f"{_HERE}:demo", "Show it all: guests, two deaths, scaling, a table of times."),
    },
    text="A whole cluster on this machine: each node in its own network namespace.",
    examples=("blixard dev up --nodes 3", "blixard dev kill node2", "blixard dev down"),
)


def _directory_option(function: Any) -> Any:
    return click.option(
        "--dir",
        "directory",
        metavar="DIR",
        help=f"Where the cluster keeps its files (default: {DEFAULT_DIRECTORY}).",
    )(function)


def _directory(given: str | None, *, of_running: bool = True) -> str:
    """Return the directory: the flag, the environment, what runs here, the default."""
    named = given or os.environ.get("BLIXARD_DEV_DIR", "")
    return os.path.abspath(named or (owner() if of_running else "") or DEFAULT_DIRECTORY)


@command(examples=("blixard dev up", "blixard dev up --nodes 5 --dir /srv/dev"))
@click.option("--nodes", type=click.IntRange(1, layout.NODES_MAX), default=3, show_default=True)
@_directory_option
def up(session: Session, nodes: int, directory: str | None) -> None:
    """Start a cluster on this machine and make it the default context."""
    as_root()
    progress = Progress()
    cluster = DevCluster(_directory(directory, of_running=False), progress)
    progress.head(f"starting {nodes} nodes in {cluster.directory}")
    try:
        cluster.up(nodes)
    except BlixardError as error:
        for line in log_tails(cluster):
            progress(line)
        raise BlixardError(error.code, error.message, hint="blixard dev down") from error
    with as_user():
        path = dev_state.write_context(session.flags.environ, cluster.places)
    progress.head(f"{nodes} nodes are ready; context {layout.CONTEXT} in {path}")
    session.out.hint("blixard cluster status; blixard apply -f examples/web.yaml; blixard vm list")


@command(examples=("blixard dev down",))
@_directory_option
def down(session: Session, directory: str | None) -> None:
    """Remove the cluster: processes, namespaces, links, routes, cgroups and files."""
    as_root()
    progress = Progress()
    cluster = DevCluster(_directory(directory), progress)
    cluster.down()
    with as_user():
        dev_state.drop_context(session.flags.environ)
    progress.head(f"nothing of {cluster.directory} is left")


@command(examples=("blixard dev kill node2", "blixard dev kill node1 --daemon-only"))
@click.argument("node")
@click.option("--daemon-only", is_flag=True, help="Leave guard and guests alive.")
@_directory_option
def kill(session: Session, node: str, daemon_only: bool, directory: str | None) -> None:
    """Kill a node without warning: its daemon, its guard and its guests."""
    as_root()
    cluster = DevCluster(_directory(directory), Progress())
    died = cluster.kill(node, daemon_only=daemon_only)
    session.out.write(f"{node}: killed {died}")
    session.out.hint(f"blixard dev start {node}")


@command(examples=("blixard dev start node2",))
@click.argument("node")
@_directory_option
def start(session: Session, node: str, directory: str | None) -> None:
    """Start a killed node again and wait until it is ready."""
    as_root()
    DevCluster(_directory(directory), Progress()).start(node)
    session.out.write(f"{node} is ready")


@command(examples=("blixard dev status", "blixard dev status -o json"))
@_directory_option
def status(session: Session, directory: str | None) -> None:
    """Show the nodes, their processes and what the cluster says of them."""
    as_root()
    cluster = DevCluster(_directory(directory), Progress())
    rows = node_rows(cluster)
    headings = ("NODE", "ADDRESS", "DAEMON", "GUESTS", "STATE", "LEADER", "LOG")
    text = tables.render(headings, rows, cells=session.out.cells(), heading=True)
    keys = [heading.lower() for heading in headings]
    items = [dict(zip(keys, row, strict=True)) for row in rows]
    if not rows:
        text = f"no cluster in {cluster.directory}"
    session.out.show_value({"directory": cluster.directory, "nodes": items}, text)


def node_rows(cluster: DevCluster) -> list[list[str]]:
    """Return a row per node: what the machine sees, and what the cluster says."""
    found = cluster.cluster_state() if cluster.live() else {}
    states = {str(n["name"]): str(n["state"]) for n in found.get("nodes", [])}
    rows = []
    for place in cluster.places:
        pid = processes.daemon_pid(place)
        rows.append(
            [
                place.name,
                place.address,
                str(pid) if pid else "dead",
                str(processes.guests(place.namespace)),
                states.get(place.name, "unknown"),
                "yes" if found.get("leaderName") == place.name else "",
                place.log,
            ]
        )
    return rows


def log_tails(cluster: DevCluster, lines: int = 8) -> list[str]:
    """Return the last lines of every daemon's log."""
    found = []
    for place in layout.places(cluster.directory, layout.NODES_MAX):
        if not os.path.exists(place.log):
            continue
        with open(place.log, "rb") as file:
            file.seek(max(0, os.path.getsize(place.log) - 16_384))
            tail = file.read().decode(errors="replace").splitlines()[-lines:]
        found += [f"{place.name} | {line[:400]}" for line in tail]
    return found


@command(examples=("blixard dev demo",))
@click.option("--file", "-f", "manifest", metavar="FILE", help="Instead of examples/web.yaml.")
@_directory_option
def demo(session: Session, manifest: str | None, directory: str | None) -> int:  # noqa: ARG001
    """Show it all: guests, two deaths, scaling, a table of times; nothing is left behind."""
    as_root()
    from blixard.app.dev_demo import Demo

    raise_signals()
    progress = Progress()
    cluster = DevCluster(_directory(directory, of_running=False), progress)
    return Demo(cluster, progress, manifest).run()
