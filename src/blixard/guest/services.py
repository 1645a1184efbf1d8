"""The processes that the guest is there for: kept running, their output on the console."""

from __future__ import annotations

import os
import select

from blixard.guest.loop import Loop, Outlet, say
from blixard.guest.spawn import HOME, PATH, Child, joined, spawn
from blixard.guest.text import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CONFIG = "/etc/blixard/services.json"
TICK_S = 1.0
STARTED_S = 0.3
STEADY_S = 60.0
BACKOFF_MAX_S = 30.0
CHUNK = 16 * 1024
LINE_MAX = 8 * 1024


class Lines:
    """Passes the lines of a pipe on with a prefix."""

    def __init__(self, loop: Loop, descriptor: int, prefix: str, console: Outlet) -> None:
        self.loop = loop
        self.descriptor = descriptor
        self.prefix = f"{prefix}: ".encode()
        self.console = console
        self.rest = b""
        os.set_blocking(descriptor, False)
        loop.watch(descriptor, select.POLLIN, self.ready)

    def ready(self, _events: int) -> None:
        """Read when there is something."""
        self.read()

    def read(self) -> bool:
        """Read a piece; close at the end; return whether there may be more now."""
        try:
            data = os.read(self.descriptor, CHUNK)
        except BlockingIOError:
            return False
        *lines, self.rest = (self.rest + data).split(b"\n")
        if (not data and self.rest) or len(self.rest) > LINE_MAX:
            lines.append(self.rest)
            self.rest = b""
        if lines:
            self.show(lines)
        if not data:
            self.close()
        return bool(data)

    def show(self, lines: list[bytes]) -> None:
        """Pass whole lines on."""
        self.console.write(b"".join(self.prefix + line + b"\n" for line in lines))

    def close(self) -> None:
        """Read no more."""
        if self.descriptor >= 0:
            self.loop.unwatch(self.descriptor)
            os.close(self.descriptor)
            self.descriptor = -1


class Service:
    """One process that is kept running."""

    def __init__(self, spec: dict[str, Any], names: dict[str, str]) -> None:
        self.name = str(spec["name"])
        self.command = [str(word) for word in spec["command"]]
        self.env = {**names, **{str(k): str(v) for k, v in (spec.get("env") or {}).items()}}
        self.restart = bool(spec.get("restart", True))
        self.process: Child | None = None
        self.started = 0.0
        self.next_start = 0.0
        self.failures = 0
        self.state = "waiting"

    def step(self, now: float, loop: Loop, console: Outlet) -> None:
        """Start it when it is due; notice that it stays up."""
        if self.state == "waiting" and now >= self.next_start:
            self.start(now, loop, console)
        elif self.state == "starting" and now - self.started >= STARTED_S:
            self.state = "running"

    def due(self, now: float) -> float:
        """Return in how many seconds `step` has something to do."""
        if self.state == "waiting":
            return self.next_start - now
        return self.started + STARTED_S - now if self.state == "starting" else TICK_S

    def start(self, now: float, loop: Loop, console: Outlet) -> None:
        """Start the process; its output goes to the console by a pipe."""
        self.started = now
        read, write = os.pipe2(os.O_CLOEXEC)
        env = {"PATH": PATH, "HOME": HOME, **self.env}
        actions = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0), *joined(write, write)]
        try:
            self.process = spawn(self.command, env, actions, "/")
            self.state = "starting"
            Lines(loop, read, self.name, console)
        except (OSError, ValueError) as error:
            os.close(read)
            say(console, f"service {self.name} cannot start: {error}")
            self.failed(now)
        finally:
            os.close(write)

    def ended(self, code: int, now: float, console: Outlet) -> None:
        """It exited: start it again later, unless it may rest."""
        say(console, f"service {self.name} ended with code {code}")
        self.process = None
        if not self.restart:
            self.state = "ended" if code == 0 else "failed"
            return
        if now - self.started > STEADY_S:
            self.failures = 0
        self.failed(now)

    def failed(self, now: float) -> None:
        """Wait longer each time."""
        self.failures += 1
        self.state = "waiting"
        self.next_start = now + min(BACKOFF_MAX_S, 0.25 * 2 ** min(self.failures, 10))


def load_services(console: Outlet, settings: dict[str, str]) -> list[Service]:
    """Return the services of the image; a broken file is said on the console.

    They are told in their environment who they are.
    """
    names = {"BLIXARD_INSTANCE": settings.get("host", ""), "BLIXARD_NODE": settings.get("node", "")}
    try:
        with open(CONFIG, "rb") as file:
            return [Service(spec, names) for spec in decode(file.read())]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        say(console, f"{CONFIG}: {error}")
        return []
