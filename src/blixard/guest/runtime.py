"""The process that runs a function: imports its module once, then answers one call after another.

It is a child of the agent, with what AWS Lambda's Python runtime gives a handler. Calls come on
descriptor 3, answers leave on 4: a line of JSON that says how many ``bytes`` follow, then those.
Everything that the handler prints goes to the agent, which keeps the last of it for the caller.
"""

from __future__ import annotations

import os
import sys
import time

from blixard.guest.protocol import BODY_BYTES_MAX
from blixard.guest.text import decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, BinaryIO

    Handler = Callable[[Any, "FunctionContext"], Any]

REQUESTS, RESPONSES = 3, 4
MESSAGE_MAX = 16 * 1024
FRAMES_MAX = 50


class FunctionContext:
    """The handler's second parameter, with AWS Lambda's names; what the host says stands in it."""

    def __init__(self, head: dict[str, Any]) -> None:
        self.function_name = self.function_version = self.invoked_function_arn = ""
        self.memory_limit_in_mb = ""
        self.__dict__.update({str(k): str(v) for k, v in head.get("context", {}).items()})
        self.aws_request_id = self.request_id = str(head["id"])
        self._deadline = time.monotonic() + float(head["remaining_s"])

    def get_remaining_time_in_millis(self) -> int:
        """Return how long the call may still take."""
        return max(0, int((self._deadline - time.monotonic()) * 1000))


def serve_function(name: str) -> None:
    """Load the handler *name* (``module.function``) of the working directory; serve for ever."""
    with open(REQUESTS, "rb") as requests, open(RESPONSES, "wb") as responses:
        for descriptor in (REQUESTS, RESPONSES):
            os.set_inheritable(descriptor, False)
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(  # type: ignore[union-attr]
                encoding="utf-8", errors="backslashreplace", line_buffering=True
            )
        sys.path.insert(0, os.getcwd())
        sys.argv = [name]
        try:
            handler = load_handler(name)
        except Exception as error:
            answer(responses, "error", *failed(load_error(error, name), error))
            return
        answer(responses, "ok", b"null")
        while line := requests.readline():
            head = decode(line)
            event = requests.read(head["bytes"])
            began = time.perf_counter()
            status, payload, kind = run(handler, event, FunctionContext(head))
            answer(responses, status, payload, kind, time.perf_counter() - began)


def load_handler(name: str) -> Handler:
    """Import the module and return its function. Raises whatever the module raises."""
    module_name, _, attribute = name.rpartition(".")
    __import__(module_name)
    found: Handler = getattr(sys.modules[module_name], attribute)
    if not callable(found):
        raise AttributeError(f"{name} is no function", name=attribute)  # noqa: TRY004 - as if absent
    return found


def load_error(error: Exception, name: str) -> tuple[str, str]:
    """Return type and message as AWS Lambda gives them."""
    module, _, attribute = name.rpartition(".")
    if isinstance(error, SyntaxError):
        return "Runtime.UserCodeSyntaxError", f"Syntax error in module '{module}': {error}"
    if isinstance(error, ImportError):
        return "Runtime.ImportModuleError", f"Unable to import module '{module}': {error}"
    if isinstance(error, AttributeError) and error.name == attribute:
        return "Runtime.HandlerNotFound", f"Handler '{attribute}' missing on module '{module}'"
    return type(error).__name__, message_of(error)


def run(handler: Handler, event: bytes, context: FunctionContext) -> tuple[str, bytes, str]:
    """Run the handler once; return status, payload, type of the error."""
    try:
        value = decode(event)
    except Exception as error:
        kind = "Runtime.UnmarshalError"
        return "error", *failed((kind, f"Unable to unmarshal input: {error}"), error, context)
    try:
        value = handler(value, context)
    except Exception as error:
        return "error", *failed((type(error).__name__, message_of(error)), error, context)
    try:
        payload = encode(value)
    except Exception as error:
        kind = "Runtime.MarshalError"
        return "error", *failed((kind, f"Unable to marshal response: {error}"), error, context)
    if len(payload) > BODY_BYTES_MAX:
        text = f"Response payload size exceeded maximum allowed payload size ({BODY_BYTES_MAX})."
        return "error", *failed(("Function.ResponseSizeTooLarge", text), None, context)
    return "ok", payload, ""


def message_of(error: Exception) -> str:
    """Return what an error says, whatever its class does."""
    try:
        return str(error)
    except Exception as worse:
        return f"no message: {type(worse).__name__}"


def failed(
    words: tuple[str, str], error: Exception | None, context: FunctionContext | None = None
) -> tuple[bytes, str]:
    """Log an error; return it as AWS Lambda's document, and its type."""
    import traceback  # 0.1 s of an emulated guest: only who fails pays for it

    kind, message = words[0], words[1][:MESSAGE_MAX]
    own = serve_function.__code__.co_filename
    frames = traceback.extract_tb(error.__traceback__, limit=-FRAMES_MAX) if error else []
    shown = [f for f in frames if f.filename != own and not f.filename.startswith("<frozen ")]
    trace = [line[:MESSAGE_MAX] for line in traceback.format_list(shown)]
    heading = ["Traceback (most recent call last):\n"] if trace else []
    text = "".join([f"[ERROR] {kind}: {message}\n", *heading, *trace])
    print(text, end="", file=sys.__stderr__)  # the handler may have replaced sys.stderr
    document = {"errorMessage": message, "errorType": kind, "stackTrace": trace}
    if context is not None:
        document["requestId"] = context.request_id
    return encode(document), kind


def answer(
    responses: BinaryIO, status: str, payload: bytes, kind: str = "", seconds: float = 0.0
) -> None:
    """Give what was printed to the agent, then the answer."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue  # the handler closed it or put something else there
    head = {
        "status": status, "error_type": kind[:200], "duration_ms": seconds * 1000,
        "bytes": len(payload),
    }  # fmt: skip
    responses.write(encode(head) + b"\n" + payload)
    responses.flush()
