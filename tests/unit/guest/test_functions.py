"""The real agent runs real functions; the host's real end of the channel calls them."""

from __future__ import annotations

import asyncio
import json
import pathlib
from typing import Any

import pytest

from blixard.base.errors import BlixardError
from blixard.guest import bundle, protocol
from blixard.hypervisors import channel as c
from blixard.hypervisors.qemu import functions
from blixard.hypervisors.qemu.agent import AgentLink
from blixard.ports.hypervisor import LOG_TAIL_LINES, Invocation, InvocationResult
from tests.unit.guest.test_agent import Lab, run

SOURCE = b"""
import os, subprocess, sys, time
loaded = 0
def handler(event, context):
    global loaded
    loaded += 1
    todo = event.get("do")
    if todo == "raise":
        raise ValueError("no such order")
    if todo == "print":
        print("a line"); print("to errors", file=sys.stderr); sys.stdout.write("no line feed")
    if todo == "flood":
        for number in range(5000): print("line", number)
    if todo == "sleep":
        print("before"); time.sleep(60)
    if todo == "exit":
        print("last words"); os._exit(3)
    if todo == "child":
        return subprocess.Popen(["sleep", "60"]).pid
    if todo == "set":
        return {1}
    if todo == "large":
        return "x" * event["size"]
    if todo == "context":
        return [context.aws_request_id, context.function_name, context.memory_limit_in_mb,
                context.get_remaining_time_in_millis(), os.environ["COLOUR"]]
    return {"event": event, "loaded": loaded, "pid": os.getpid()}
"""


class Deployed:
    """A function in the agent of a lab."""

    def __init__(self, made: Lab) -> None:
        self.link = made.link
        self.lab = made

    async def load(self, source: bytes = SOURCE, handler: str = "main.handler") -> None:
        await functions.load_function(
            self.link,
            source=source,
            handler=handler,
            environment={"COLOUR": "red", "LONG": "ü" * 15_000},
            timeout_s=30.0,
        )

    async def call(self, event: object, deadline_s: float = 30.0) -> InvocationResult:
        call = Invocation(
            request_id="request-7", handler="main.handler", event=json.dumps(event).encode(),
            deadline_s=deadline_s, context={"function_name": "f", "memory_limit_in_mb": "128"},
        )  # fmt: skip
        return await functions.invoke(self.link, call)

    async def value(self, event: object) -> Any:
        result = await self.call(event)
        assert result.status == "ok", result
        return json.loads(result.payload)


def deployed(place: pathlib.Path, scenario: Any, source: bytes = SOURCE) -> None:
    async def main(made: Lab) -> None:
        function = Deployed(made)
        await function.load(source)
        await scenario(function)

    run(place, main)


def test_calls_share_one_warm_process(tmp_path: pathlib.Path) -> None:
    async def scenario(function: Deployed) -> None:
        answers = [await function.value({"n": n, "text": "ü\n"}) for n in range(3)]
        assert [a["loaded"] for a in answers] == [1, 2, 3]
        assert len({a["pid"] for a in answers}) == 1
        assert answers[2]["event"] == {"n": 2, "text": "ü\n"}

    deployed(tmp_path, scenario)


def test_handler_is_told_its_context_and_variables(tmp_path: pathlib.Path) -> None:
    async def scenario(function: Deployed) -> None:
        *names, left_ms, colour = await function.value({"do": "context"})
        assert names == ["request-7", "f", "128"]
        assert 0 < left_ms <= 30_000
        assert colour == "red"

    deployed(tmp_path, scenario)


def test_error_has_type_message_and_trace(tmp_path: pathlib.Path) -> None:
    async def scenario(function: Deployed) -> None:
        result = await function.call({"do": "raise"})
        said = json.loads(result.payload)
        assert (result.status, result.error_type) == ("error", "ValueError")
        assert (said["errorType"], said["errorMessage"]) == ("ValueError", "no such order")
        assert said["requestId"] == "request-7"
        assert len(said["stackTrace"]) == 1
        assert "in handler" in said["stackTrace"][0]
        assert result.log_tail[0] == "[ERROR] ValueError: no such order"
        assert (await function.value({}))["loaded"] == 2

    deployed(tmp_path, scenario)


def test_what_is_no_json_is_an_error(tmp_path: pathlib.Path) -> None:
    async def scenario(function: Deployed) -> None:
        result = await function.call({"do": "set"})
        said = json.loads(result.payload)
        assert result.error_type == "Runtime.MarshalError"
        assert "set is not JSON serializable" in said["errorMessage"]

    deployed(tmp_path, scenario)


