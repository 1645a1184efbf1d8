"""The documents say nothing that is not there: commands parse and run, manifests are accepted."""

from __future__ import annotations

import pathlib
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import click
import pytest
from documents import (
    DOCUMENTS,
    ROOT,
    blocks,
    command_lines,
    links,
    make_targets,
    shown,
    transcript,
)

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "integration"))

from control_plane import ControlPlane, NodeUnderTest, control_plane

from blixard.app.main import ROOT as COMMANDS
from blixard.base.yaml import read_documents
from blixard.cli.flags import Flags
from blixard.ports.guests import GuestRecipe, GuestService

# Documents whose commands need running guests, and what must be there before the first of them.
WITH_GUESTS = {
    "README.md": "",
    "docs/getting-started/first-cluster.md": "",
    "docs/user-guide/functions.md": "",
    "docs/user-guide/logs-exec-console.md": "examples/web.yaml",
    "docs/user-guide/vms.md": "",
}
WITHOUT_GUESTS = [p for p in DOCUMENTS if transcript(p) and shown(p) not in WITH_GUESTS]
EXIT_CODES = {"diff": {0, 10}, "doctor": {0, 1}}


@pytest.mark.parametrize("path", DOCUMENTS, ids=shown)
def test_every_command_parses(path: pathlib.Path) -> None:
    for line in command_lines(path):
        given = shlex.split(line)[1:]
        context = COMMANDS.make_context("blixard", given, obj=Flags({}))
        try:
            descend(context, COMMANDS)
        except click.exceptions.NoArgsIsHelpError:
            assert len(given) == 1, line
        except click.ClickException as error:
            pytest.fail(f"{line}: {error.format_message()}")


def descend(context: click.Context, group: click.Group) -> None:
    """Parse as a run does, without running the command."""
    name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    assert command is not None
    with command.make_context(name, rest, parent=context) as inner:
        if isinstance(command, click.Group):
            descend(inner, command)


@pytest.mark.parametrize("path", DOCUMENTS, ids=shown)
def test_every_link_leads_somewhere(path: pathlib.Path) -> None:
    assert [target for target in links(path) if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=shown)
def test_every_make_target_exists(path: pathlib.Path) -> None:
    there = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(make_targets(path)) <= there


def test_every_named_file_exists() -> None:
    named = re.compile(r"`((?:src|tests|tools|bench|native|examples|proto|docs)/[\w./-]+\w)`")
    missing = [
        f"{shown(path)}: {name}"
        for path in DOCUMENTS
        for name in named.findall(path.read_text())
        if not (ROOT / name).exists()
    ]
    assert missing == []


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    crates = tomllib.loads((ROOT / "native" / "Cargo.toml").read_text())["dependencies"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"], *crates]
    names = {re.split(r"[<>=\[; ]", entry)[0] for entry in wanted}
    rows = (ROOT / "docs/developer-guide/dependencies.md").read_text()
    listed = set(re.findall(r"^\| ([\w-]+(?:, [\w-]+)*) \|", rows, re.MULTILINE))
    assert names - {name for row in listed for name in row.split(", ")} == set()


@pytest.mark.parametrize("path", [p for p in DOCUMENTS if blocks(p, "python")], ids=shown)
def test_programs_run_as_written(path: pathlib.Path) -> None:
    for block in blocks(path, "python"):
        ran = subprocess.run(
            [sys.executable, "-c", block.text], capture_output=True, text=True, check=False,
            timeout=100, cwd=ROOT,
        )  # fmt: skip
        assert ran.returncode == 0, f"{shown(path)}:{block.line}\n{ran.stderr}"


# -- against a cluster --


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with control_plane(tmp_path_factory.mktemp("docs")) as found:
        (found.root / "examples").symlink_to(ROOT / "examples")
        yield found


@pytest.fixture(scope="module")
def node(plane: ControlPlane) -> NodeUnderTest:
    return plane.nodes[0]


def follow(node: NodeUnderTest, path: pathlib.Path) -> None:
    """Run the transcript of a document, line by line."""
    lines = transcript(path)
    assert lines, f"{shown(path)} has no console block"
    for line in lines:
        given = shlex.split(line)
        if given[:2] == ["blixard", "dev"]:
            continue  # the fixture is the cluster
        assert given[0] == "blixard", line
        ran = node.cli(*given[1:], timeout_s=400)
        assert ran.code in EXIT_CODES.get(given[1], {0}), f"{line}\n{ran.out}{ran.err}"


@pytest.mark.netns
@pytest.mark.slow
@pytest.mark.parametrize("path", WITHOUT_GUESTS, ids=shown)
def test_commands_run_as_written(node: NodeUnderTest, path: pathlib.Path) -> None:
    follow(node, path)


@pytest.mark.netns
@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in DOCUMENTS if blocks(p, "yaml")], ids=shown)
def test_manifests_are_accepted(node: NodeUnderTest, path: pathlib.Path) -> None:
    for block in blocks(path, "yaml"):
        ran = node.cli("apply", "-f", "-", "--dry-run", stdin=block.text)
        assert ran.code == 0, f"{shown(path)}:{block.line}\n{ran.err}"


@pytest.mark.guest
@pytest.mark.netns
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", sorted(WITH_GUESTS))
def test_commands_with_guests_run_as_written(node: NodeUnderTest, path: str) -> None:
    for recipe in recipes():
        node.plane.build(recipe)
    before = WITH_GUESTS[path]
    if before:
        assert node.cli("apply", "-f", before).code == 0
        assert node.cli("wait", "vm/web", "--timeout", "6m", timeout_s=400).code == 0
    try:
        follow(node, ROOT / path)
    finally:
        for name in ("vm/web", "vm/hello", "image/web", "function/hello"):
            node.cli("delete", name, "--yes", "--ignore-not-found", timeout_s=120)


def recipes() -> list[GuestRecipe]:
    """Return the guests that the documents use."""
    import msgspec

    (image, *_) = read_documents((ROOT / "examples/web.yaml").read_text())
    command = ("python3", "-m", "http.server", "8000")
    hello = GuestService(name="hello", command=command)
    return [
        msgspec.convert(image.value["spec"], GuestRecipe),
        GuestRecipe(packages=("python3-minimal",), services=(hello,)),
        GuestRecipe(),  # of functions that need no packages
    ]
