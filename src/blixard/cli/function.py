"""``function deploy|invoke|list|status|delete``."""

from __future__ import annotations

import base64
import json
from typing import Any

import click

from blixard.base.errors import BlixardError
from blixard.cli.conditions import Goal
from blixard.cli.following import follow
from blixard.cli.kinds import kind_named
from blixard.cli.objects import show_objects
from blixard.cli.output import Object, pretty_json
from blixard.cli.session import Session, read_text
from blixard.cli.tables import clean
from blixard.cli.tree import command, lacking
from blixard.cli.vm_write import pairs

FUNCTION = kind_named("function")
READY, DELETED = Goal("ready"), Goal("deleted")
INVOKE_S = 330.0  # the longest time limit of a function, and the wait for an instance
WHERE = "blixard-function-"


# Flags of the documents whose features are not there yet: named in the error, never ignored.
@command(
    examples=(
        "blixard function deploy hello --runtime python --handler hello.handler hello.py",
        "blixard function deploy thumbs thumbs.py --memory 256M --packages python3-pil",
        "blixard function deploy hello hello.py --env COLOUR=red --max-concurrent 50 --min-warm 1",
    )
)
@click.argument("name")
@click.argument("source", metavar="SOURCE.py|-", required=False)
@click.option(
    "--runtime",
    metavar="python",
    type=click.Choice(["python", "nix", "wasm", "rust", "container"]),
    help="What runs the handler (python).",
)
@click.option("--handler", metavar="FILE.FUNCTION", help="What is called (SOURCE.handler).")
@click.option(
    "--config", "nix_file", metavar="FILE.nix", help="Nix file of the function (needs Nix)."
)
@click.option("--packages", metavar="A,B", help="Debian packages that the code needs.")
@click.option("--memory", metavar="SIZE", help="Memory of an instance; a bare number is MB (128M).")
@click.option("--vcpus", metavar="N", type=click.IntRange(1, 64), help="Virtual CPUs (1).")
@click.option("--timeout", metavar="DURATION", help="Time limit of a call (30s).")
@click.option("--env", "variables", multiple=True, metavar="K=V", help="Environment variable.")
@click.option(
    "--max-instances", metavar="N", type=click.IntRange(1), help="Most microVMs in the cluster."
)
@click.option(
    "--max-concurrent",
    "--concurrent-executions",
    metavar="N",
    type=click.IntRange(1),
    help="Most calls at a time in the cluster.",
)
@click.option("--min-warm", metavar="N", type=click.IntRange(0), help="Instances kept waiting (0).")
@click.option("--idle-timeout", metavar="DURATION", help="An unused instance ends after it (60s).")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="Label of the function.")
@lacking(
    placement_strategy="placement strategies of functions",
    prefer="placement preferences of functions",
    constraint="constraint expressions",
    data_hint="data locality",
)
def deploy(session: Session, /, **options: Any) -> None:
    """Create a function, or give it new code, and wait until nodes have it ready."""
    if options["nix_file"] or options["runtime"] == "nix":
        raise BlixardError(
            "NIX_UNAVAILABLE", "the function is made with Nix, and Nix is not available here",
            hint="--runtime python with a source file",
        )  # fmt: skip
    if options["runtime"] not in (None, "python"):
        raise BlixardError(
            "FEATURE_ABSENT",
            f"--runtime {options['runtime']} is not there yet",
            hint="--runtime python",
        )
    name = options["name"]
    body = {
        "apiVersion": "blixard.dev/v1",
        "kind": "Function",
        "metadata": {"name": name, "labels": pairs(options["labels"], "--label")},
        "spec": spec_of(options),
    }
    made = session.write("PUT", session.path(FUNCTION, name), body)
    session.out.show_value(
        made, f"function/{name} {'would be deployed' if session.dry_run else 'deployed'}"
    )
    follow(session, FUNCTION, name, READY)


def spec_of(options: dict[str, Any]) -> Object:
    """Return the spec that the flags say; what was not given is left to the server's defaults.

    Raises:
        BlixardError: USAGE, if a flag cannot be understood or the source cannot be read.
    """
    place = options["source"]
    if not place:
        raise BlixardError("USAGE", "a function needs its source", hint="give a file: SOURCE.py")
    spec = {
        "source": read_text(place),
        "runtime": options["runtime"],
        "handler": options["handler"] or default_handler(place),
        "packages": [p.strip() for p in (options["packages"] or "").split(",") if p.strip()],
        "memory": options["memory"],
        "vcpus": options["vcpus"],
        "timeout": options["timeout"],
        "environment": dict(_variable(text) for text in options["variables"]),
        "maxInstances": options["max_instances"],
        "maxConcurrent": options["max_concurrent"],
        "minWarm": options["min_warm"],
        "idleTimeout": options["idle_timeout"],
    }
    return {key: value for key, value in spec.items() if value not in (None, [], {})}


def default_handler(place: str) -> str | None:
    """Return ``FILE.handler`` for a source file whose name can be imported."""
    stem = place.replace("\\", "/").rpartition("/")[2].removesuffix(".py")
    return f"{stem}.handler" if stem.isidentifier() and stem.isascii() else None


