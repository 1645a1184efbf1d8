"""The first process of a Blixard guest: sets it up, keeps its services, answers the host.

Standard library only; ``bundle.py`` joins the modules of this package into the one file that goes
into an image. It mounts what a system needs, configures the network from the kernel command line
(``blixard.ip=`` ``blixard.gw=`` ``blixard.mtu=`` ``blixard.host=`` ``blixard.node=``), starts the
services of ``/etc/blixard/services.json``, passes their output on to the console, reaps every
orphan, serves the channel on the virtio port ``org.blixard.agent``. The host speaks first; while
it is away the agent sleeps. Nothing that a service, a command or the host does not read can block
it.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # the module signal brings enum, for 0.1 s
import errno
import os
import select
import sys
import time

from blixard.guest.functions import Functions
from blixard.guest.loop import Loop, Outlet, drain, say
from blixard.guest.machine import (
    command_line,
    metrics,
    mount_all,
    set_clock,
    set_name,
    set_up_network,
    stop_everything,
    switch_off,
)
from blixard.guest.protocol import (
    CLOSE,
    ERROR,
    EXEC,
    HELLO,
    INVOKE,
    LOAD,
    RESIZE,
    SHUTDOWN,
    STATUS,
    STDIN,
    VERSION,
    WINDOW,
    Decoder,
    frame,
)
from blixard.guest.runtime import serve_function
from blixard.guest.services import CHUNK, TICK_S, Service, load_services
from blixard.guest.session import Session
from blixard.guest.spawn import Child
from blixard.guest.text import decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PORT_NAME = "org.blixard.agent"
PORTS = "/sys/class/virtio-ports"
AWAY_S = 0.25
CONSOLE_BYTES_MAX = 256 * 1024
SESSIONS_MAX = 32
READABLE = select.POLLIN | select.POLLHUP | select.POLLERR


class Agent:
    """Services, sessions, the port."""

    def __init__(self, loop: Loop, console: Outlet, services: list[Service]) -> None:
        self.loop = loop
        self.console = console
        self.services = services
        self.port = -1
        self.port_again = 0.0
        self.decoder = Decoder()
        self.out = b""
        self.sessions: dict[int, Session] = {}
        self.ending: list[Child] = []
        self.functions = Functions(self)
        self.began = time.monotonic()
        self.stopping = False
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        _signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        _signal.signal(_signal.SIGCHLD, lambda *_: None)
        loop.watch(wake_read, select.POLLIN, lambda _events: self.child_ended(wake_read))

    def run(self) -> None:
        """Serve until the host asks to stop."""
        while not self.stopping:
            now = time.monotonic()
            for service in self.services:
                service.step(now, self.loop, self.console)
            self.functions.step(now)
            self.look_for_host(now)
            self.loop.run_once(self.timeout(now))

    def child_ended(self, wake: int) -> None:
        """A signal came: see to every child that ended."""
        drain(wake)
        self.reap()

    def timeout(self, now: float) -> float:
        """Return how long nothing needs doing."""
        waits = [service.due(now) for service in self.services]
        if self.port_again:
            waits.append(self.port_again - now)
        return max(0.01, min([TICK_S, self.functions.due(now), *waits]))

    # -- the port --

    def look_for_host(self, now: float) -> None:
        """Open the port; after the host left, look again now and then instead of spinning."""
        if self.port < 0:
            path = find_port()
            if path is None:
                return
            try:
                self.port = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                return  # the device is not there yet: the next turn looks again
            self.loop.watch(self.port, select.POLLIN, self.port_ready)
        elif self.port_again and now >= self.port_again:
            self.port_again = 0.0
            self.loop.watch(self.port, select.POLLIN, self.port_ready)

    def port_ready(self, events: int) -> None:
        """Read what the host says."""
        data = b""
        if events & READABLE:
            try:
                data = os.read(self.port, CHUNK)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.host_left()
                return
        for kind, stream, payload in self.decoder.feed(data):
            self.handle(kind, stream, payload)
        self.flush()

    def host_left(self) -> None:
        """Forget half frames and running sessions."""
        self.decoder = Decoder()
        self.out = b""
        for session in list(self.sessions.values()):
            session.close()
        self.functions.drop()
        self.loop.unwatch(self.port)
        self.port_again = time.monotonic() + AWAY_S

    def send(self, kind: int, stream: int, payload: bytes = b"") -> None:
        """Queue a frame and write what fits; the windows bound what is queued."""
        self.out += frame(kind, stream, payload)
        self.flush()

    def flush(self) -> None:
        """Write; wait in the poll for what does not fit."""
        if self.port < 0 or self.port_again:
            return
        try:
            while self.out:
                self.out = self.out[os.write(self.port, self.out) :]
        except BlockingIOError:
            pass
        except OSError:
            self.out = b""
        events = select.POLLIN | (select.POLLOUT if self.out else 0)
        self.loop.watch(self.port, events, self.port_ready)

    def handle(self, kind: int, stream: int, payload: bytes) -> None:
        """Answer one frame."""
        session = self.sessions.get(stream)
        if kind == HELLO:
            set_clock(payload)
            self.send(HELLO, stream, encode({"version": VERSION}))
        elif kind == STATUS:
            self.send(STATUS, stream, encode(self.status()))
        elif kind == EXEC:
            self.exec(stream, payload)
        elif kind in (LOAD, INVOKE):
            self.functions.open(kind, stream, payload, time.monotonic())
        elif kind == SHUTDOWN:
            self.stopping = True
        elif session is not None:
            if kind == STDIN:
                session.write(payload)
            elif kind == WINDOW:
                session.grant(int(payload) if payload.isdigit() else 0)
            elif kind == RESIZE:
                session.resize(payload)
            elif kind == CLOSE:
                session.close()
        else:
            self.functions.handle(kind, stream, payload)

    def status(self) -> dict[str, Any]:
        """Return readiness, services and figures."""
        states = {service.name: service.state for service in self.services}
        return {
            "ready": all(state in ("running", "ended") for state in states.values()),
            "uptime_s": time.monotonic() - self.began,
            "services": states,
            "metrics": metrics(),
        }

    def exec(self, stream: int, payload: bytes) -> None:
        """Start a session."""
        try:
            request = decode(payload)
            if len(self.sessions) >= SESSIONS_MAX:
                raise OSError(errno.EAGAIN, f"{SESSIONS_MAX} sessions are open")
            command = [str(word) for word in request["command"]]
            self.sessions[stream] = Session(self, stream, command, tty=bool(request["tty"]))
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            self.send(ERROR, stream, str(error).encode()[:1000])

    def reap(self) -> None:
        """Wait for every child that ended: ours and the orphans that every first process gets."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            for service in self.services:
                if service.process is not None and service.process.pid == pid:
                    service.process.returncode = code
                    service.ended(code, time.monotonic(), self.console)
            for session in list(self.sessions.values()):
                if session.process.pid == pid:
                    session.exited(code)
            for process in [p for p in self.ending if p.pid == pid]:
                process.returncode = code
                self.ending.remove(process)
            self.functions.reaped(pid, code)


