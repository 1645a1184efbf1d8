"""What a person would type: the program run as a process of its own, and fetching a page."""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys

from blixard.app.dev_processes import blixard
from blixard.app.dev_root import without_traces
from blixard.base.errors import BlixardError

COMMAND_S = 60.0
FETCH_S = 2.0


class Shell:
    """Types commands against a cluster and shows them with what they print."""

    def __init__(self, address: str) -> None:
        self.address = address

    def type(self, *arguments: str, timeout_s: float = COMMAND_S, show: bool = True) -> str:
        """Run a command to its end and return what it printed.

        Raises:
            BlixardError: INTERNAL with its words, TIMEOUT.
        """
        if show:
            _print(f"    $ blixard {' '.join(arguments)}")
        try:
            done = subprocess.run(
                blixard(*arguments),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            words = f"blixard {' '.join(arguments)} did not end within {timeout_s:.0f} s"
            raise BlixardError("TIMEOUT", words) from error
        if done.returncode != 0:
            words = " ".join((done.stderr or done.stdout).split())
            raise BlixardError("INTERNAL", f"blixard {' '.join(arguments)}: {words}")
        if show:
            _print(_indented(done.stdout))
        return done.stdout

    def glance(self, *arguments: str, seconds: float) -> int:
        """Run a command that does not end by itself for a moment; return the lines it printed."""
        _print(f"    $ blixard {' '.join(arguments)}   (for {seconds:.0f} s)")
        with subprocess.Popen(
            blixard(*arguments),
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                out, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                out, _ = process.communicate()
            finally:
                process.kill()
        _print(_indented(out))
        return len(out.splitlines())

    def _environment(self) -> dict[str, str]:
        return {
            **without_traces(dict(os.environ)),
            "BLIXARD_ADDRESS": self.address,
            "BLIXARD_HINTS": "0",
            "PYTHONUNBUFFERED": "1",
        }


class Visit:
    """One connection to a web server, made once and kept open.

    The machine itself asks, from outside of every node, and no proxy stands between.
    """

    def __init__(self, host: str) -> None:
        self._connection = http.client.HTTPConnection(host, 80, timeout=FETCH_S)

    def get(self, path: str = "/") -> tuple[int, str]:
        """Return status and body of a page; (0, why) if there is none."""
        try:
            self._connection.request("GET", path)
            self._connection.auto_open = 0  # a connection that was lost stays lost
            answer = self._connection.getresponse()
            return answer.status, answer.read(65_536).decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error) or type(error).__name__

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


def fetch(host: str, path: str = "/") -> tuple[int, str]:
    """Return status and body of a page; (0, why) if there is none."""
    with contextlib.closing(Visit(host)) as visit:
        return visit.get(path)


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.rstrip().splitlines()).rstrip("\n")


def _print(text: str) -> None:
    if text:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
