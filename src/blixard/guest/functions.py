"""The guest's function: loaded once, run in a warm process, one call at a time.

Events and results pass through in pieces under the channel's windows; nothing here holds a whole
one. A call that is too late, or whose caller left, ends with its process, and the next process
starts at once: a handler can neither end the agent nor spoil the call after it.
"""

from __future__ import annotations

import os
import time

from blixard.guest.loop import Loop, Outlet, say
from blixard.guest.protocol import (
    BODY_BYTES_MAX,
    CLOSE,
    ERROR,
    HEADER,
    INVOKE,
    LOAD,
    PAYLOAD_BYTES_MAX,
    RESULT,
    STDIN,
    STDOUT,
    WINDOW,
    WINDOW_BYTES,
)
from blixard.guest.runner import FUNCTION_FOLDER, FUNCTION_UID, Runner
from blixard.guest.services import CHUNK, TICK_S
from blixard.guest.text import decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Host(Protocol):
        """What functions need of the agent."""

        loop: Loop
        console: Outlet

        def send(self, kind: int, stream: int, payload: bytes = b"") -> None:
            """Queue a frame for the host."""


READABLE_PIPE = 1  # POLLIN


class Request:
    """A LOAD or an INVOKE under way, from its frame to the last piece of its answer.

    ``left`` counts the bytes of the answer still to be passed on; None before its head came.
    """

    def __init__(self, kind: int, stream: int, payload: bytes, now: float) -> None:
        line, _, first = payload.partition(b"\n")
        self.kind, self.stream = kind, stream
        self.head: dict[str, Any] = decode(line)
        self.size = body_size(self.head)
        self.allowed_s = float(self.head["deadline_s"])
        self.deadline = now + self.allowed_s
        self.missing = self.size
        self.taken = 0
        self.pieces: list[bytes] = []
        self.credit = WINDOW_BYTES
        self.begun = False
        self.left: int | None = None
        self.take(first)

    def take(self, piece: bytes) -> None:
        """Take a piece of the body. Raises ValueError if it is longer than was said."""
        self.missing -= len(piece)
        if self.missing < 0:
            raise ValueError("the body is longer than its head says")
        self.taken += HEADER.size + len(piece)
        if piece:
            self.pieces.append(piece)


