"""What a cluster on one machine remembers in its directory, and what it leaves outside of it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import time
from collections.abc import Iterator, Mapping

import msgspec

from blixard.app import dev_layout as layout
from blixard.app.dev_layout import Place
from blixard.base.errors import BlixardError
from blixard.base.priority import GROUP
from blixard.cli.contexts import _replace, _text
from blixard.cli.contexts_file import contexts_path

STATE = "dev.json"
LOCK = "/run/blixard-dev.lock"
CGROUPS = pathlib.Path("/sys/fs/cgroup")
HIERARCHIES = ("memory", "pids", "cpu", "unified")
CGROUPS_S = 2.0


class State(msgspec.Struct, kw_only=True):
    """*forwarded*: the machine forwarded packets before; *complete*: all nodes have joined."""

    nodes: int
    forwarded: bool
    complete: bool = False


def read(directory: str) -> State | None:
    """Return the state; None if there is no cluster."""
    try:
        data = pathlib.Path(directory, STATE).read_bytes()
        return msgspec.json.decode(data, type=State)
    except (FileNotFoundError, NotADirectoryError, msgspec.MsgspecError):
        return None


def write(directory: str, state: State) -> None:
    """Keep the state; a reader sees the old one or the new one."""
    target = pathlib.Path(directory, STATE)
    temporary = target.with_suffix(".new")
    temporary.write_bytes(msgspec.json.encode(state))
    temporary.rename(target)


def make_directories(nodes: list[Place], directory: str) -> None:
    """Make the directories; hypervisors run as users of their own and must get through them."""
    pathlib.Path(directory).mkdir(parents=True, exist_ok=True)
    for path in (directory, *(p.root for p in nodes), *(p.data for p in nodes)):
        pathlib.Path(path).mkdir(exist_ok=True)
        os.chmod(path, 0o711)  # noqa: S103 - passable, not readable


def remove_directories(directory: str) -> None:
    """Remove what was made in the directory, and the directory if nothing else is in it."""
    for place in layout.places(directory, layout.NODES_MAX):
        shutil.rmtree(place.root, ignore_errors=True)
    for name in (STATE, "dev.new"):
        pathlib.Path(directory, name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        os.rmdir(directory)


def guard_names(directory: str) -> list[str]:
    """Return the names under which the nodes' guards have made cgroups."""
    names = []
    for place in layout.places(directory, layout.NODES_MAX):
        with contextlib.suppress(OSError, ValueError, KeyError):
            stored = json.loads(pathlib.Path(place.data, "identity.json").read_bytes())
            names.append(str(stored["node"]["uid"])[-10:].lower())
    return names


def remove_cgroups(names: list[str]) -> None:
    """Remove the cgroups of guards that have ended; what they share if none of it is used.

    A process that is dying still holds its cgroup for an instant.
    """
    parents = [root / "blixard" for root in (CGROUPS, *(CGROUPS / c for c in HIERARCHIES))]
    deadline = time.monotonic() + CGROUPS_S
    while time.monotonic() < deadline:
        left = [parent / name for parent in parents for name in names if (parent / name).is_dir()]
        if not left:
            break
        for folder in left:
            for one in (*folder.glob("*/"), folder):
                with contextlib.suppress(OSError):
                    one.rmdir()
        time.sleep(0.01)
    for shared in (*parents, *(parent.with_name(GROUP) for parent in parents)):
        with contextlib.suppress(OSError):
            shared.rmdir()


def write_context(environ: Mapping[str, str], nodes: list[Place]) -> str:
    """Make the cluster the default of the command line; return the context file's path."""
    path = contexts_path(environ)
    address = ",".join(place.socket for place in nodes)
    _replace(path, layout.with_context(_text(path), address))
    return path


def drop_context(environ: Mapping[str, str]) -> None:
    """Take the cluster out of the context file; remove a file that held nothing else."""
    path = contexts_path(environ)
    text = _text(path)
    if f'"{layout.CONTEXT}"' not in text:
        return
    rest = layout.without_context(text)
    if rest.strip():
        _replace(path, rest)
        return
    os.unlink(path)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(path))


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Keep a second command from changing the cluster meanwhile.

    Raises:
        BlixardError: CONFLICT.
    """
    descriptor = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlixardError(
                "CONFLICT", "another blixard dev command is at work", hint="wait for its end"
            ) from None
        yield
    finally:
        os.close(descriptor)
