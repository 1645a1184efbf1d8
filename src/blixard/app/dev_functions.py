"""The demo's step of functions: deployed, called cold, called warm."""

from __future__ import annotations

import contextlib
import pathlib
import time

from blixard.api.client import ApiClient
from blixard.app.dev_progress import Progress
from blixard.app.dev_shell import Shell

SOURCE = pathlib.Path(__file__).resolve().parents[3] / "examples" / "hello.py"
PATH = "/v1/namespaces/default/functions/hello/invoke"
EVENT = '{"name": "Ada"}'
FIRST_S = 120.0  # emulated guests on a busy machine boot slowly
CALLS = 20


def show_functions(shell: Shell, progress: Progress) -> None:
    """Deploy a function, call it by the command line and over the socket, delete it.

    Raises:
        BlixardError: what the cluster says.
    """
    shell.type("function", "deploy", "hello", str(SOURCE), timeout_s=FIRST_S)
    with progress.measured("first call of a function, a microVM boots for it"):
        shell.type("function", "invoke", "hello", "--data", EVENT, timeout_s=FIRST_S)
    shell.type("function", "invoke", "hello", "--data", EVENT)
    with contextlib.closing(ApiClient(*shell.address.split(","))) as client:
        times = sorted(_called(client) for _ in range(CALLS))
    progress.keep(f"warm call, median of {CALLS} over the socket", times[CALLS // 2])
    shell.type("function", "list")
    shell.type("function", "delete", "hello", "--yes", "--detach")


def _called(client: ApiClient) -> float:
    """Return the seconds of a call."""
    began = time.monotonic()
    client.request("POST", PATH, body={"name": "Ada"}, timeout_s=30.0)
    return time.monotonic() - began
