"""``doctor``: what is wrong, here and with the cluster, and what to do."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click
import msgspec

from blixard.base.errors import BlixardError
from blixard.cli.node_config import load_for
from blixard.cli.session import Session
from blixard.cli.tree import command

if TYPE_CHECKING:
    from blixard.daemon.doctor import Row

_ASK_S = 5.0


@command(
    examples=("blixard doctor", "blixard doctor --data-dir /srv/node1", "blixard doctor -o json")
)
@click.option("--data-dir", metavar="DIR", help="Where the node of this machine keeps its state.")
def doctor(session: Session, *, data_dir: str | None) -> int:
    """Check this node and its cluster: disk, Ceph, clocks, quorum, certificate, state.

    Works with the daemon down, too. Exit code 1 if any row says fail.
    """
    from blixard.daemon.doctor import local_rows
    from blixard.daemon.storage import storage_rows

    session.out.say("measuring the disk and asking the cluster ...")
    rows = [
        *local_rows(_data_dir(session, data_dir)),
        *storage_rows(load_for(session.flags).config),
        *_cluster(session),
    ]
    shown = [(row.check, row.state, row.found, row.hint) for row in rows]
    widths = [max(len(cells[i]) for cells in shown) for i in (0, 1)]
    lines = [f"{'CHECK':{widths[0]}}  {'STATE':5}  FOUND"]
    for check, state, found, hint in shown:
        lines.append(f"{check:{widths[0]}}  {state:5}  {found}")
        if hint:
            lines.append(f"{'':{widths[0]}}         -> {hint}")
    failed = any(row.state == "fail" for row in rows)
    value = {"ok": not failed, "checks": [msgspec.to_builtins(row) for row in rows]}
    session.out.show_value(value, "\n".join(lines))
    return 1 if failed else 0


def _data_dir(session: Session, given: str | None) -> str:
    """Return the directory given, else that of the socket that is asked, else the configured."""
    address = session.flags.text("address") or ""
    if not given and address.startswith("/"):
        return os.path.dirname(address)
    return os.path.abspath(given or load_for(session.flags).config.cluster.data_dir)


def _cluster(session: Session) -> list[Row]:
    import blixard
    from blixard.daemon.doctor import cluster_rows, unanswered

    wait_s = session.timeout_s(_ASK_S)
    try:
        version = session.api.request("GET", "/v1/version", timeout_s=wait_s)
        status = session.api.request(
            "GET", "/v1/cluster", query={"stale": "true"}, timeout_s=wait_s
        )
    except BlixardError as error:
        return [unanswered(error)]
    return cluster_rows(status, (blixard.__version__, str(version.get("version", ""))))
