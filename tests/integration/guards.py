"""A guard with harmless stand-in processes, and a plain client of its socket."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

SLEEP = "/bin/sleep"
SHELL = "/bin/sh"
_PROGRAM = """
import sys
from blixard.hypervisors.guard import process
idle_s = float(sys.argv.pop(1))
sys.exit(process.main(sys.argv[1:], idle_exit_s=idle_s))
"""


def boottime_ns(after_s: float = 0.0) -> int:
    """Return CLOCK_BOOTTIME in nanoseconds, *after_s* from now."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(after_s * 1e9)


def gone(pid: int) -> bool:
    """Tell whether a process has ended; a zombie has."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return text.rpartition(")")[2].split()[0] in "ZX"


def until(condition: Any, within_s: float = 20.0) -> None:
    """Wait until *condition* holds."""
    end_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end_s, "it did not come to pass"
        time.sleep(0.02)


class Client:
    """Asks one guard, synchronously."""

    def __init__(self, path: pathlib.Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(20)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self._file = self.socket.makefile("rb")

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Return the answer to a request; events in between are dropped."""
        return self.ask_raw(json.dumps({"id": 7, "op": op, **fields}).encode())

    def ask_raw(self, line: bytes) -> dict[str, Any]:
        """Return the answer to any line."""
        self.socket.sendall(line + b"\n")
        while "event" in (answer := self.next()):
            pass
        return answer

    def next(self) -> dict[str, Any]:
        """Return the next message."""
        message: dict[str, Any] = json.loads(self._file.readline())
        return message

    def facts(self, uid: str) -> dict[str, Any]:
        """Return what the guard knows of an instance, nothing if it knows none."""
        found = [i for i in self.ask("list")["instances"] if i["uid"] == uid]
        return dict(found[0]) if found else {}

    def close(self) -> None:
        """Leave."""
        self._file.close()
        self.socket.close()


class GuardProcess:
    """One real guard on a directory."""

    def __init__(
        self, directory: pathlib.Path, idle_s: float = 60.0, wrapper: tuple[str, ...] = ()
    ) -> None:
        self.wrapper = wrapper
        self.directory = directory
        self.name = f"test-{uuid.uuid4().hex[:10]}"
        self.process = self.spawn(idle_s)
        self.socket = directory / "guard.sock"
        until(self.socket.exists)

    def spawn(self, idle_s: float = 60.0) -> subprocess.Popen[bytes]:
        """Start a guard process on the directory."""
        program = [sys.executable, "-c", _PROGRAM, str(idle_s), str(self.directory), self.name]
        return subprocess.Popen([*self.wrapper, *program, SLEEP, SHELL])

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        """Return a client that leaves at the end."""
        client = Client(self.socket)
        try:
            yield client
        finally:
            client.close()

    def plan(self, uid: str, *argv: str, **more: Any) -> dict[str, Any]:
        """Return a plan for a stand-in process and make its directory."""
        (self.directory / uid).mkdir(exist_ok=True)
        words = list(argv) or [SLEEP, "600"]
        return {"uid": uid, "argv": words, "memory_mib": 64, "vcpus": 1, **more}

    def stop(self) -> None:
        """Kill the guard; its children die with it. Remove its cgroups."""
        with contextlib.suppress(OSError), self.client() as client:
            for facts in client.ask("list")["instances"]:
                client.ask("kill", uid=facts["uid"])
                until(lambda uid=facts["uid"]: client.facts(uid)["state"] == "exited")
                client.ask("forget", uid=facts["uid"])
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(20)
        for folder in pathlib.Path("/sys/fs/cgroup").glob(f"*/blixard/{self.name}"):
            for child in [*folder.iterdir(), folder]:
                if child.is_dir():
                    until(lambda child=child: _removed(child))


def _removed(folder: pathlib.Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