def find_port() -> str | None:
    """Return the device of the agent's port; the driver may come later than the agent."""
    try:
        names = os.listdir(PORTS)
    except FileNotFoundError:
        return None
    for name in names:
        with open(f"{PORTS}/{name}/name") as file:
            if file.read().strip() == PORT_NAME:
                return f"/dev/{name}"
    return None


def main() -> None:
    """Be the first process, or the one that runs a function."""
    if sys.argv[1:2] == ["function"]:
        serve_function(sys.argv[2])
        return
    failed = mount_all()
    loop = Loop()
    descriptor = os.open("/dev/console", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    console = Outlet(loop, descriptor, CONSOLE_BYTES_MAX)
    for problem in failed:
        say(console, problem)
    settings = command_line()
    for set_up in (set_name, set_up_network):
        try:
            set_up(settings)
        except (OSError, ValueError) as error:
            say(console, f"{set_up.__name__}: {error}")
    agent = Agent(loop, console, load_services(console, settings))
    say(console, "ready to serve")
    agent.run()
    say(console, "stopping")
    stop_everything()


if __name__ == "__main__":
    try:
        main()
    except BaseException as error:
        os.write(2, f"blixard-agent: failed: {error!r}\n".encode())
        time.sleep(1)
        if os.getpid() == 1:
            switch_off()
        raise SystemExit(1) from error
