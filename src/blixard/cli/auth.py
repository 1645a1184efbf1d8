"""``auth create-key|list-keys|revoke-key``: API keys."""

from __future__ import annotations

import os

import click

from blixard.base.errors import BlixardError
from blixard.cli.kinds import kind_named
from blixard.cli.objects import show_objects
from blixard.cli.output import Object
from blixard.cli.session import Session, duration_flag_s
from blixard.cli.tree import command

KEY = kind_named("apikey")


@command(
    examples=(
        "blixard auth create-key --name ci --role admin",
        "blixard auth create-key --name ci --role viewer --expires 30d --output-file ci.key",
    )
)
@click.option("--name", required=True, help="Name of the key.")
@click.option("--role", default="viewer", show_default=True, help="admin or viewer.")
@click.option("--expires", metavar="TIME", help="How long the key is valid (30d).")
@click.option(
    "--output-file", metavar="FILE", help="Write the secret there (mode 0600), not to the screen."
)
def create_key(
    session: Session, name: str, role: str, expires: str | None, output_file: str | None
) -> None:
    """Make an API key; its secret is shown once."""
    spec: Object = {"role": role}
    if expires:
        spec["expiresAtMs"] = session.out.now_ms + int(duration_flag_s("--expires", expires) * 1000)
    body = {
        "apiVersion": "blixard.dev/v1",
        "kind": "ApiKey",
        "metadata": {"name": name},
        "spec": spec,
    }
    answer = session.write("POST", session.path(KEY), body)
    secret = str(answer.get("secret", ""))
    if output_file and secret:
        write_secret(output_file, secret)
        answer = {k: v for k, v in answer.items() if k != "secret"}
        session.out.show_value(answer, f"apikey/{name} created, its secret is in {output_file}")
        return
    word = "would be created" if session.dry_run else "created; the secret is shown only now"
    session.out.say(f"apikey/{name} {word}")
    session.out.show_value(answer, secret)


def write_secret(path: str, secret: str) -> None:
    """Write a new file that only its owner reads.

    Raises:
        BlixardError: ALREADY_EXISTS; USAGE if the file cannot be made.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError as error:
        raise BlixardError(
            "ALREADY_EXISTS", f"{path} is there already", hint="choose another file"
        ) from error
    except OSError as error:
        raise BlixardError("USAGE", f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(secret + "\n")


@command(examples=("blixard auth list-keys",))
def list_keys(session: Session) -> None:
    """List API keys."""
    show_objects(session, KEY)


@command(examples=("blixard auth revoke-key ci --yes",))
@click.argument("name")
def revoke_key(session: Session, name: str) -> None:
    """Revoke an API key."""
    session.confirm(f"Revoke the key {name}?")
    session.delete(KEY, name)
    session.out.show_value(
        {"revoked": name}, f"apikey/{name} {'would be ' if session.dry_run else ''}revoked"
    )
