"""``config explain``: every setting and where it comes from."""

from __future__ import annotations

from typing import Any

import click

from blixard.base.config import Loaded, key_of, key_paths, value_at
from blixard.base.errors import BlixardError
from blixard.cli import flags as global_flags
from blixard.cli import paths, tables
from blixard.cli.node_config import load_for
from blixard.cli.output import Object
from blixard.cli.session import Session
from blixard.cli.tree import command, suggestion

FLAGS_SHOWN = ("address", "context", "namespace", "format", "timeout", "key_file", "config_file")


@command(
    examples=(
        "blixard config explain",
        "blixard config explain consensus",
        "blixard config explain cluster.data_dir --config-file ./config.toml",
    )
)
@click.argument("key", required=False)
def explain(session: Session, key: str | None) -> None:
    """Show every setting, its value, and where it comes from."""
    loaded = load_for(session.flags)
    rows = [_row(loaded, path) for path in key_paths(loaded.config)]
    if key:
        wanted = [r for r in rows if r["key"] == key or r["key"].startswith(f"{key}.")]
        if not wanted:
            names = [str(r["key"]) for r in rows]
            raise BlixardError(
                "NOT_FOUND",
                f"there is no key {key!r}{suggestion(key, names)}",
                hint="blixard config explain",
            )
        rows = wanted
    else:
        rows += [_flag_row(session, name) for name in FLAGS_SHOWN]
    for warning in loaded.warnings:
        session.out.say(f"warning: {warning}")
    session.out.show_value(
        {"items": rows, "warnings": list(loaded.warnings)}, _table(session, rows)
    )


def _row(loaded: Loaded, path: str) -> Object:
    row = key_of(path)
    assert row is not None
    origin = loaded.origins.get(path)
    return {
        "key": path,
        "value": _plain(value_at(loaded.config, path)),
        "source": str(origin) if origin is not None else "default",
        "variable": "" if "*" in row.path else row.variable,
        "meaning": row.text,
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _flag_row(session: Session, name: str) -> Object:
    spelling = f"--{name.replace('_', '-')}"
    return {
        "key": spelling,
        "value": session.flags.text(name),
        "source": {"flag": spelling, "environment": global_flags.variable(name)}.get(
            session.flags.source(name), "default"
        ),
        "variable": global_flags.variable(name),
        "meaning": "global flag",
    }


def _table(session: Session, rows: list[Object]) -> str:
    cells = [
        [str(r["key"]), paths.text(r["value"]), str(r["source"]), str(r["meaning"])] for r in rows
    ]
    return tables.render(
        ("KEY", "VALUE", "SOURCE", "MEANING"),
        cells,
        cells=session.out.cells(),
        heading=not session.flags.on("no_headers"),
    )