class Functions:
    """What the host loaded, the process that runs it, the request under way."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.handler = ""
        self.environment: dict[str, str] = {}
        self.runner: Runner | None = None
        self.request: Request | None = None
        self.buffer = b""

    # -- what the host says --

    def open(self, kind: int, stream: int, payload: bytes, now: float) -> None:
        """Begin a LOAD or an INVOKE, or say why not."""
        try:
            request = Request(kind, stream, payload, now)
            if self.request is not None:
                raise ValueError("the guest is at another call")
            if kind == INVOKE and not self.handler:
                raise ValueError("no function is loaded")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self.host.send(ERROR, stream, f"{error}".encode(errors="replace")[:1000])
            return
        self.request = request
        if kind == LOAD:
            self.unload()
        elif self.runner is None:
            self.start()
        self.advance()

    def handle(self, kind: int, stream: int, payload: bytes) -> None:
        """Take a frame of the request under way; others are of requests that are over."""
        request = self.request
        if request is None or request.stream != stream:
            return
        if kind == STDIN:
            try:
                request.take(payload)
            except ValueError as error:
                self.give_up(f"{error}")
                return
            self.advance()
        elif kind == WINDOW and payload.isdigit():
            request.credit = min(WINDOW_BYTES, request.credit + int(payload))
            self.answer_ready()
        elif kind == CLOSE:
            self.drop()

    def drop(self) -> None:
        """Nobody waits for the request under way: end what works for it."""
        request, self.request = self.request, None
        if request is not None and request.kind == LOAD:
            self.unload()
        elif request is not None and request.begun:
            self.renew()

    def due(self, now: float) -> float:
        """Return in how many seconds `step` has something to do."""
        return TICK_S if self.request is None else self.request.deadline - now

    def step(self, now: float) -> None:
        """End what is too late."""
        request = self.request
        if request is not None and now >= request.deadline:
            message = f"Task timed out after {request.allowed_s:.2f} seconds"
            self.fail("timeout", "Sandbox.Timedout", message)
            self.renew()

    # -- the request --

    def advance(self) -> None:
        """Pass on what came of the body."""
        request, runner = self.request, self.runner
        assert request is not None
        if request.kind == LOAD:
            if request.missing:
                self.grant()
            elif runner is None:
                self.install(request)
        elif runner is not None and runner.loaded:
            if not request.begun:
                request.begun = True
                runner.log.tail = b""  # what was printed between calls is nobody's
                head = {
                    "id": request.head["id"],
                    "context": request.head["context"],
                    "remaining_s": request.deadline - time.monotonic(),
                    "bytes": request.size,
                }
                request.pieces.insert(0, encode(head) + b"\n")
            pieces, request.pieces = request.pieces, []
            runner.write(b"".join(pieces))

    def grant(self) -> None:
        """What came was passed on: let more come."""
        request = self.request
        if request is not None and request.missing and request.taken >= WINDOW_BYTES // 4:
            self.host.send(WINDOW, request.stream, str(request.taken).encode())
            request.taken = 0

    def install(self, request: Request) -> None:
        """Write the source where only the function's user reads it, and start its process."""
        try:
            self.handler = str(request.head["handler"])
            variables, _, source = b"".join(request.pieces).partition(b"\n")
            request.pieces.clear()
            given = decode(variables).items()
            self.environment = {str(name): str(value) for name, value in given}
            write_source(self.handler, source)
        except (OSError, ValueError, KeyError, AttributeError) as error:
            self.fail("error", "Runtime.MalformedHandlerName", f"{error}")
            return
        self.start()

    def fail(self, status: str, kind: str, message: str) -> None:
        """Answer the request under way with an error; it is over."""
        request, self.request = self.request, None
        if request is None:
            return
        if request.left is not None:
            self.host.send(ERROR, request.stream, message.encode()[:1000])
        else:
            self.refuse(request, status, kind, message)
        if request.kind == LOAD:
            self.unload()

    def refuse(self, request: Request, status: str, kind: str, message: str) -> None:
        """Answer with an error document as AWS Lambda makes it."""
        request_id = str(request.head.get("id", ""))
        document = {"errorMessage": message, "errorType": kind, "requestId": request_id}
        body = encode(document)[: PAYLOAD_BYTES_MAX // 2]
        log = self.runner.log.taken() if self.runner is not None else []
        head = {"status": status, "error_type": kind, "log": log, "bytes": len(body)}
        self.host.send(RESULT, request.stream, encode(head) + b"\n" + body)

    # -- the process --

    def start(self) -> None:
        """Start a process; it says when its module is imported."""
        self.buffer = b""
        try:
            self.runner = Runner(self.host.loop, self.host.console, self.handler, self.environment)
        except OSError as error:
            self.fail("error", "Runtime.ExitError", f"cannot start a process: {error}")
            return
        self.runner.on_written = self.grant
        self.host.loop.watch(self.runner.take, READABLE_PIPE, self.answer_ready)

    def end(self) -> None:
        """End the process."""
        if self.runner is not None:
            self.runner.close()
            self.runner = None

    def unload(self) -> None:
        """Forget the function."""
        self.handler = ""
        self.end()

    def renew(self) -> None:
        """End the process; if it had come as far as to be loaded, start the next."""
        loaded = self.runner is not None and self.runner.loaded
        self.end()
        if loaded:
            self.start()

    def give_up(self, why: str) -> None:
        """Either side broke the rules of its pipe."""
        say(self.host.console, f"function: {why}")
        self.fail("error", "Runtime.ExitError", f"Runtime ended: {why}")
        self.renew()

    def reaped(self, pid: int, code: int) -> None:
        """A child ended: what it answered before it did still counts."""
        if self.runner is not None and self.runner.child.pid == pid:
            self.runner.code = code
            self.answer_ready()

    def answer_ready(self, _events: int = 0) -> None:
        """Read answers."""
        while self.read_answer():
            pass

    def read_answer(self) -> bool:
        """Read a piece; return whether there may be more."""
        runner, request = self.runner, self.request
        if runner is None:
            return False
        limit = CHUNK
        if request is not None and request.left is not None:
            limit = min(CHUNK, request.credit - HEADER.size)
            if limit <= 0:
                self.host.loop.unwatch(runner.take)  # until the host grants more
                return False
        self.host.loop.watch(runner.take, READABLE_PIPE, self.answer_ready)
        data = runner.read(limit)
        if data is None:
            return False
        if not data:
            self.ended(runner)
        elif request is not None and request.left is not None:
            self.pass_on(request, data)
        else:
            self.take_head(runner, data)
        # Once the request is over there is nothing more: to look would cost each call a syscall.
        return self.runner is runner and bool(data) and self.request is not None

    def ended(self, runner: Runner) -> None:
        """The process ended, or will soon: until it was reaped its code is not known."""
        self.host.loop.unwatch(runner.take)
        if runner.code is None:
            return
        code = runner.code
        how = f"exit status {code}" if code >= 0 else f"signal {-code}"
        self.fail("error", "Runtime.ExitError", f"Runtime exited with error: {how}")
        self.renew()

    def take_head(self, runner: Runner, data: bytes) -> None:
        """Take what precedes the body of an answer."""
        self.buffer += data
        line, found, rest = self.buffer.partition(b"\n")
        if not found:
            if len(line) > PAYLOAD_BYTES_MAX:
                self.give_up("the answer has no head")
            return
        self.buffer = b""
        request = self.request
        try:
            head = decode(line)
            size = body_size(head)
            status = str(head["status"])
            if len(rest) > size or (runner.loaded and (request is None or not request.begun)):
                raise ValueError("an answer that nobody asked for")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.give_up(f"a broken answer: {error}")
            return
        loading, runner.loaded = not runner.loaded, runner.loaded or status == "ok"
        if loading and status == "ok" and (request is None or request.kind == INVOKE):
            if request is not None:
                self.advance()
        elif request is None:
            self.end()  # it could not be loaded again: the next call tries, and is told
        else:
            head["log"] = runner.log.taken()
            request.left = size - len(rest)
            self.host.send(RESULT, request.stream, encode(head) + b"\n" + rest)
            self.passed(request)

    def pass_on(self, request: Request, data: bytes) -> None:
        """Pass a piece of the answer's body on."""
        assert request.left is not None
        request.left -= len(data)
        request.credit -= HEADER.size + len(data)
        if request.left < 0:
            self.give_up("the answer is longer than its head says")
            return
        self.host.send(STDOUT, request.stream, data)
        self.passed(request)

    def passed(self, request: Request) -> None:
        """The request is over once its answer was passed on whole."""
        if request.left == 0:
            self.request = None
            if self.runner is not None and not self.runner.loaded:
                self.end()
                if request.kind == LOAD:
                    self.handler = ""


def body_size(head: Any) -> int:
    """Return how long the body after a head is. Raises ValueError, KeyError, TypeError."""
    size = head["bytes"]
    if not isinstance(size, int) or not 0 <= size <= BODY_BYTES_MAX:
        raise ValueError(f"a body has 0 to {BODY_BYTES_MAX} bytes")
    return size


def write_source(handler: str, source: bytes) -> None:
    """Put the module into memory, for the function's user alone. Raises OSError, ValueError."""
    module, _, function = handler.partition(".")
    if not (module.isidentifier() and function.isidentifier()):
        raise ValueError(f"the handler {handler!r} is no FILE.FUNCTION")
    os.makedirs(FUNCTION_FOLDER, mode=0o750, exist_ok=True)
    for name in os.listdir(FUNCTION_FOLDER):
        os.unlink(f"{FUNCTION_FOLDER}/{name}")
    target = os.open(f"{FUNCTION_FOLDER}/{module}.py", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    with open(target, "wb") as file:
        file.write(source)
    for path in (FUNCTION_FOLDER, f"{FUNCTION_FOLDER}/{module}.py"):
        if os.geteuid() == 0:
            os.chown(path, 0, FUNCTION_UID)
