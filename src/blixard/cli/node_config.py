"""Read the node's configuration file; the parsing itself is :mod:`blixard.base.config`."""

from __future__ import annotations

import os
from collections.abc import Mapping

from blixard.base.config import Loaded, parse_config
from blixard.base.errors import BlixardError
from blixard.cli.contexts_file import DEFAULT_CONFIG
from blixard.cli.failure import describe_problem
from blixard.cli.flags import Flags

MAX_BYTES = 1 << 20


def load(path: str, environ: Mapping[str, str]) -> Loaded:
    """Return the configuration of the file at *path* with overrides from *environ*.

    Raises:
        BlixardError: NOT_FOUND, BAD_REQUEST; INVALID with every problem of the file.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise BlixardError(
            "NOT_FOUND", f"there is no configuration {path}", hint="check --config-file"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise BlixardError(
            "BAD_REQUEST", f"{path} cannot be read: {error}", hint="check the file"
        ) from error
    try:
        return parse_config(text, name=path, environ=environ)
    except BlixardError as error:
        causes = [f"{path}:{describe_problem(p)}" for p in error.problems]
        raise BlixardError(
            error.code, error.message, hint=error.hint, details={"causes": causes}
        ) from error


def load_for(flags: Flags) -> Loaded:
    """Return the configuration that --config-file names, else the system's, else the defaults."""
    path = flags.text("config_file")
    if path:
        return load(path, flags.environ)
    for candidate in (DEFAULT_CONFIG, DEFAULT_CONFIG.replace(".toml", ".yaml")):
        if os.path.exists(candidate):
            return load(candidate, flags.environ)
    return parse_config("", name="defaults.toml", environ=flags.environ)
