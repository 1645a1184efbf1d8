"""``storage volume create|list|delete``, and the claims of ``vm create --volume``."""

from __future__ import annotations

import click

from blixard.base.errors import BlixardError
from blixard.cli.conditions import Goal
from blixard.cli.following import follow
from blixard.cli.kinds import kind_named
from blixard.cli.objects import show_objects
from blixard.cli.output import Object, name_of
from blixard.cli.session import Session
from blixard.cli.tree import command

POOL = kind_named("storagepool")
VOLUME = kind_named("volume")
DATA = "data"


@command(
    examples=(
        "blixard storage volume create app-data --pool ssd-pool --size 50GB",
        "blixard volume create app-data --pool ssd-pool --size 50GB --dry-run -o yaml",
    )
)
@click.argument("name")
@click.option("--pool", metavar="NAME", help="Pool that it lies in (the only one there is).")
@click.option("--size", metavar="SIZE", required=True, help="50GB, 1TB; a bare number is GB.")
def create(session: Session, *, name: str, pool: str | None, size: str) -> None:
    """Make a volume, and wait until the storage has it."""
    pool = pool or only_pool(session)
    body = {
        "apiVersion": "blixard.dev/v1",
        "kind": VOLUME.name,
        "metadata": {"name": name},
        "spec": {"pool": pool, "size": size},
    }
    made = session.write("PUT", session.path(VOLUME, name), body, expect=0)
    word = "would be created" if session.dry_run else "created"
    session.out.show_value(made, f"volume/{name} {word}")
    found = session.find(POOL, pool)
    if found is None:
        session.out.hint(f"there is no pool {pool} yet: blixard storage pool create {pool}")
    elif found["spec"].get("backend") == "local":
        session.out.say(f"volume/{name}: made on the node of the first VM that has it")
    else:
        follow(session, VOLUME, name, Goal("ready"))


@command(examples=("blixard storage volume list", "blixard volume list --filter pool=ssd-pool"))
def list_volumes(session: Session) -> None:
    """List volumes."""
    show_objects(session, VOLUME)


@command(examples=("blixard storage volume delete app-data",))
@click.argument("names", nargs=-1, required=True)
def delete(session: Session, names: tuple[str, ...]) -> None:
    """Delete volumes with all that is on them."""
    session.confirm(f"Delete {', '.join(names)} with all that is on them?")
    for name in names:
        session.delete(VOLUME, name)
        word = "would be deleted" if session.dry_run else "deleted"
        session.out.show_value({"deleted": f"volume/{name}"}, f"volume/{name} {word}")
        follow(session, VOLUME, name, Goal("deleted"))


def only_pool(session: Session) -> str:
    """Return the pool's name where there is just one. Raises BlixardError USAGE."""
    names = sorted(name_of(pool) for pool in session.list(POOL)[0])
    if len(names) == 1:
        return names[0]
    if not names:
        hint = "blixard storage pool create fast --backend local"
        raise BlixardError("USAGE", "there is no pool for the volume", hint=hint)
    raise BlixardError("USAGE", f"which pool: {', '.join(names)}?", hint=f"name it: {names[0]}")


def claims(
    session: Session, texts: tuple[str, ...], pool: str | None, size: str | None
) -> list[Object]:
    """Return the claims that ``--volume``, ``--storage-pool`` and ``--storage-size`` say.

    Raises:
        BlixardError: USAGE, if a text is no NAME:SIZE[@POOL], or no pool can be told.
    """
    found = [_claim(text, pool) for text in texts]
    if size:
        found.append({"name": DATA, "pool": pool or "", "size": size})
    elif pool and not found:
        found.append({"name": DATA, "pool": pool})
    if any(not claim["pool"] for claim in found):
        only = only_pool(session)
        found = [{**claim, "pool": claim["pool"] or only} for claim in found]
    return found


def _claim(text: str, pool: str | None) -> Object:
    rest, _, named = text.partition("@")
    name, _, size = rest.partition(":")
    if not name or not size:
        raise BlixardError(
            "USAGE", f"--volume {text!r} is no NAME:SIZE[@POOL]", hint="--volume data:10GB@fast"
        )
    return {"name": name, "pool": named or pool or "", "size": size}