def test_output_comes_with_its_call(tmp_path: pathlib.Path) -> None:
    async def scenario(function: Deployed) -> None:
        result = await function.call({"do": "print"})
        assert result.log_tail == ["a line", "to errors", "no line feed"]
        assert (await function.call({})).log_tail == []
        assert b"function: a line\n" in function.lab.output.read_bytes()

    deployed(tmp_path, scenario)


def test_much_output_keeps_its_end(tmp_path: pathlib.Path) -> None:
    async def scenario(function: Deployed) -> None:
        log = (await function.call({"do": "flood"})).log_tail
        assert len(log) == LOG_TAIL_LINES
        assert log[-1] == "line 4999"

    deployed(tmp_path, scenario)


def test_call_that_is_too_late_ends_and_the_next_one_works(tmp_path: pathlib.Path) -> None:
    async def scenario(function: Deployed) -> None:
        before = (await function.value({}))["pid"]
        result = await function.call({"do": "sleep"}, deadline_s=0.3)
        assert (result.status, result.error_type) == ("timeout", "Sandbox.Timedout")
        assert "timed out after 0.30 seconds" in json.loads(result.payload)["errorMessage"]
        assert result.log_tail == ["before"]
        after = await function.value({})
        assert (after["loaded"], after["pid"] != before) == (1, True)
        assert words(before) == ""

    deployed(tmp_path, scenario)


def test_handler_that_exits_ends_only_its_call(tmp_path: pathlib.Path) -> None:
    async def scenario(function: Deployed) -> None:
        result = await function.call({"do": "exit"})
        said = json.loads(result.payload)
        assert (result.status, said["errorType"]) == ("error", "Runtime.ExitError")
        assert said["errorMessage"] == "Runtime exited with error: exit status 3"
        assert result.log_tail == ["last words"]
        assert (await function.value({}))["loaded"] == 1

    deployed(tmp_path, scenario)


def test_large_events_and_results_pass(tmp_path: pathlib.Path) -> None:
    size = c.BODY_BYTES_MAX - 100

    async def scenario(function: Deployed) -> None:
        assert await function.value({"do": "large", "size": 1 << 20}) == "x" * (1 << 20)
        assert await function.value({"do": "large", "size": size}) == "x" * size
        event = {"big": "y" * size}
        answer = await function.value(event)
        assert answer["event"] == event

    deployed(tmp_path, scenario)


def test_too_much_is_refused_on_both_ends(tmp_path: pathlib.Path) -> None:
    async def scenario(function: Deployed) -> None:
        result = await function.call({"do": "large", "size": c.BODY_BYTES_MAX})
        assert result.error_type == "Function.ResponseSizeTooLarge"
        with pytest.raises(BlixardError, match="TOO_LARGE"):
            await function.call("x" * c.BODY_BYTES_MAX)
        assert (await function.value({}))["loaded"] == 2

    deployed(tmp_path, scenario)


@pytest.mark.parametrize(
    ("source", "handler", "said"),
    [
        (b"def handler(:\n", "main.handler", "Runtime.UserCodeSyntaxError: .*main.py, line 1"),
        (b"import nothing_there\n", "main.handler", "Runtime.ImportModuleError: .*nothing_there"),
        (b"x = 1\n", "main.handler", "Runtime.HandlerNotFound: Handler 'handler' missing"),
        (b"handler = 1\n", "main.handler", "Runtime.HandlerNotFound"),
        (b"1 / 0\n", "main.handler", "ZeroDivisionError: division by zero"),
        (b"import os; os._exit(4)\n", "main.handler", "Runtime.ExitError: .*exit status 4"),
        (b"x = 1\n", "../main.handler", "Runtime.MalformedHandlerName"),
        (b"x = 1\n", "main", "Runtime.MalformedHandlerName"),
        (b"\xff\x00", "main.handler", "Runtime.UserCodeSyntaxError"),
    ],
)
def test_bad_source_is_told(tmp_path: pathlib.Path, source: bytes, handler: str, said: str) -> None:
    async def scenario(made: Lab) -> None:
        function = Deployed(made)
        with pytest.raises(BlixardError, match=f"FUNCTION_LOAD_FAILED: .*{said}"):
            await function.load(source, handler)
        with pytest.raises(BlixardError, match=r"GUEST_UNREACHABLE.*no function is loaded"):
            await function.call({})
        await function.load()
        assert (await function.value({}))["loaded"] == 1

    run(tmp_path, scenario)


def test_import_that_takes_too_long_is_a_failure(tmp_path: pathlib.Path) -> None:
    async def scenario(made: Lab) -> None:
        with pytest.raises(BlixardError, match=r"FUNCTION_LOAD_FAILED.*timed out after 0.20"):
            await functions.load_function(
                made.link, source=b"import time; time.sleep(60)", handler="main.handler",
                environment={}, timeout_s=0.2,
            )  # fmt: skip

    run(tmp_path, scenario)


