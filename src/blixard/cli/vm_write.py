"""``vm create|start|stop|restart|scale|delete``."""

from __future__ import annotations

import shlex
from typing import Any

import click

from blixard.base.errors import BlixardError
from blixard.cli.conditions import Goal
from blixard.cli.following import FOLLOW_S, follow, states
from blixard.cli.kinds import kind_named
from blixard.cli.output import Object, name_of
from blixard.cli.session import Session
from blixard.cli.tree import command, lacking
from blixard.cli.volume import claims

VM = kind_named("vm")
INSTANCE = kind_named("instance")
READY, STOPPED, DELETED = Goal("ready"), Goal("stopped"), Goal("deleted")


# Flags of the documents whose features are not there yet: named in the error, never ignored.
@command(
    examples=(
        "blixard vm create web --packages nginx --replicas 3 --ready-http 80/",
        "blixard vm create web --image web --memory 512MiB --vcpus 2",
        "blixard vm create db --image db --volume data:10GB@fast",
        "blixard vm create job --packages python3-minimal --service 'job=python3 -m http.server'",
        "blixard vm create web --image web --dry-run -o yaml",
    )
)
@click.argument("name")
@click.option("--image", help="Image to run.")
@click.option("--packages", metavar="A,B", help="Debian packages to build the guest of.")
@click.option(
    "--service", "services", multiple=True, metavar="NAME=COMMAND", help="Run this in the guest."
)
@click.option(
    "--config",
    "--microvm-config",
    "nix_file",
    metavar="FILE.nix",
    help="Nix file of the guest (needs Nix).",
)
@click.option(
    "--replicas", metavar="N", type=click.IntRange(0, 1000), help="Number of instances (1)."
)
@click.option(
    "--memory",
    metavar="SIZE",
    help="Memory of an instance: 512MiB, 2G; a bare number is MB (256MiB).",
)
@click.option(
    "--vcpus", metavar="N", type=click.IntRange(1, 64), help="Virtual CPUs of an instance (1)."
)
@click.option("--network", metavar="NAME", help="Network to join, or none (default).")
@click.option(
    "--restart-policy",
    metavar="POLICY",
    type=click.Choice(["Always", "OnFailure", "Never"], case_sensitive=False),
    help="Run ended instances again: Always, OnFailure or Never (Always).",
)
@click.option(
    "--on-partition",
    metavar="keep|fence",
    type=click.Choice(["keep", "fence"]),
    help="What instances cut off from the cluster do.",
)
@click.option(
    "--anti-affinity-group", metavar="GROUP", help="Members of a group never share a node."
)
@click.option(
    "--node-selector", multiple=True, metavar="K=V", help="Run only on nodes with this label."
)
@click.option("--ready-http", metavar="PORT[/PATH]", help="Ready once this answers below 400.")
@click.option(
    "--ready-tcp",
    metavar="PORT",
    type=click.IntRange(1, 65535),
    help="Ready once this port accepts.",
)
@click.option(
    "--volume",
    "volumes",
    multiple=True,
    metavar="NAME:SIZE[@POOL]",
    help="A disk of each instance that outlives it.",
)
@click.option("--storage-pool", metavar="NAME", help="Pool of the volumes that name none.")
@click.option("--storage-size", metavar="SIZE", help="The same as --volume data:SIZE.")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="Label of the VM.")
@click.option("--stopped", is_flag=True, help="Create without starting.")
@click.option(
    "--type", "vm_type", metavar="long-lived", type=click.Choice(["long-lived"]), help="Kind of VM."
)
@lacking(
    storage_class="storage classes",
    storage_locality="placement near the data",
    primary_election_policy="primary election",
    constraint="constraint expressions",
)
def create(session: Session, /, **options: Any) -> None:
    """Create a VM from an image or a package list and wait until it is ready."""
    if options["nix_file"]:
        raise BlixardError(
            "NIX_UNAVAILABLE", f"{options['nix_file']} is a Nix file, and Nix is not available here"
        )
    if not (options["image"] or options["packages"] or options["services"]):
        raise BlixardError(
            "USAGE", "a VM needs an image or packages", hint="--packages nginx, or --image NAME"
        )
    name = options["name"]
    body = {
        "apiVersion": "blixard.dev/v1",
        "kind": "VM",
        "metadata": {"name": name, "labels": pairs(options["labels"], "--label")},
        "spec": {**spec_of(options), **_volumes(session, options)},
    }
    made = session.write("PUT", session.path(VM, name), body, expect=0)
    session.out.show_value(
        made, f"vm/{name} {'would be created' if session.dry_run else 'created'}"
    )
    follow(session, VM, name, STOPPED if options["stopped"] else READY)


def _volumes(session: Session, options: dict[str, Any]) -> Object:
    given = options["volumes"], options["storage_pool"], options["storage_size"]
    found = claims(session, *given) if any(given) else []
    return {"volumes": found} if found else {}


def spec_of(options: dict[str, Any]) -> Object:
    """Return the VM spec that the flags say; flags not given are left to the server's defaults.

    Raises:
        BlixardError: USAGE, if a flag cannot be understood.
    """
    spec: Object = {
        "type": options["vm_type"],
        "image": options["image"],
        "recipe": recipe_of(options["packages"], options["services"]),
        "replicas": options["replicas"],
        "memory": options["memory"],
        "vcpus": options["vcpus"],
        "network": options["network"],
        "restartPolicy": options["restart_policy"],
        "onPartition": options["on_partition"],
        "readiness": _readiness(options),
        "running": False if options["stopped"] else None,
        "placement": _without_nothing(
            {
                "nodeSelector": pairs(options["node_selector"], "--node-selector"),
                "antiAffinityGroup": options["anti_affinity_group"],
            }
        ),
    }
    return _without_nothing(spec)


