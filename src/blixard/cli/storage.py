"""``storage status`` and ``storage wait-for-rebalance``."""

from __future__ import annotations

from typing import Any

import click

from blixard.base.errors import BlixardError
from blixard.base.units import format_bytes
from blixard.cli.following import FOLLOW_S, states
from blixard.cli.kinds import AGE, NAME, Column, Kind, kind_named
from blixard.cli.output import Object, name_of
from blixard.cli.session import Session
from blixard.cli.tree import command

POOL = kind_named("storagepool")
VOLUME = kind_named("volume")


def _health(path: str) -> Any:
    def cell(pool: Object, _now_ms: int) -> str:
        value = (pool.get("status", {}).get("health") or {}).get(path)
        return "" if value is None else str(value)

    return cell


def _bytes(path: str) -> Any:
    def cell(pool: Object, _now_ms: int) -> str:
        value = (pool.get("status", {}).get("health") or {}).get(path)
        return format_bytes(value) if isinstance(value, int) else ""

    return cell


def _osds(pool: Object, _now_ms: int) -> str:
    osds = (pool.get("status", {}).get("health") or {}).get("osds") or {}
    return f"{osds.get('up')}/{osds.get('all')}" if osds else ""


COLUMNS = (
    NAME,
    Column("BACKEND", "spec.backend"),
    Column("PHASE", "status.phase"),
    Column("HEALTH", _health("state")),
    Column("OSDS", _osds),
    Column("USED", _bytes("usedBytes")),
    Column("FREE", _bytes("availableBytes")),
    AGE,
)
REBALANCING = (
    NAME,
    Column("DEGRADED", _health("degradedObjects")),
    Column("MISPLACED", _health("misplacedObjects")),
)


@command(
    examples=(
        "blixard storage status",
        "blixard storage status --show-rebalancing",
        "blixard storage status -o json",
    )
)
@click.option("--show-rebalancing", is_flag=True, help="Show objects that lack a copy or move.")
def status(session: Session, show_rebalancing: bool) -> None:
    """Show the pools: how they are, and what is used."""
    pools, _ = session.list(POOL)
    volumes, _ = session.list(VOLUME)
    value = {"pools": pools, "volumes": len(volumes)}
    session.out.show_value(value, _report(session, pools, volumes, show_rebalancing))


def _report(
    session: Session, pools: list[Object], volumes: list[Object], show_rebalancing: bool
) -> str:
    if not pools:
        return "no pools: blixard storage pool create NAME --backend local"
    lines = [session.out.table(COLUMNS, pools).rstrip()]
    for pool in pools:
        state = pool.get("status", {})
        why = state.get("message") or (state.get("health") or {}).get("reason")
        if why:
            lines.append(f"{name_of(pool)}: {why}")
        if orphans := state.get("orphans"):
            lines.append(f"{name_of(pool)}: nothing declares {', '.join(orphans[:5])}")
    if show_rebalancing:
        lines += ["", session.out.table(REBALANCING, pools).rstrip()]
    lines += ["", f"{len(volumes)} volume{'' if len(volumes) == 1 else 's'}"]
    return "\n".join(lines)


@command(examples=("blixard storage wait-for-rebalance --timeout 30m",))
@click.argument("names", nargs=-1)
def wait_for_rebalance(session: Session, names: tuple[str, ...]) -> None:
    """Wait until every object has its copies where they belong."""
    wanted = names or [name_of(pool) for pool in session.list(POOL)[0]]
    deadline = session.outside.monotonic() + session.timeout_s(FOLLOW_S)
    for name in wanted:
        _wait(session, POOL, name, deadline)
    session.out.show_value(
        {"balanced": list(wanted)}, f"balanced: {', '.join(wanted) or 'no pool'}"
    )


def _wait(session: Session, kind: Kind, name: str, deadline: float) -> None:
    last = ""
    for pool in states(session, kind, name, deadline):
        if pool is None:
            raise BlixardError("NOT_FOUND", f"{kind.lower}/{name} is not there")
        sentence = moving(pool)
        if not sentence:
            return
        if sentence != last:
            session.out.say(f"{kind.lower}/{name}: {sentence}")
            last = sentence
    raise BlixardError("TIMEOUT", f"{kind.lower}/{name}: {last}")


def moving(pool: Object) -> str:
    """Return what is still to be done in a pool; nothing: it is balanced."""
    if pool["spec"].get("backend") == "local":
        return ""
    health = pool.get("status", {}).get("health") or {}
    left = int(health.get("degradedObjects", 0)), int(health.get("misplacedObjects", 0))
    if health.get("state") == "healthy" and left == (0, 0):
        return ""
    return f"{health.get('state', 'unknown')}, {left[0]} degraded, {left[1]} misplaced objects"
