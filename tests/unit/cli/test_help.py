"""Golden output at 80 and 120 columns, and the promises that every help makes.

Set BLIXARD_GOLDEN=write to write the golden files anew.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from blixard.app.main import NOUN_ALIASES, ROOT, VERB_ALIASES
from blixard.cli.tree import BlixardCommand, LazyGroup, Row

GOLDEN = Path(__file__).parents[2] / "golden" / "cli"
# Commands of other packages, which test their own help.
FOREIGN = ("blixard.app.dev", "blixard.app.sim")


def commands(
    group: LazyGroup = ROOT, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, row in group.rows.items():
        here = (*path, name)
        if isinstance(row, LazyGroup):
            yield here, row
            yield from commands(row, here)
        elif not row.target.startswith(FOREIGN) and name != "__complete":
            loaded = group.get_command(click.Context(group), name)
            assert loaded is not None
            yield here, loaded


ALL = list(commands())
VERBS = [(path, found) for path, found in ALL if isinstance(found, BlixardCommand)]


def check_golden(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("BLIXARD_GOLDEN") == "write":
        path.write_text(text)
    assert path.read_text() == text, f"{path.name} differs; look at it, then BLIXARD_GOLDEN=write"


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("path", [(), *(path for path, _ in ALL)], ids="-".join)
def test_help_is_as_written_down(cli, monkeypatch, path, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    ran = cli(*path, "--help")
    assert ran.code == 0
    assert max(len(line) for line in ran.out.splitlines()) <= columns
    check_golden(f"help-{'-'.join(path) or 'blixard'}-{columns}", ran.out)


@pytest.mark.parametrize("columns", ["80", "120", "pipe"])
@pytest.mark.parametrize(
    "words",
    [
        "vm list",
        "vm list -o wide",
        "get nodes",
        "get instances",
        "get instances -o wide",
        "image list",
        "function list",
        "function list -o wide",
        "function status hello",
        "events",
        "vm status web",
        "describe vm web",
        "cluster status",
        "vm status web -o yaml",
    ],
)
def test_tables_are_as_written_down(cli, words, columns):
    width = {} if columns == "pipe" else {"COLUMNS": columns}
    ran = cli(*words.split(), **width)
    assert ran.code == 0
    check_golden(f"{words.replace(' -o ', '-').replace(' ', '-')}-{columns}", ran.out)


@pytest.mark.parametrize(("path", "found"), VERBS, ids=["-".join(p) for p, _ in VERBS])
def test_every_example_parses(path, found):
    assert found.examples
    for example in found.examples:
        line = example.partition(" > ")[0].partition(" && ")[0]
        words = shlex.split(line)
        assert words[0] == "blixard"
        ctx = ROOT.make_context("blixard", words[1:], obj=_flags())
        _descend(ctx, ROOT)


def _flags():
    from blixard.cli.flags import Flags

    return Flags({})


def _descend(ctx: click.Context, group: click.Group) -> None:
    """Parse like an invocation does, without running the command."""
    words = [*ctx._protected_args, *ctx.args]
    name, command, rest = group.resolve_command(ctx, words)
    assert command is not None
    with command.make_context(name, rest, parent=ctx) as inner:
        if isinstance(command, click.Group):
            _descend(inner, command)


def test_every_group_example_names_a_command():
    for _, found in [((), ROOT), *ALL]:
        for example in getattr(found, "examples", ()):
            noun = example.split()[1]
            assert noun in ROOT.rows or noun.startswith("-")


def test_every_alias_leads_to_a_command():
    assert set(NOUN_ALIASES.values()) <= set(ROOT.rows)
    for noun, aliases in VERB_ALIASES.items():
        group = ROOT.rows[noun]
        assert isinstance(group, LazyGroup)
        assert set(aliases.values()) <= set(group.rows)
        assert not set(aliases) & set(group.rows)


def test_every_section_lists_every_visible_command():
    listed = [name for names in ROOT.sections.values() for name in names]
    assert sorted(listed) == sorted(ROOT.list_commands(click.Context(ROOT)))


@pytest.mark.parametrize(("path", "found"), VERBS, ids=["-".join(p) for p, _ in VERBS])
def test_table_line_is_the_first_sentence(path, found):
    row: object = ROOT
    for name in path:
        row = row.rows[name] if isinstance(row, LazyGroup) else row
    assert isinstance(row, Row)
    assert found.help


def test_exit_codes_stand_in_every_help(cli):
    assert "10 differences found" in cli("vm", "list", "-h").out


@pytest.mark.parametrize(
    "line",
    [
        "vm create webapp --config webapp.nix --replicas 3 --storage-pool ssd-pool --network web-vlan",
        "vm create nginx --microvm-config nginx.nix --replicas 3 --storage-class ssd",
        "vm create postgres --config p.nix --storage-class replicated --storage-size 100G --primary-election-policy oldest-first",
        "vm create database --config p.nix --type long-lived --constraint storage=nvme --anti-affinity-group webapp --storage-locality required",
        "function deploy api-handler --runtime rust --memory 128MB",
        "function create image-processor --config f.nix --memory 128M --timeout 30s --concurrent-executions 100",
        "function create ml --config f.nix --placement-strategy best-fit,data-locality --prefer gpu=available --constraint gpu.memory>=8GB --data-hint ceph-pool:raw-data --max-concurrent 50",
        "function list",
        "function invoke image-processor --data {}",
        "vm start webapp",
        "vm status nginx --format json",
        "vm scale webapp --replicas 5",
        "vm logs nginx --follow --tail 100",
        "cluster status --verbose",
        "cluster join --node-id node4 --address 10.0.0.4",
        "cluster add-node --node-id node4 --address 10.0.0.4 --roles hypervisor,ceph-osd",
        "init --cluster-join cluster.example.com --node-id node4 --ceph-osd /dev/nvme0n1 --osd-weight 1.0",
        "cluster remove-node node4 --migrate-vms --drain-osds",
        "cluster force-remove-node node4 --mark-osds-down",
        "apply -f platform.yaml",
        "auth create-key --name ci-cd --role service-operator",
        "auth list-keys",
        "auth revoke-key ci-cd",
        "logs --vm webapp --aggregate --filter ERROR",
    ],
)
def test_documented_spellings_parse(line):
    _descend(ROOT.make_context("blixard", line.split(), obj=_flags()), ROOT)
