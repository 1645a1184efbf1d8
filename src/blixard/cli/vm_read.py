"""``vm list`` and ``vm status``."""

from __future__ import annotations

import click

from blixard.cli.kinds import INSTANCE_COLUMNS, kind_named, ready_replicas
from blixard.cli.objects import show_objects
from blixard.cli.output import Object, name_of
from blixard.cli.session import Session
from blixard.cli.tree import command

VM = kind_named("vm")
INSTANCE = kind_named("instance")
START_PHASES = ("build", "prepare", "start", "boot", "ready")
REPORT_COLUMNS = tuple(c for c in INSTANCE_COLUMNS if not c.wide)


@command(
    examples=(
        "blixard vm list",
        "blixard vm list --filter phase=Running -l app=web",
        "blixard vm list -o path=metadata.name",
        "blixard vm list --watch",
    )
)
def list_vms(session: Session) -> None:
    """List VMs."""
    show_objects(session, VM)


@command(examples=("blixard vm status web", "blixard vm status web --format json"))
@click.argument("name")
def status(session: Session, name: str) -> None:
    """Show a VM, its instances, where they run and why.

    With --format json or yaml: the VM with its instances under status.instances.
    """
    vm = session.get(VM, name)
    instances = [i for i in session.list(INSTANCE)[0] if i["spec"].get("vm") == name]
    instances.sort(key=lambda i: int(i["spec"].get("ordinal", 0)))
    whole = {**vm, "status": {**vm.get("status", {}), "instances": [_brief(i) for i in instances]}}
    session.out.show_value(whole, _report(session, vm, instances))


def _brief(instance: Object) -> Object:
    spec, state = instance["spec"], instance.get("status", {})
    return {
        "name": name_of(instance),
        "node": spec.get("nodeName") or spec.get("node", ""),
        "ip": spec.get("ip", ""),
        "phase": state.get("phase", "Pending"),
        "ready": bool(state.get("ready")),
        "reason": state.get("reason", ""),
        "restarts": state.get("restarts", 0),
        "phasesMs": state.get("phasesMs") or {},
        "placement": state.get("placement") or spec.get("placement", ""),
    }


def _report(session: Session, vm: Object, instances: list[Object]) -> str:
    state = vm.get("status", {})
    now = session.out.now_ms
    nodes = sorted({_brief(i)["node"] for i in instances} - {""})
    lines = [
        f"{name_of(vm)}: {state.get('phase', 'Pending')}, {ready_replicas(vm, now)} ready"
        + (f", on {', '.join(nodes)}" if nodes else ""),
    ]
    if state.get("message"):
        lines.append(f"  {state['message']}")
    if instances:
        used = [
            c for c in REPORT_COLUMNS if not c.optional or any(c.cell(i, now) for i in instances)
        ]
        lines += ["", session.out.table(used, instances).rstrip()]
    whys = [(name_of(i), _brief(i)["placement"]) for i in instances]
    if any(why for _, why in whys):
        lines += ["", "why there:"] + [f"  {name}: {why}" for name, why in whys if why]
    times = [(i["name"], i["phasesMs"]) for i in map(_brief, instances)]
    if any(phases for _, phases in times):
        lines += ["", "last start:"] + [f"  {n}: {_took(p)}" for n, p in times if p]
    for instance in instances:
        lines += _last_words(instance)
    return "\n".join(lines)


def _took(phases_ms: dict[str, int]) -> str:
    known = [name for name in START_PHASES if name in phases_ms]
    return ", ".join(f"{name} {phases_ms[name]} ms" for name in known)


def _last_words(instance: Object) -> list[str]:
    """Return the last console lines of an instance that failed."""
    state = instance.get("status", {})
    console = state.get("console") or []
    if state.get("ready") or not console:
        return []
    return ["", f"last console lines of {name_of(instance)}:"] + [f"  | {line}" for line in console]