def _without_nothing(values: Object) -> Object:
    return {key: value for key, value in values.items() if value is not None and value != {}}


def recipe_of(packages: str | None, services: tuple[str, ...]) -> Object:
    """Return the recipe that --packages and --service say; empty if neither was given."""
    named = [p.strip() for p in (packages or "").split(",") if p.strip()]
    commands = [
        {"name": name, "command": _words(name, text)}
        for name, text in pairs(services, "--service").items()
    ]
    return {key: value for key, value in (("packages", named), ("services", commands)) if value}


def _words(name: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        message = f"--service {name}: {error} in {text!r}"
        raise BlixardError("USAGE", message, hint="quote as in a shell") from error


def _readiness(options: dict[str, Any]) -> Object:
    readiness: Object = {}
    if options["ready_tcp"]:
        readiness["tcp"] = {"port": options["ready_tcp"]}
    if options["ready_http"]:
        port, _, path = options["ready_http"].partition("/")
        if not port.isdigit():
            raise BlixardError(
                "USAGE",
                f"--ready-http {options['ready_http']!r} has no port",
                hint="--ready-http 80/health",
            )
        readiness["http"] = {"port": int(port), "path": f"/{path}"}
    return readiness


def pairs(texts: tuple[str, ...], flag: str) -> dict[str, str]:
    """Return ``{k: v}`` of ``k=v`` texts; a comma joins several labels.

    Raises:
        BlixardError: USAGE, naming the flag.
    """
    found = {}
    for text in texts:
        for part in [text] if flag == "--service" else text.split(","):
            key, sign, value = part.partition("=")
            if not sign or not key:
                raise BlixardError("USAGE", f"{flag} {part!r} is no key=value")
            found[key.strip()] = value
    return found


@command(examples=("blixard vm start web", "blixard vm start web db --detach"))
@click.argument("names", nargs=-1, required=True)
def start(session: Session, names: tuple[str, ...]) -> None:
    """Start stopped VMs."""
    _change(session, names, {"running": True}, "started", READY)


@command(examples=("blixard vm stop web",))
@click.argument("names", nargs=-1, required=True)
def stop(session: Session, names: tuple[str, ...]) -> None:
    """Stop VMs and keep them."""
    _change(session, names, {"running": False}, "stopped", STOPPED)


def _change(session: Session, names: tuple[str, ...], patch: Object, word: str, goal: Goal) -> None:
    for name in names:
        old, new = session.edit(VM, name, lambda spec: {**spec, **patch})
        same = old is new
        session.out.show_value(new, f"vm/{name} {'was ' + word + ' already' if same else word}")
        follow(session, VM, name, goal)


@command(examples=("blixard vm restart web",))
@click.argument("names", nargs=-1, required=True)
def restart(session: Session, names: tuple[str, ...]) -> None:
    """Restart the instances of VMs."""
    for name in names:
        before = _runs(session, name)
        _, new = session.edit(VM, name, _once_more)
        session.out.show_value(new, f"vm/{name} restarting")
        if not session.flags.on("detach") and not session.dry_run:
            _follow_restart(session, name, before)


def _runs(session: Session, name: str) -> dict[str, tuple[Any, ...]]:
    """Return what tells one run of each instance from the next."""
    return {
        name_of(i): (i["spec"].get("run"), *(i["status"].get(k) for k in ("pid", "startedAtMs")))
        for i in session.list(INSTANCE)[0]
        if i["spec"].get("vm") == name
    }


def _follow_restart(session: Session, name: str, before: dict[str, tuple[Any, ...]]) -> None:
    """Wait until every instance runs anew, then until all are ready."""
    deadline = session.outside.monotonic() + session.timeout_s(FOLLOW_S)
    for _ in states(session, VM, name, deadline):
        now = _runs(session, name)
        if all(now.get(instance) != run for instance, run in before.items()):
            break
    follow(session, VM, name, READY)


def _once_more(spec: Object) -> Object:
    return {**spec, "restartGeneration": int(spec.get("restartGeneration", 0)) + 1}


@command(examples=("blixard vm scale web --replicas 5", "blixard vm scale web --replicas 1 --yes"))
@click.argument("name")
@click.option(
    "--replicas",
    metavar="N",
    type=click.IntRange(0, 1000),
    required=True,
    help="Number of instances.",
)
def scale(session: Session, name: str, replicas: int) -> None:
    """Change the number of replicas and wait until they are ready."""
    now = int(session.get(VM, name)["spec"].get("replicas", 1))
    if replicas * 2 < now:
        session.confirm(f"This deletes {now - replicas} of {now} instances of {name}.", name=name)
    _, new = session.edit(VM, name, lambda spec: {**spec, "replicas": replicas})
    session.out.show_value(new, f"vm/{name} scaled from {now} to {replicas}")
    follow(session, VM, name, READY)


@command(examples=("blixard vm delete web", "blixard vm delete web db --yes"))
@click.argument("names", nargs=-1, required=True)
def delete(session: Session, names: tuple[str, ...]) -> None:
    """Delete VMs and their instances."""
    session.confirm(f"Delete {', '.join(names)} and all instances?")
    for name in names:
        session.delete(VM, name)
        session.out.show_value(
            {"deleted": f"vm/{name}"}, f"vm/{name} {'would be ' if session.dry_run else ''}deleted"
        )
        follow(session, VM, name, DELETED)
