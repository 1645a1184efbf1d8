"""Make the connection that flags, environment and context file ask for."""

from __future__ import annotations

import os
import sys

from blixard.api.client import ApiClient, Credentials
from blixard.base.errors import BlixardError
from blixard.cli.contexts_file import Target, resolve
from blixard.cli.flags import Flags

KEY_BYTES_MAX = 4096
DEFAULT_PORT = 7443


def connect(flags: Flags) -> tuple[ApiClient, str]:
    """Return the client and the namespace that the context names (empty: none).

    Raises:
        BlixardError: UNREACHABLE, NOT_FOUND, USAGE.
    """
    target = resolve(flags)
    addresses = [_with_port(part.strip()) for part in target.address.split(",") if part.strip()]
    return ApiClient(*addresses, credentials=_credentials(target, flags)), target.namespace


def _with_port(address: str) -> str:
    """Return the address with the default port where none is given; paths stay as they are."""
    rest = address.removeprefix("https://").rstrip("/")
    if address.startswith(("/", ".", "unix:", "http:")) or rest.rpartition(":")[2].isdigit():
        return address
    return f"{rest}:{DEFAULT_PORT}"


def _credentials(target: Target, flags: Flags) -> Credentials:
    """Return what the client proves itself with; the environment fills what is missing."""
    environ = flags.environ
    return Credentials(
        ca_file=_path(target.ca_file or environ.get("BLIXARD_CA_FILE", "")),
        certificate_file=_path(target.cert_file or environ.get("BLIXARD_CERT_FILE", "")),
        private_key_file=_path(target.cert_key_file or environ.get("BLIXARD_CERT_KEY_FILE", "")),
        api_key=_read_key(target.key_file),
        server_name=environ.get("BLIXARD_SERVER_NAME", ""),
    )


def _path(text: str) -> str:
    return os.path.expanduser(text) if text else ""


def _read_key(path: str) -> str:
    if not path:
        return ""
    try:
        if path == "-":
            return sys.stdin.readline(KEY_BYTES_MAX).strip()
        with open(os.path.expanduser(path), encoding="ascii") as file:
            return file.read(KEY_BYTES_MAX).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BlixardError(
            "USAGE", f"{path} cannot be read: {error}", hint="--key-file FILE"
        ) from error
