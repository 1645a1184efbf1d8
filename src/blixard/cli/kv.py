"""``kv get|put|delete|list``: small values under paths."""

from __future__ import annotations

from urllib.parse import quote

import click

from blixard.cli import paths, tables
from blixard.cli.session import Session, read_text
from blixard.cli.tree import command


def _path(key: str) -> str:
    return "/v1/kv/" + quote(key.strip("/"), safe="/")


@command(examples=("blixard kv get app/color", "blixard kv get app/color -o json"))
@click.argument("key")
def get(session: Session, key: str) -> None:
    """Print a value."""
    answer = session.read(_path(key))
    session.out.show_value(answer, paths.text(answer.get("value")))


@command(
    examples=(
        "blixard kv put app/color blue",
        "blixard kv put app/settings @settings.json",
        "blixard kv put app/color green --if-revision 17",
    )
)
@click.argument("key")
@click.argument("value", metavar="VALUE|@FILE|-")
@click.option(
    "--if-revision", type=click.IntRange(min=0), help="Only if unchanged since (0: only if absent)."
)
def put(session: Session, key: str, value: str, if_revision: int | None) -> None:
    """Set a value."""
    text = read_text(value.removeprefix("@")) if value == "-" or value[:1] == "@" else value
    body = {"value": text}
    answer = session.write("PUT", _path(key), body, expect=if_revision)
    session.out.show_value(answer, f"{key} {'would be ' if session.dry_run else ''}set")


@command(examples=("blixard kv delete app/color",))
@click.argument("key")
@click.option("--if-revision", type=click.IntRange(min=1), help="Only if unchanged since.")
def delete(session: Session, key: str, if_revision: int | None) -> None:
    """Delete a key."""
    session.write("DELETE", _path(key), expect=if_revision)
    session.out.show_value(
        {"deleted": key}, f"{key} {'would be ' if session.dry_run else ''}deleted"
    )


@command(examples=("blixard kv list", "blixard kv list app/"))
@click.argument("prefix", default="")
def list_keys(session: Session, prefix: str) -> None:
    """List keys below a prefix."""
    query = {"prefix": prefix} if prefix else {}
    answer = session.read("/v1/kv", query)
    items = answer.get("items", [])
    if session.flags.on("quiet") or session.out.format == "name":
        session.out.show_value({}, "\n".join(tables.clean(str(i["key"])) for i in items))
        return
    rows = [[str(i["key"]), paths.text(i.get("value")), str(i.get("revision", ""))] for i in items]
    text = tables.render(
        ("KEY", "VALUE", "REVISION"),
        rows,
        cells=session.out.cells(),
        heading=bool(rows) and not session.flags.on("no_headers"),
    )
    session.out.show_value(answer, text)