def _variable(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise BlixardError("USAGE", f"--env {text!r} is no NAME=VALUE", hint="--env COLOUR=red")
    return name, value


@command(
    examples=(
        "blixard function invoke hello",
        """blixard function invoke hello --data '{"name": "Ada"}' --logs""",
        "blixard function invoke hello --data @event.json --timeout 10s",
    )
)
@click.argument("name")
@click.option("--data", metavar="JSON|@FILE|-", help="The event ({}).")
@click.option("--logs", is_flag=True, help="Print what the handler printed, on standard error.")
def invoke(session: Session, name: str, data: str | None, *, logs: bool) -> None:
    """Call a function and print its result; a handler's error is exit code 1."""
    path = session.path(FUNCTION, name, "invoke")
    told: dict[str, str] = {}
    try:
        answer = session.api.request(
            "POST",
            path,
            body=event_of(data),
            query={"logs": "true"} if logs else {},
            timeout_s=session.timeout_s(INVOKE_S),
            once=True,
            told=told,
        )
    except BlixardError as error:
        if logs:
            say_log(session, error.details.get("log"))
        raise _with_words(error) from error
    if logs:
        say_log(session, json.loads(base64.b64decode(told.get(f"{WHERE}log", "")) or "[]"))
    session.out.show_value(answer, pretty_json(answer))
    session.out.say(where(told))


def event_of(data: str | None) -> Any:
    """Return the event that --data says. Raises BlixardError USAGE."""
    if data is None:
        return {}
    text = read_text(data.removeprefix("@")) if data == "-" or data.startswith("@") else data
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BlixardError(
            "USAGE", f"--data is no JSON: {error}", hint="""--data '{"name": "Ada"}'"""
        ) from error


def say_log(session: Session, lines: Any) -> None:
    """Print the last lines of a call's log; a guest's text cannot drive the terminal."""
    for line in lines if isinstance(lines, list) else ():
        session.out.stderr.write(f"{clean(str(line))}\n")


def where(told: dict[str, str]) -> str:
    """Return where a call ran and how long each phase of it took."""
    start = "cold start" if told.get(f"{WHERE}cold") == "true" else "warm"
    phases = told.get(f"{WHERE}phases-ms", "").replace("=", " ").replace(",", " ms,")
    return clean(f"{start} on {told.get(f'{WHERE}node', 'a node')}: {phases} ms")


def _with_words(error: BlixardError) -> BlixardError:
    """Return a handler's error with the handler's own words."""
    if error.code not in ("FUNCTION_FAILED", "FUNCTION_TIMEOUT"):
        return error
    details = error.details
    try:
        message = json.loads(str(details.get("payload")))["errorMessage"]
    except (ValueError, KeyError, TypeError):
        message = ""
    words = f"{details.get('errorType') or error.message}{': ' if message else ''}{message}"
    hint = "repeat with --logs" if not details.get("log") or error.code == "FUNCTION_FAILED" else ""
    return BlixardError(error.code, words, hint=hint, details=details)


@command(examples=("blixard function list", "blixard function list -o wide"))
def list_functions(session: Session) -> None:
    """List functions with their instances."""
    show_objects(session, FUNCTION)


@command(examples=("blixard function status hello", "blixard function status hello -o yaml"))
@click.argument("name")
def status(session: Session, name: str) -> None:
    """Show a function, its limits and its instances."""
    found = session.get(FUNCTION, name)
    session.out.show_value(found, _report(found))


def _report(found: Object) -> str:
    spec, state = found["spec"], found.get("status", {})
    ready = f"{state.get('readyNodes', 0)} of {state.get('nodes', 0)} nodes"
    lines = [f"{found['metadata']['name']}: {state.get('phase', 'Pending')}, ready on {ready}"]
    if state.get("message"):
        lines.append(f"  {state['message']}")
    counts = [f"{state.get(key, 0)} {key}" for key in ("idle", "busy", "starting")]
    size = len(spec.get("source", "").encode())
    limits = [f"{word} {spec[key]}" for key, word in _LIMITS if spec.get(key) not in (None, "", 0)]
    lines += [
        "",
        f"instances  {', '.join(counts)}; {state.get('waiting', 0)} calls wait",
        f"calls      {state.get('calls', 0)}, of them {state.get('coldStarts', 0)} cold",
        f"code       {spec.get('runtime', 'python')}, {spec.get('handler', '')}, {size} bytes",
    ]
    if limits:
        lines.append(f"limits     {', '.join(limits)}")
    return "\n".join(lines)


_LIMITS = (
    ("memory", "memory"),
    ("timeout", "timeout"),
    ("maxInstances", "instances"),
    ("maxConcurrent", "calls at a time"),
    ("minWarm", "kept warm"),
    ("idleTimeout", "idle"),
)


@command(examples=("blixard function delete hello", "blixard function delete hello thumbs --yes"))
@click.argument("names", nargs=-1, required=True)
def delete(session: Session, names: tuple[str, ...]) -> None:
    """Delete functions and end their instances."""
    session.confirm(f"Delete {', '.join(names)}?")
    for name in names:
        session.delete(FUNCTION, name)
        session.out.show_value(
            {"deleted": f"function/{name}"},
            f"function/{name} {'would be ' if session.dry_run else ''}deleted",
        )
        follow(session, FUNCTION, name, DELETED)
