"""Which cluster a command talks to: flag, environment, context file, this machine's own daemon."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from blixard.base.errors import BlixardError
from blixard.cli.flags import Flags

DEFAULT_SOCKET = "/run/blixard/api.sock"
DEFAULT_CONFIG = "/etc/blixard/config.toml"
KEYS = ("address", "ca_file", "cert_file", "cert_key_file", "key_file", "namespace")


class Target(NamedTuple):
    """An address and what it takes to be let in; *origin* says who named it."""

    address: str
    origin: str
    ca_file: str = ""
    cert_file: str = ""
    cert_key_file: str = ""
    key_file: str = ""
    namespace: str = ""


class Contexts(NamedTuple):
    """The context file: named clusters and the current one."""

    path: str
    current: str
    entries: dict[str, dict[str, str]]


def contexts_path(environ: Mapping[str, str]) -> str:
    """Return where the context file is: BLIXARD_CONTEXTS or XDG."""
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", "/root"), ".config")
    return environ.get("BLIXARD_CONTEXTS") or os.path.join(base, "blixard", "contexts.toml")


def read_contexts(environ: Mapping[str, str]) -> Contexts:
    """Return the context file; an absent one is empty.

    Raises:
        BlixardError: INVALID, naming the file.
    """
    path = contexts_path(environ)
    if not os.path.exists(path):
        return Contexts(path, "", {})
    import tomllib

    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BlixardError(
            "INVALID", f"{path}: {error}", hint="correct the context file"
        ) from error
    return Contexts(path, str(content.get("current", "")), _entries(path, content))


def _entries(path: str, content: dict[str, Any]) -> dict[str, dict[str, str]]:
    entries = {}
    for name, entry in content.get("contexts", {}).items():
        unknown = sorted(set(entry) - set(KEYS)) if isinstance(entry, dict) else ["contexts"]
        if unknown or not entry.get("address"):
            fault = f"the unknown key {unknown[0]!r}" if unknown else "no address"
            raise BlixardError(
                "INVALID",
                f"{path}: context {name!r} has {fault}",
                hint=f"a context has the keys {', '.join(KEYS)}",
            )
        entries[name] = {key: str(value) for key, value in entry.items()}
    return entries


def with_current(text: str, name: str) -> str:
    """Return the context file's *text* with another current context, all else as it was."""
    line = f'current = "{name}"'
    changed, count = re.subn(r"(?m)^current\s*=.*$", lambda _: line, text, count=1)
    return changed if count else f"{line}\n{text}"


def resolve(flags: Flags) -> Target:
    """Return the cluster to talk to.

    Raises:
        BlixardError: NOT_FOUND for an unknown context, UNREACHABLE if nothing names a cluster.
    """
    if flags.source("address") == "flag":
        return Target(flags.text("address"), "--address", key_file=flags.text("key_file"))
    if flags.source("context") != "flag" and flags.text("address"):
        return Target(flags.text("address"), "BLIXARD_ADDRESS", key_file=flags.text("key_file"))
    contexts = read_contexts(flags.environ)
    name = flags.text("context") or contexts.current
    if name:
        return _of_context(contexts, name, flags)
    return _of_machine(flags)


def _of_context(contexts: Contexts, name: str, flags: Flags) -> Target:
    entry = contexts.entries.get(name)
    if entry is None:
        raise BlixardError(
            "NOT_FOUND",
            f"there is no context {name!r} in {contexts.path}",
            hint="blixard context list",
        )
    key_file = flags.text("key_file") or entry.get("key_file", "")
    return Target(**{**entry, "origin": f"context {name}", "key_file": key_file})


def _of_machine(flags: Flags) -> Target:
    if os.path.exists(DEFAULT_SOCKET):
        return Target(DEFAULT_SOCKET, "this machine")
    config = flags.text("config_file") or DEFAULT_CONFIG
    socket = _configured_socket(config)
    if socket and os.path.exists(socket):
        return Target(socket, config)
    places = f"{DEFAULT_SOCKET} is not there" + (f" and neither is {socket}" if socket else "")
    raise BlixardError(
        "UNREACHABLE",
        f"no cluster is named: {places}",
        hint="blixard dev up --nodes 3; or start the daemon; or give --address or --context",
    )


def _configured_socket(path: str) -> str:
    """Return the socket of the node that *path* configures; empty without a file."""
    if not os.access(path, os.R_OK):
        return ""
    from blixard.cli.node_config import load

    config = load(path, {}).config
    return config.api.socket or os.path.join(config.cluster.data_dir, "api.sock")
