"""``explain error``: what a code means and what to do."""

from __future__ import annotations

import click

from blixard.base.errors import CODES, BlixardError
from blixard.cli import tables
from blixard.cli.session import Session
from blixard.cli.tree import command, suggestion


@command(examples=("blixard explain error NO_QUORUM", "blixard explain error"))
@click.argument("code", required=False)
def error(session: Session, code: str | None) -> None:
    """Explain an error code; without one, list them all."""
    if code is None:
        rows = [[name, str(info.exit_code), info.cause] for name, info in sorted(CODES.items())]
        text = tables.render(("CODE", "EXIT", "MEANING"), rows, cells=session.out.cells())
        session.out.show_value({"items": [_value(name) for name in sorted(CODES)]}, text)
        return
    name = code.upper().replace("-", "_")
    if name not in CODES:
        raise BlixardError(
            "NOT_FOUND",
            f"there is no code {name}{suggestion(name, CODES)}",
            hint="blixard explain error",
        )
    info = CODES[name]
    session.out.show_value(
        _value(name),
        f"{name}: {info.cause}\n  what to do: {info.hint}\n"
        f"  HTTP status {info.http_status}, exit code {info.exit_code}",
    )


def _value(name: str) -> dict[str, object]:
    info = CODES[name]
    return {
        "code": name,
        "cause": info.cause,
        "hint": info.hint,
        "httpStatus": info.http_status,
        "exitCode": info.exit_code,
    }
