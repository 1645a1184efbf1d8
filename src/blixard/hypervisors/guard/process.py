"""The guard's main loop: single-threaded, bounded, deadline-driven.

It listens on a Unix socket, one JSON document per line. The daemon comes and goes; the instances and
their deadlines stay. Deadlines are CLOCK_BOOTTIME nanoseconds: they count through a suspend.
It ends by itself when it has had neither instance nor client for a while.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import signal
import socket
import struct
import sys
import time
from typing import Any

from blixard.hypervisors.guard import launch
from blixard.hypervisors.guard.cgroups import Cgroups

SOCKET, LOCK = "guard.sock", "guard.lock"
LINE_BYTES_MAX = 256 * 1024
BUFFER_BYTES_MAX = 1 << 20
CLIENTS_MAX = 8
INSTANCES_MAX = 2_000
IDLE_EXIT_S = 30.0
POLL_S = 1.0
EARLY_S = 0.0005


class Instance:
    """One hypervisor process."""

    def __init__(self, plan: dict[str, Any], pid: int) -> None:
        self.plan = plan
        self.pid = pid
        self.state = "paused"
        self.exit_code: int | None = None
        self.deadline_ns = 0
        self.killed_by_guard = False

    def facts(self) -> dict[str, Any]:
        """Return what clients may know."""
        return {
            "uid": self.plan["uid"],
            "plan": self.plan.get("launch"),
            "state": self.state,
            "pid": self.pid,
            "exit_code": self.exit_code,
            "killed_by_guard": self.killed_by_guard,
            "deadline_ns": self.deadline_ns,
        }


class Client:
    """One connection; what it does not read in time ends it."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.received = b""
        self.waiting = b""


