"""The guest's agent as a process of this machine: a Unix socket stands for the virtio port."""

from __future__ import annotations

import os
import pathlib
import select
import socket
import sys

from blixard.guest import agent, bundle, functions, loop, runner, services, session


class OnSocket(agent.Agent):
    """Serves one connection after the other, as the port does when the host comes and goes."""

    def __init__(self, listener: socket.socket, events: loop.Loop, console: loop.Outlet) -> None:
        super().__init__(
            events, console, services.load_services(console, {"host": "guest-1", "node": "node1"})
        )
        self.listener = listener

    def look_for_host(self, now: float) -> None:
        if self.port < 0:
            self.port = self.listener.accept()[0].detach()
            os.set_blocking(self.port, False)
            self.loop.watch(self.port, select.POLLIN, self.port_ready)

    def host_left(self) -> None:
        super().host_left()
        os.close(self.port)
        self.port, self.port_again = -1, 0.0


def main() -> None:
    path, home, services.CONFIG = sys.argv[1:]
    session.HOME = home
    agent.set_clock = lambda _hello: None  # root would set the clock of the machine that tests
    folder = pathlib.Path(home, "function")
    runner.FUNCTION_FOLDER = functions.FUNCTION_FOLDER = str(folder)
    runner.FUNCTION_UID = functions.FUNCTION_UID = 0  # users of the machine may not read the tree
    program = pathlib.Path(home, "agent.py")
    program.write_text(bundle.agent_source())
    runner.RUNTIME = [sys.executable, "-IB", str(program), "function"]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)
    events = loop.Loop()
    OnSocket(listener, events, loop.Outlet(events, 1, agent.CONSOLE_BYTES_MAX)).run()


if __name__ == "__main__":
    main()