def test_second_call_at_once_is_refused(tmp_path: pathlib.Path) -> None:
    async def scenario(function: Deployed) -> None:
        first = asyncio.ensure_future(function.call({"do": "sleep"}, deadline_s=1.0))
        await asyncio.sleep(0.2)
        with pytest.raises(BlixardError, match=r"GUEST_UNREACHABLE.*at another call"):
            await function.call({})
        assert (await function.link.status()).ready
        assert (await first).status == "timeout"

    deployed(tmp_path, scenario)


def test_caller_that_leaves_frees_the_function(tmp_path: pathlib.Path) -> None:
    async def scenario(function: Deployed) -> None:
        before = (await function.value({}))["pid"]
        first = asyncio.ensure_future(function.call({"do": "sleep"}))
        await asyncio.sleep(0.2)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert (await function.value({}))["pid"] != before
        assert not function.link._streams

    deployed(tmp_path, scenario)


def test_what_a_handler_started_goes_with_it(tmp_path: pathlib.Path) -> None:
    async def scenario(function: Deployed) -> None:
        child = await function.value({"do": "child"})
        assert pathlib.Path(f"/proc/{child}").exists()
        await function.call({"do": "exit"})

        async def gone() -> bool:
            return "sleep" not in words(child)

        await function.lab.until(gone)

    deployed(tmp_path, scenario)


def words(pid: int) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_lost_connection_ends_the_call(tmp_path: pathlib.Path) -> None:
    async def scenario(function: Deployed) -> None:
        call = asyncio.ensure_future(function.call({"do": "sleep"}))
        await asyncio.sleep(0.2)
        assert function.link._writer is not None
        function.link._writer.close()
        with pytest.raises(BlixardError, match="GUEST_UNREACHABLE"):
            await call
        assert (await function.value({}))["loaded"] == 1

    deployed(tmp_path, scenario)


def test_source_is_read_by_its_user_alone(tmp_path: pathlib.Path) -> None:
    async def scenario(_function: Deployed) -> None:
        folder = tmp_path / "function"
        assert folder.stat().st_mode & 0o007 == 0
        assert [f.stat().st_mode & 0o777 for f in folder.iterdir()] == [0o640]

    deployed(tmp_path, scenario)


@pytest.mark.parametrize("answers", [b'{"version": 1}', b"{}", b"[]", b"\xff"])
def test_older_agent_is_a_clear_error(tmp_path: pathlib.Path, answers: bytes) -> None:
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = protocol.Decoder()
        while data := await reader.read(65_536):
            for kind, number, _ in decoder.feed(data):
                if kind == c.HELLO:
                    writer.write(c.encode(c.HELLO, number, answers))
        writer.close()
        await writer.wait_closed()
        left.set()

    async def main() -> None:
        path = str(tmp_path / "port")
        async with await asyncio.start_unix_server(serve, path):
            link = AgentLink(path)
            with pytest.raises(BlixardError, match="older than functions") as caught:
                await functions.load_function(
                    link, source=SOURCE, handler="main.handler", environment={}, timeout_s=5.0
                )
            assert "build the guest's image again" in caught.value.hint
            await link.close()
            await left.wait()

    asyncio.run(main())


HEAD = b'{"status": "ok", "bytes": %d}\n'


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([(c.RESULT, b"no head\n1")], "JSON is malformed"),
        ([(c.RESULT, HEAD % 4 + b"no J")], "JSON is malformed"),
        ([(c.RESULT, HEAD % 1 + b"12")], "longer than it said"),
        ([(c.RESULT, HEAD % 4 + b"12"), (c.STDOUT, b"345")], "longer than it said"),
        ([(c.RESULT, HEAD % (c.BODY_BYTES_MAX + 1))], "too large"),
        ([(c.RESULT, HEAD % -1)], "too large"),
        ([(c.RESULT, HEAD % 4), (c.ERROR, b"Runtime\x1b[31m ended")], "says: Runtime ended"),
    ],
)
def test_hostile_answer_is_an_error(frames: list[tuple[int, bytes]], said: str) -> None:
    async def main() -> None:
        transfer = functions.Transfer(lambda _kind, _payload: None)
        for kind, payload in frames:
            transfer.take(kind, payload)
        with pytest.raises(BlixardError, match=f"GUEST_UNREACHABLE.*{said}"):
            await transfer.run(c.INVOKE, {}, b"1")
        transfer.take(c.STDOUT, b"late")

    asyncio.run(main())


def test_names_of_the_shipped_file_are_used_once() -> None:
    import ast

    source = bundle.agent_source()
    names = [
        node.name
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    assert len(names) == len(set(names))