class Guard:
    """Holds the instances; every method returns without blocking."""

    def __init__(
        self, state_dir: str, name: str, binaries: tuple[str, ...] = launch.BINARIES
    ) -> None:
        self._dir = state_dir
        self._binaries = binaries
        self._instances: dict[str, Instance] = {}
        self._clients: dict[int, Client] = {}
        self._selector = selectors.DefaultSelector()
        self._cgroups = Cgroups(name)
        self._busy_s = time.monotonic()
        self._listener = self._listen()

    def _listen(self) -> socket.socket:
        path = os.path.join(self._dir, SOCKET)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(mask)
        listener.listen(CLIENTS_MAX)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        return listener

    # -- loop --

    def run(self) -> None:
        """Serve until idle."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: None)
        self._selector.register(wake_read, selectors.EVENT_READ, self._drain)
        while not self._idle():
            for key, _ in self._selector.select(self._timeout_s()):
                key.data(key.fileobj)
            self._reap()
            self._enforce()
        self._cgroups.close()

    def _idle(self) -> bool:
        if self._instances or self._clients:
            self._busy_s = time.monotonic()
        return time.monotonic() - self._busy_s > IDLE_EXIT_S

    def _timeout_s(self) -> float:
        deadlines = [
            i.deadline_ns for i in self._instances.values() if i.deadline_ns and i.state != "exited"
        ]
        if not deadlines:
            return POLL_S
        left_s = (min(deadlines) - boottime_ns()) / 1e9
        return max(0.0, min(POLL_S, left_s + EARLY_S))

    def _drain(self, descriptor: Any) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(descriptor, 4096):
                pass

    def _enforce(self) -> None:
        now_ns = boottime_ns()
        for instance in self._instances.values():
            expired = instance.deadline_ns and now_ns >= instance.deadline_ns
            if expired and instance.state != "exited" and not instance.killed_by_guard:
                instance.killed_by_guard = True
                self._kill(instance)

    def _kill(self, instance: Instance) -> None:
        self._cgroups.kill(instance.plan["uid"])
        with contextlib.suppress(ProcessLookupError):
            os.kill(instance.pid, signal.SIGKILL)

    def _reap(self) -> None:
        for instance in self._instances.values():
            if instance.state == "exited":
                continue
            try:
                pid, status = os.waitpid(instance.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = instance.pid, 0
            if pid == instance.pid:
                instance.state = "exited"
                instance.exit_code = os.waitstatus_to_exitcode(status)
                self._tell_all({"event": "exit", **instance.facts()})

    # -- clients --

    def _accept(self, _listener: Any) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        if len(self._clients) >= CLIENTS_MAX or not _allowed(connection):
            connection.close()
            return
        connection.setblocking(False)
        self._clients[connection.fileno()] = Client(connection)
        self._selector.register(connection, selectors.EVENT_READ, self._readable)

    def _readable(self, connection: Any) -> None:
        client = self._clients.get(connection.fileno())
        if client is None:
            return
        self._flush(client)
        if connection.fileno() < 0:
            return
        try:
            data = connection.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        client.received += data
        if not data or len(client.received) > LINE_BYTES_MAX:
            self._drop(client)
            return
        *lines, client.received = client.received.split(b"\n")
        for line in lines:
            self._answer(client, line)

    def _answer(self, client: Client, line: bytes) -> None:
        try:
            request = json.loads(line)
            answer = self._do(request)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            request, answer = {}, {"error": f"bad request: {error!r}"}
        except (launch.BadPlan, OSError) as error:
            answer = {"error": str(error)}
        self._tell(client, {"id": request.get("id"), **answer})

    def _tell_all(self, message: dict[str, Any]) -> None:
        for client in list(self._clients.values()):
            self._tell(client, message)

    def _tell(self, client: Client, message: dict[str, Any]) -> None:
        client.waiting += json.dumps(message).encode() + b"\n"
        self._flush(client)

    def _flush(self, client: Client) -> None:
        try:
            while client.waiting:
                sent = client.connection.send(client.waiting)
                client.waiting = client.waiting[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)
            return
        if len(client.waiting) > BUFFER_BYTES_MAX:
            self._drop(client)
            return
        descriptor = client.connection.fileno()
        if descriptor in self._clients:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.waiting else 0)
            self._selector.modify(client.connection, events, self._readable)

    def _drop(self, client: Client) -> None:
        descriptor = client.connection.fileno()
        if self._clients.pop(descriptor, None) is not None:
            self._selector.unregister(client.connection)
            client.connection.close()

    # -- requests --

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["op"]:
            case "list":
                return {"instances": [i.facts() for i in self._instances.values()]}
            case "start":
                return self._start(request["plan"])
            case "extend":
                return self._extend(int(request["deadline_ns"]))
        instance = self._instances.get(str(request["uid"]))
        if instance is None:
            return {"error": "no such instance"}
        match request["op"]:
            case "arm":
                instance.deadline_ns = max(instance.deadline_ns, int(request["deadline_ns"]), 1)
                return instance.facts()
            case "mark":
                return self._mark(instance, str(request["state"]))
            case "kill":
                self._kill(instance)
                return instance.facts()
            case "forget":
                return self._forget(instance)
        return {"error": f"unknown operation {request['op']!r}"}

    def _start(self, plan: dict[str, Any]) -> dict[str, Any]:
        uid = str(plan["uid"])
        if uid in self._instances:
            return {"error": f"{uid} is here already"}
        if len(self._instances) >= INSTANCES_MAX:
            return {"error": f"at most {INSTANCES_MAX} instances"}
        launch.check_plan(plan, self._binaries)
        groups = self._cgroups.make(uid, int(plan.get("memory_mib", 0)))
        pid = launch.start(plan, groups)
        self._instances[uid] = Instance(plan, pid)
        return self._instances[uid].facts()

    def _extend(self, deadline_ns: int) -> dict[str, Any]:
        """Later, never earlier; a deadline that has passed stays passed."""
        now_ns = boottime_ns()
        for instance in self._instances.values():
            if instance.deadline_ns and instance.deadline_ns > now_ns:
                instance.deadline_ns = max(instance.deadline_ns, deadline_ns)
        return {"extended": True}

    def _mark(self, instance: Instance, state: str) -> dict[str, Any]:
        if instance.state == "exited" or instance.killed_by_guard:
            return {"error": "the process has ended"}
        if state == "running" and instance.deadline_ns and boottime_ns() >= instance.deadline_ns:
            return {"error": "its deadline has passed"}
        instance.state = "running" if state == "running" else "paused"
        return instance.facts()

    def _forget(self, instance: Instance) -> dict[str, Any]:
        if instance.state != "exited":
            return {"error": "it is still running"}
        del self._instances[instance.plan["uid"]]
        self._cgroups.remove(instance.plan["uid"])
        return {"forgotten": True}


def boottime_ns() -> int:
    """Return nanoseconds of CLOCK_BOOTTIME."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _allowed(connection: socket.socket) -> bool:
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _pid, uid, _gid = struct.unpack("3i", packed)
    return uid in (0, os.getuid())


def main(arguments: list[str]) -> int:
    """Run a guard for the state directory given; a second one for it leaves at once."""
    state_dir, name = arguments[0], arguments[1]
    binaries = tuple(arguments[2:]) or launch.BINARIES
    lock = os.open(os.path.join(state_dir, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    Guard(state_dir, name, binaries).run()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(state_dir, SOCKET))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
