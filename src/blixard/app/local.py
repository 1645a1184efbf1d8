"""Commands that act on this machine: ``init``, ``node run``, ``cluster join``."""

from __future__ import annotations

import os
import stat
from typing import Any

import click
import msgspec

from blixard.base.config import Loaded
from blixard.base.config_keys import Config
from blixard.base.errors import BlixardError
from blixard.cli.node_config import load_for
from blixard.cli.session import Session
from blixard.cli.tree import command

MAX_TOKEN_BYTES = 4096


def _identity_options(function: Any) -> Any:
    for option in (
        click.option("--data-dir", metavar="DIR", help="Where the node keeps its state."),
        click.option("--roles", metavar="A,B", help="What the node does."),
        click.option(
            "--address", "node_address", metavar="HOST", help="Address that the other nodes use."
        ),
        click.option("--node-id", metavar="NAME", help="Name of this node."),
    ):
        function = option(function)
    return function


def _configured(
    session: Session,
    node_id: str | None,
    address: str | None,
    data_dir: str | None,
    roles: str | None,
) -> Config:
    """Return the configuration with the flags over it.

    Raises:
        BlixardError: INVALID, USAGE if name or address is missing.
    """
    loaded = load_for(session.flags)
    given = {
        "node_id": node_id or session.flags.environ.get("BLIXARD_NODE_ID"),
        # --address before the command and after it mean the same here: this node's.
        "address": address
        or (session.flags.text("address") if session.flags.source("address") == "flag" else None),
        "data_dir": os.path.abspath(data_dir) if data_dir else None,
    }
    cluster = msgspec.structs.replace(
        loaded.config.cluster, **{k: v for k, v in given.items() if v}
    )
    node = loaded.config.node
    if roles:
        node = msgspec.structs.replace(
            node, roles=tuple(r.strip() for r in roles.split(",") if r.strip())
        )
    for key, flag in (("node_id", "--node-id"), ("address", "--address")):
        if not getattr(cluster, key):
            raise BlixardError(
                "USAGE",
                f"{flag} is missing",
                hint=f"{flag} VALUE, or cluster.{key} in the configuration",
            )
    _say_warnings(session, loaded)
    return msgspec.structs.replace(loaded.config, cluster=cluster, node=node)


def _say_warnings(session: Session, loaded: Loaded) -> None:
    for warning in loaded.warnings:
        session.out.say(f"warning: {warning}")


@command(
    examples=(
        "blixard init --node-id node1 --address 10.0.0.1",
        "blixard init --cluster-join 10.0.0.1 --token-file t --node-id node2 --address 10.0.0.2",
    )
)
@_identity_options
@click.option(
    "--cluster-join", metavar="HOST", help="Join the cluster at this address instead of making one."
)
@click.option("--token-file", metavar="FILE", help="Join token (- is standard input).")
@click.option("--ceph-osd", hidden=True)
@click.option("--osd-weight", hidden=True)
def init(
    session: Session,
    *,
    node_id: str | None,
    node_address: str | None,
    data_dir: str | None,
    roles: str | None,
    cluster_join: str | None,
    token_file: str | None,
    ceph_osd: str | None,
    osd_weight: str | None,
) -> None:
    """Make a new cluster of this machine, or join one."""
    if ceph_osd or osd_weight:
        raise BlixardError(
            "FEATURE_ABSENT", "--ceph-osd: Ceph is set up apart from Blixard, by its own tools"
        )
    config = _configured(session, node_id, node_address, data_dir, roles)
    if cluster_join or token_file:
        _join(session, config, token_file, cluster_join)
        return
    from blixard.daemon.bootstrap import init_cluster

    init_cluster(config)
    session.out.write(f"cluster made: node {config.cluster.node_id} in {config.cluster.data_dir}")
    session.out.hint("blixard node run")


@command(
    examples=(
        "blixard cluster join --token-file node2.token --node-id node2 --address 10.0.0.2",
        "blixard cluster join --token-file - --node-id n2 --address 10.0.0.2 --data-dir /srv/n2",
    )
)
@_identity_options
@click.option(
    "--token-file",
    metavar="FILE",
    help="Join token (- is standard input); else BLIXARD_TOKEN_FILE.",
)
@click.option(
    "--server", metavar="HOST", help="Ask this node first (default: the addresses in the token)."
)
def join(
    session: Session,
    *,
    node_id: str | None,
    node_address: str | None,
    data_dir: str | None,
    roles: str | None,
    token_file: str | None,
    server: str | None,
) -> None:
    """Join this machine to a cluster with a token of cluster add-node."""
    config = _configured(session, node_id, node_address, data_dir, roles)
    _join(session, config, token_file, server)


def _join(session: Session, config: Config, token_file: str | None, server: str | None) -> None:
    path = token_file or session.flags.environ.get("BLIXARD_TOKEN_FILE")
    if not path:
        raise BlixardError(
            "USAGE",
            "a token is needed to join",
            hint="blixard cluster add-node on a member prints one; give it with --token-file",
        )
    token = read_token(session, path)
    from blixard.daemon.bootstrap import join_cluster

    join_cluster(config, token=token, server=server or "", timeout_s=session.timeout_s(60))
    session.out.write(f"joined: node {config.cluster.node_id} in {config.cluster.data_dir}")
    session.out.hint("blixard node run")


def read_token(session: Session, path: str) -> str:
    """Return the token in a file or on standard input.

    Raises:
        BlixardError: USAGE, if it cannot be read or is empty.
    """
    try:
        if path == "-":
            text = session.stdin.read(MAX_TOKEN_BYTES)
        else:
            with open(path, encoding="ascii", errors="replace") as file:
                text = file.read(MAX_TOKEN_BYTES)
                if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                    session.out.say(f"warning: {path} can be read by others; chmod 600 it")
    except OSError as error:
        raise BlixardError(
            "USAGE", f"{path} cannot be read: {error.strerror}", hint="--token-file FILE"
        ) from error
    token = "".join(text.split())
    if not token:
        raise BlixardError(
            "USAGE", f"{path} holds no token", hint="blixard cluster add-node prints one"
        )
    return token


@command(examples=("blixard node run", "blixard node run --config-file ./config.toml"))
@click.option("--data-dir", metavar="DIR", help="Where the node keeps its state.")
def run_node(session: Session, data_dir: str | None) -> int:
    """Run the daemon in the foreground until SIGTERM."""
    loaded = load_for(session.flags)
    _say_warnings(session, loaded)
    config = loaded.config
    if data_dir:
        cluster = msgspec.structs.replace(config.cluster, data_dir=os.path.abspath(data_dir))
        config = msgspec.structs.replace(config, cluster=cluster)
    from blixard.daemon.main import run_node as run

    code: int | None = run(config)
    return code or 0
