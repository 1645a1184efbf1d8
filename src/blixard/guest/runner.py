"""The agent's end of the process that runs a function: its pipes, its log, its end."""

from __future__ import annotations

import fcntl
import os
import select
import sys

from blixard.guest.loop import Loop, Outlet
from blixard.guest.memory import function_group, join_group
from blixard.guest.services import CHUNK, Lines
from blixard.guest.spawn import PATH, Child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# The agent's program is the runtime's too: ``agent.py function HANDLER``.
RUNTIME = [sys.executable, "-IB", sys.argv[0], "function"]
FUNCTION_FOLDER = "/run/blixard-function"
FUNCTION_UID = 993
TAIL_BYTES = 4096  # as AWS Lambda
TAIL_READS = 8
OOM_SCORE = "500"  # when memory ends, the function goes before the guest's services
KILLED = 9


class Log(Lines):
    """Passes what the handler prints on to the console, and keeps the last of a call's lines."""

    def __init__(self, loop: Loop, descriptor: int, console: Outlet) -> None:
        super().__init__(loop, descriptor, "function", console)
        self.tail = b""

    def show(self, lines: list[bytes]) -> None:
        """Keep, then pass on."""
        super().show(lines)
        self.tail = (self.tail + b"".join(line + b"\n" for line in lines))[-TAIL_BYTES:]

    def taken(self) -> list[str]:
        """Return the last lines since the last time; what is in the pipe belongs to them."""
        for _ in range(TAIL_READS):
            if self.descriptor < 0 or not self.read():
                break
        if self.rest:
            self.show([self.rest])
            self.rest = b""
        text, self.tail = self.tail.decode(errors="replace"), b""
        return text.splitlines()


class Runner:
    """One process with a function's module in it; ``code`` is its exit code once it was reaped."""

    def __init__(
        self, loop: Loop, console: Outlet, handler: str, environment: dict[str, str]
    ) -> None:
        self.loop = loop
        self.loaded = False
        self.code: int | None = None
        self.waiting: list[bytes] = []
        take, self.give = os.pipe2(os.O_CLOEXEC)
        self.take, give = os.pipe2(os.O_CLOEXEC)
        log, output = os.pipe2(os.O_CLOEXEC)
        try:
            # Only in a guest, not where tests run the agent.
            group = function_group(console) if own_user() else ""
            self.child = forked([*RUNTIME, handler], environment, (output, take, give), group)
        finally:
            for descriptor in (take, give, output):
                os.close(descriptor)
        for descriptor in (self.give, self.take):
            os.set_blocking(descriptor, False)
        self.log = Log(loop, log, console)
        self.on_written: Callable[[], None] = lambda: None

    def write(self, data: bytes) -> None:
        """Give it a piece of a call."""
        self.waiting.append(data)
        self.feed()

    def feed(self, _events: int = 0) -> None:
        """Write what the pipe takes; say so when all is written."""
        try:
            while self.waiting:
                written = os.write(self.give, self.waiting[0])
                self.waiting[0] = self.waiting[0][written:]
                if not self.waiting[0]:
                    del self.waiting[0]
        except BlockingIOError:
            self.loop.watch(self.give, select.POLLOUT, self.feed)
            return
        except OSError:
            self.waiting.clear()  # it is gone: its end tells the rest
        self.loop.unwatch(self.give)
        self.on_written()

    def read(self, limit: int) -> bytes | None:
        """Return a piece of its answer, nothing at its end, None if there is none yet."""
        try:
            return os.read(self.take, min(limit, CHUNK))
        except BlockingIOError:
            return b"" if self.code is not None else None
        except OSError:
            return b""

    def close(self) -> None:
        """Kill it and what it started; whoever reaps still gets its pid."""
        for kill in (os.killpg, os.kill) if self.code is None else (os.killpg,):
            try:
                kill(self.child.pid, KILLED)
            except ProcessLookupError:
                continue  # nobody is left, or it is too young to lead a group
        self.log.taken()
        self.log.close()
        for descriptor in (self.give, self.take):
            self.loop.unwatch(descriptor)
            os.close(descriptor)


def own_user() -> bool:
    """Tell whether functions run as a user of their own."""
    return os.geteuid() == 0 and FUNCTION_UID > 0


def forked(
    command: list[str], environment: dict[str, str], pipes: tuple[int, int, int], group: str
) -> Child:
    """Start *command* as the functions' user, with *pipes* as output, calls and answers.

    A user of its own, which posix_spawn cannot give, keeps its hands off the agent.
    """
    output, calls, answers = pipes
    pid = os.fork()
    if pid:
        return Child(pid)
    try:
        os.setsid()
        os.chdir(FUNCTION_FOLDER)
        nothing = os.open("/dev/null", os.O_RDONLY)
        wanted = (nothing, output, output, calls, answers)
        # Out of the way first: what is wanted as 3 may stand where 4 is to be.
        high = [fcntl.fcntl(d, fcntl.F_DUPFD_CLOEXEC, 10) for d in wanted]
        for number, descriptor in enumerate(high):
            os.dup2(descriptor, number)
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(OOM_SCORE)
        join_group(group)
        if own_user():
            os.setgroups([])
            os.setgid(FUNCTION_UID)
            os.setuid(FUNCTION_UID)
        basics = {"PATH": PATH, "HOME": "/tmp", "LANG": "C.UTF-8", "_HANDLER": command[-1]}
        os.execve(command[0], command, {**basics, **environment})
    except BaseException as error:
        os.write(2, f"cannot start: {error!r}\n".encode())
    finally:
        os._exit(127)
