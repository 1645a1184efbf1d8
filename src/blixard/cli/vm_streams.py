"""``vm logs|console|exec``."""

from __future__ import annotations

import queue
import sys
import threading
from typing import Any

import click

from blixard.base.errors import BlixardError
from blixard.cli import tables
from blixard.cli.kinds import kind_named
from blixard.cli.output import Object, name_of
from blixard.cli.session import Session
from blixard.cli.tree import command
from blixard.cli.wire import ByteStream

VM = kind_named("vm")
INSTANCE = kind_named("instance")
MAX_SOURCES = 100
TAIL_MAX = 10_000  # what a node answers at most


def instances_of(session: Session, name: str) -> list[Object]:
    """Return the instances of the VM *name*, or the one instance of that name, in order.

    Raises:
        BlixardError: NOT_FOUND.
    """
    found = session.list(INSTANCE)[0]
    exact = [i for i in found if name_of(i) == name]
    members = exact or [i for i in found if i["spec"].get("vm") == name]
    if not members:
        session.get(VM, name)
        raise BlixardError(
            "NOT_FOUND", f"vm/{name} has no instance", hint=f"blixard vm status {name}"
        )
    return sorted(members, key=lambda i: int(i["spec"].get("ordinal", 0)))


def _open(session: Session, instance: Object, what: str, query: dict[str, str]) -> ByteStream:
    return session.api.stream(session.path(INSTANCE, name_of(instance), what), query=query)


def _log_options(function: Any) -> Any:
    for option in (
        click.option(
            "--tail",
            type=click.IntRange(0, TAIL_MAX),
            default=100,
            show_default=True,
            help="Begin with the last N lines.",
        ),
        click.option("--follow", "-f", is_flag=True, help="Go on printing new lines."),
    ):
        function = option(function)
    return function


@command(
    examples=(
        "blixard vm logs web --tail 100",
        "blixard vm logs web --follow",
        "blixard vm logs web-2 --filter ERROR",
    )
)
@click.argument("name")
@_log_options
def logs(session: Session, name: str, follow: bool, tail: int) -> None:
    """Print or follow the logs of a VM's instances; several get their name before each line.

    --filter TEXT keeps lines that hold the text.
    """
    print_logs(session, name, follow=follow, tail=tail)


@command(examples=("blixard logs --vm web --aggregate --filter ERROR", "blixard logs web --follow"))
@click.argument("name", required=False)
@click.option("--vm", "vm_name", metavar="NAME", help="The VM.")
@click.option("--aggregate", is_flag=True, help="Merge the logs of all instances (always done).")
@_log_options
def logs_of_vm(
    session: Session,
    *,
    name: str | None,
    vm_name: str | None,
    aggregate: bool,  # noqa: ARG001 - what the flag asks for is always done
    follow: bool,
    tail: int,
) -> None:
    """Print or follow the logs of a VM's instances."""
    wanted = vm_name or name
    if not wanted:
        raise BlixardError("USAGE", "name the VM", hint="blixard logs NAME")
    print_logs(session, wanted, follow=follow, tail=tail)


def print_logs(session: Session, name: str, *, follow: bool, tail: int) -> None:
    """Print the log lines of all instances of a VM, or of one instance."""
    members = instances_of(session, name)[:MAX_SOURCES]
    several = len(members) > 1
    cells = max(len(name_of(m)) for m in members)
    query = {"tail": str(tail), "follow": "true" if follow else "false"}
    lines: queue.Queue[tuple[str, str] | BaseException | None] = queue.Queue(maxsize=1000)
    for member in members:
        stream = _open(session, member, "logs", query)
        threading.Thread(
            target=_collect, args=(stream, name_of(member), lines), daemon=True
        ).start()
    ended = 0
    while ended < len(members):
        line = lines.get()
        if isinstance(line, BaseException):
            raise line
        if line is None:
            ended += 1
            continue
        source, text = line
        if all(wanted in text for wanted in session.flags.filters):
            prefix = f"{source:<{cells}} | " if several else ""
            session.out.write(prefix + tables.clean(text))
            session.out.stdout.flush()


def _collect(
    stream: ByteStream, source: str, lines: queue.Queue[tuple[str, str] | BaseException | None]
) -> None:
    """Read one instance's log frames and hand its lines to the printer; None at the end."""
    rest = b""
    try:
        for frame in iter(stream.receive, None):
            # A frame without a line end is a whole line.
            *whole, rest = (rest + (frame if b"\n" in frame else frame + b"\n")).split(b"\n")
            for line in whole:
                lines.put((source, line.decode("utf-8", "replace")))
        if rest:
            lines.put((source, rest.decode("utf-8", "replace")))
        lines.put(None)
    except BaseException as error:
        # Handed to the main thread, which raises it.
        lines.put(error)


@command(examples=("blixard vm console web-1", "blixard vm console web"))
@click.argument("name")
def console(session: Session, name: str) -> int:
    """Join the serial console of an instance; Ctrl-] leaves it."""
    from blixard.cli.terminal import Join

    instance = instances_of(session, name)[0]
    interactive = sys.stdin.isatty()
    if interactive:
        session.out.say(f"console of {name_of(instance)}: Ctrl-] leaves")
    stream = _open(session, instance, "console", {})
    code = Join(stream, console=True).run(stdin=sys.stdin.fileno(), interactive=interactive)
    if interactive:
        session.out.say("\r\nleft the console")
    return code


@command(
    passthrough=True,
    examples=(
        "blixard vm exec web-1 -- nginx -t",
        "blixard vm exec web sh",
        "blixard vm exec --stdin web-1 -- tee /tmp/file",
    ),
)
@click.option(
    "--stdin",
    "-i",
    "with_stdin",
    is_flag=True,
    help="Pass standard input on (a terminal always is).",
)
@click.option(
    "--tty/--no-tty",
    "-t/-T",
    default=None,
    help="Give the command a terminal (default: if there is one).",
)
@click.argument("name")
@click.argument(
    "arguments", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND [ARG...]"
)
def exec_(
    session: Session, name: str, arguments: tuple[str, ...], with_stdin: bool, tty: bool | None
) -> int:
    """Run a command inside an instance and leave with its exit code."""
    from blixard.cli.terminal import Join

    words = list(arguments[1:] if arguments[:1] == ("--",) else arguments)
    if not words:
        raise BlixardError("USAGE", "name the command", hint="blixard vm exec NAME -- COMMAND")
    members = instances_of(session, name)
    instance = next((m for m in members if m.get("status", {}).get("ready")), members[0])
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    wants_tty = terminal if tty is None else tty
    import json

    query = {"command": json.dumps(words), "tty": "true" if wants_tty else "false"}
    stream = _open(session, instance, "exec", query)
    stdin = sys.stdin.fileno() if with_stdin or terminal else None
    if stdin is None:
        stream.end()
    return Join(stream, console=False).run(stdin=stdin, interactive=wants_tty and terminal)
