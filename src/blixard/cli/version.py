"""``version``."""

from __future__ import annotations

import click

import blixard
from blixard.base.errors import BlixardError
from blixard.cli.session import Session
from blixard.cli.tree import command


@command(examples=("blixard version", "blixard version --client", "blixard version -o json"))
@click.option("--client", is_flag=True, help="Do not ask the cluster.")
def version(session: Session, client: bool) -> None:
    """Print the version of this program and of the cluster."""
    result: dict[str, object] = {"client": blixard.__version__}
    lines = [f"client  {blixard.__version__}"]
    if not client:
        try:
            answer = session.api.request("GET", "/v1/version", timeout_s=session.timeout_s(3.0))
            result["server"] = answer
            lines.append(f"server  {answer.get('version', 'unknown')}")
        except BlixardError as error:
            if error.info.exit_code != 8:
                raise
            session.out.say(f"no cluster: {error.message}")
    session.out.show_value(result, "\n".join(lines))
