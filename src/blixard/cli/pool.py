"""``storage pool create|list|delete``."""

from __future__ import annotations

import click

from blixard.base.errors import BlixardError
from blixard.base.units import parse_size_bytes
from blixard.cli.conditions import Goal
from blixard.cli.following import follow
from blixard.cli.kinds import kind_named
from blixard.cli.objects import show_objects
from blixard.cli.output import Object
from blixard.cli.session import Session
from blixard.cli.tree import command

POOL = kind_named("storagepool")
COPIES_MAX = 10


@command(
    examples=(
        "blixard storage pool create fast --backend local",
        "blixard storage pool create ssd-pool --type replicated --size 1TB",
        "blixard storage create-pool ssd-pool --replicas 3 --size 1TB",
    )
)
@click.argument("name")
@click.option(
    "--backend",
    type=click.Choice(["ceph", "local"]),
    metavar="ceph|local",
    help="In the Ceph cluster, or in files of each node (ceph).",
)
@click.option(
    "--type",
    "pool_type",
    type=click.Choice(["replicated", "erasure", "local"]),
    metavar="replicated|local",
    help="How bytes are kept: copies in Ceph, or one on the node (replicated).",
)
@click.option(
    "--size", metavar="SIZE|N", help="What its volumes may use: 1TB; 1 to 10 alone: the copies."
)
@click.option(
    "--replicas", metavar="N", type=click.IntRange(1, COPIES_MAX), help="Copies of each byte (3)."
)
def create(
    session: Session,
    *,
    name: str,
    backend: str | None,
    pool_type: str | None,
    size: str | None,
    replicas: int | None,
) -> None:
    """Make a pool that volumes lie in, and wait until the storage has it."""
    spec = spec_of(backend, pool_type, size, replicas)
    body = {
        "apiVersion": "blixard.dev/v1",
        "kind": POOL.name,
        "metadata": {"name": name},
        "spec": spec,
    }
    made = session.write("PUT", session.path(POOL, name), body, expect=0)
    word = "would be created" if session.dry_run else "created"
    session.out.show_value(made, f"storagepool/{name} {word}")
    # Each node makes its part of a local pool when the first volume comes there.
    if spec["backend"] != "local":
        follow(session, POOL, name, Goal("ready"))


def spec_of(
    backend: str | None, pool_type: str | None, size: str | None, replicas: int | None
) -> Object:
    """Return the pool that the flags say.

    Raises:
        BlixardError: USAGE, if they contradict each other; FEATURE_ABSENT: erasure coding.
    """
    if pool_type == "erasure":
        raise BlixardError("FEATURE_ABSENT", "--type erasure: pools keep whole copies so far")
    if pool_type == "local" and backend == "ceph":
        raise BlixardError("USAGE", "--type local and --backend ceph contradict each other")
    if pool_type == "replicated" and backend == "local":
        raise BlixardError(
            "USAGE", "a local pool keeps one copy", hint="--backend local without --type"
        )
    spec: Object = {"backend": backend or ("local" if pool_type == "local" else "ceph")}
    copies = _copies(size)
    if copies and replicas:
        raise BlixardError(
            "USAGE", f"--size {size} means copies, and so does --replicas", hint="--size 1TB"
        )
    if copies or replicas:
        spec["replicas"] = copies or replicas
    if size and not copies:
        parse_size_bytes(size, bare_unit="G")
        spec["quota"] = size
    return spec


def _copies(size: str | None) -> int:
    """Return the copies that a small bare number means, as the documents write it; else 0."""
    if size is None or not size.isdigit() or not 1 <= int(size) <= COPIES_MAX:
        return 0
    return int(size)


@command(examples=("blixard storage pool list", "blixard storage pool list -o wide"))
def list_pools(session: Session) -> None:
    """List pools."""
    show_objects(session, POOL)


@command(examples=("blixard storage pool delete fast",))
@click.argument("names", nargs=-1, required=True)
def delete(session: Session, names: tuple[str, ...]) -> None:
    """Delete empty pools."""
    session.confirm(f"Delete {', '.join(names)}?")
    for name in names:
        session.delete(POOL, name)
        word = "would be deleted" if session.dry_run else "deleted"
        session.out.show_value({"deleted": f"storagepool/{name}"}, f"storagepool/{name} {word}")
        follow(session, POOL, name, Goal("deleted"))
