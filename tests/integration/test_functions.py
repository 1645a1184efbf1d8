"""Functions in real guests: through the adapter alone, and all the way from the command line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Awaitable, Iterator
from typing import Any, TypeVar

import guest_lab as lab
import pytest
from control_plane import NodeUnderTest, Ran, control_plane, until

from blixard.base.errors import BlixardError
from blixard.hypervisors import channel as c
from blixard.hypervisors.qemu.hypervisor import QemuHypervisor
from blixard.ports.guests import GuestRecipe
from blixard.ports.hypervisor import Invocation, InvocationResult

pytestmark = [
    pytest.mark.guest,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="building guests needs root"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
]

GUEST_S = 120.0
CALL_S = 200.0  # three boots on a busy machine
ROOT = pathlib.Path(__file__).parents[2]
SOURCE = b"""
import os, signal, subprocess, time
calls = 0
def handler(event, context):
    global calls
    calls += 1
    todo = event.get("do")
    if todo == "raise":
        raise ValueError("no such order")
    if todo == "sleep":
        print("going to sleep"); time.sleep(60)
    if todo == "exit":
        os._exit(3)
    if todo == "attack":
        for target in (1, os.getppid()):
            try: os.kill(target, signal.SIGKILL)
            except PermissionError: print("not permitted")
        return [open("/proc/1/environ").read()]
    if todo == "memory":
        group = open("/proc/self/cgroup").read().strip()
        most = int(open("/sys/fs/cgroup" + group.split("::")[1] + "/memory.max").read())
        return [group, most, 1024 * int(open("/proc/meminfo").readline().split()[1])]
    if todo == "eat":
        held = []
        while True: held.append(b"x" * (1 << 22))
    if todo == "large":
        return "x" * (1 << 20)
    if todo == "who":
        return [os.getuid(), os.getgroups(), os.access("/run/blixard-function", os.W_OK),
                subprocess.run(["hostname"], capture_output=True, text=True).stdout]
    print("call", calls)
    return {"calls": calls, "event": event, "for": context.function_name}
"""
T = TypeVar("T")


class Guest:
    """One booted guest for all tests of this file; *runner* holds the loop it belongs to."""

    def __init__(self, runner: asyncio.Runner, made: QemuHypervisor) -> None:
        self._runner = runner
        self.made = made

    def run(self, work: Awaitable[T]) -> T:
        async def limited() -> T:
            async with asyncio.timeout(GUEST_S):
                return await work

        return self._runner.run(limited())

    def load(self, source: bytes = SOURCE) -> None:
        self.run(
            self.made.load_function(
                "guest1", source=source, handler="main.handler", environment={}, timeout_s=30.0
            )
        )

    async def called(self, event: object, deadline_s: float = 30.0) -> InvocationResult:
        call = Invocation(
            request_id="r1", handler="main.handler", event=json.dumps(event).encode(),
            deadline_s=deadline_s, context={"function_name": "hello"},
        )  # fmt: skip
        return await self.made.invoke("guest1", call)

    def call(self, event: object, deadline_s: float = 30.0) -> InvocationResult:
        return self.run(self.called(event, deadline_s))

    def value(self, event: object) -> Any:
        result = self.call(event)
        assert result.status == "ok", result
        return json.loads(result.payload)


async def booted(made: QemuHypervisor, runner: str) -> None:
    await made.start_paused(lab.plan(runner, memory_mib=160))
    await made.resume("guest1")
    await lab.ready(made, "guest1")


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    place = pathlib.Path(tempfile.mkdtemp(prefix="bx-"))
    runner = lab.make_runner(lab.base_runner(), tmp_path_factory.mktemp("guest"), [])
    with asyncio.Runner() as loop, contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, place)
        entered = lab.hypervisor(place, lab.CACHE)
        made = loop.run(entered.__aenter__())
        stack.callback(lambda: loop.run(entered.__aexit__(None, None, None)))
        found = Guest(loop, made)
        found.run(booted(made, runner))
        found.load()
        yield found


def test_calls_share_a_warm_process(guest: Guest) -> None:
    before = guest.value({})["calls"]
    result = guest.call({"name": "ü"})
    assert json.loads(result.payload) == {
        "calls": before + 1, "event": {"name": "ü"}, "for": "hello"
    }  # fmt: skip
    assert result.log_tail == [f"call {before + 1}"]
    assert f"function: call {before + 1}" in guest.made.console_tail("guest1", 50)


def test_error_has_type_and_trace(guest: Guest) -> None:
    result = guest.call({"do": "raise"})
    said = json.loads(result.payload)
    assert (result.status, result.error_type) == ("error", "ValueError")
    assert said["errorMessage"] == "no such order"
    assert '/run/blixard-function/main.py", line 9, in handler' in said["stackTrace"][0]


def test_call_too_late_is_ended_and_the_next_one_works(guest: Guest) -> None:
    result = guest.call({"do": "sleep"}, deadline_s=0.5)
    assert (result.status, result.log_tail) == ("timeout", ["going to sleep"])
    assert guest.value({})["calls"] == 1


@pytest.mark.parametrize(("do", "how"), [("exit", "exit status 3"), ("eat", "signal 9")])
def test_process_that_ends_takes_only_its_call_along(guest: Guest, do: str, how: str) -> None:
    result = guest.call({"do": do})
    said = json.loads(result.payload)
    assert (said["errorType"], said["errorMessage"].endswith(how)) == ("Runtime.ExitError", True)
    assert guest.value({})["calls"] == 1


def test_memory_of_a_function_is_bounded_below_the_guest_s(guest: Guest) -> None:
    group, most, total = guest.value({"do": "memory"})
    assert group == "0::/blixard-function"
    assert 16 << 20 <= most < total - (16 << 20)


def test_handler_has_no_power_over_the_agent(guest: Guest) -> None:
    assert guest.value({"do": "who"}) == [993, [], False, "web-1\n"]
    result = guest.call({"do": "attack"})
    assert result.error_type == "PermissionError"
    assert result.log_tail[:2] == ["not permitted", "not permitted"]
    assert guest.run(guest.made.guest_status("guest1")).ready


def test_large_events_and_results_pass(guest: Guest) -> None:
    assert guest.value({"do": "large"}) == "x" * (1 << 20)
    event = {"data": "y" * (1 << 20)}
    assert guest.value(event)["event"] == event


def test_exec_and_status_work_amid_a_call(guest: Guest) -> None:
    async def scenario() -> InvocationResult:
        call = asyncio.ensure_future(guest.called({"do": "sleep"}, deadline_s=1.0))
        stream = lab.MemoryStream()
        stream.said.put_nowait(None)
        await guest.made.exec("guest1", ["echo", "hi"], tty=False, stream=stream)
        assert stream.of(c.CLIENT_STDOUT) == b"hi\n"
        assert (await guest.made.guest_status("guest1")).ready
        return await call

    assert guest.run(scenario()).status == "timeout"


def test_bad_source_is_told_and_replaced(guest: Guest) -> None:
    with pytest.raises(BlixardError, match=r"FUNCTION_LOAD_FAILED.*main.py, line 2"):
        guest.load(b"x = 1\ndef handler(:\n")
    guest.load()
    assert guest.value({})["calls"] == 1


def test_guest_that_ends_amid_a_call_is_unreachable(guest: Guest) -> None:
    async def scenario() -> None:
        call = asyncio.ensure_future(guest.called({"do": "sleep"}, deadline_s=GUEST_S))
        await asyncio.sleep(0.3)
        await guest.made.kill("guest1")
        await call

    with pytest.raises(BlixardError, match="GUEST_UNREACHABLE"):
        guest.run(scenario())


# -- the whole way: command line, three nodes, a microVM --

BROKEN = "def handler(event, context):\n    return event['missing'\n"
FAILING = "def handler(event, context):\n    print('to be seen')\n    return 1 / event['by']\n"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeUnderTest]]:
    with control_plane(tmp_path_factory.mktemp("functions"), 3) as plane:
        plane.build(GuestRecipe())
        (plane.root / "examples").symlink_to(ROOT / "examples")
        for node in plane.nodes:
            until(lambda n=node: votes(n), 60, lambda: "three voters")
        yield plane.nodes


def votes(node: NodeUnderTest) -> bool:
    return len(node.json("cluster", "status")["voters"]) == 3


def invoked(node: NodeUnderTest, name: str, *words: str) -> Ran:
    return node.cli("function", "invoke", name, *words, timeout_s=CALL_S)


def deployed(node: NodeUnderTest, name: str, source: pathlib.Path | str, *flags: str) -> None:
    ran = node.cli("function", "deploy", name, str(source), *flags, timeout_s=120)
    assert ran.code == 0, ran.err


@pytest.mark.netns
def test_first_call_boots_and_the_next_ones_are_warm_from_any_node(
    nodes: list[NodeUnderTest],
) -> None:
    deployed(nodes[0], "hello", "examples/hello.py", "--idle-timeout", "10m")
    first = invoked(nodes[0], "hello", "--data", '{"name": "Ada"}', "--logs")
    assert first.code == 0, first.err
    assert first.err.splitlines()[0].startswith("greeting Ada, ")
    assert "cold start on node" in first.err
    answers = [json.loads(first.out)]
    until(lambda: all(idle(node) for node in nodes), 30, lambda: "every node knows the instance")
    for node in nodes:
        ran = invoked(node, "hello", "--data", '{"name": "Ada"}')
        assert (ran.code, ran.err.startswith("warm on node")) == (0, True), ran.err
        answers.append(json.loads(ran.out))
    # On a busy machine the first call may have had several instances started for it.
    for name in {answer["instance"] for answer in answers}:
        counts = [answer["calls"] for answer in answers if answer["instance"] == name]
        assert counts == list(range(1, len(counts) + 1))
    assert answers[-1]["calls"] > 1
    until(lambda: calls(nodes[1]) >= 4, 30, lambda: "what nodes say of their calls arrives")


def calls(node: NodeUnderTest) -> int:
    return int(node.json("function", "list")["items"][0]["status"]["calls"])


def idle(node: NodeUnderTest) -> bool:
    return bool(node.json("function", "status", "hello")["status"]["idle"])


@pytest.mark.netns
def test_errors_of_code_are_told_and_new_code_replaces_it(nodes: list[NodeUnderTest]) -> None:
    source = nodes[0].plane.root / "sums.py"
    source.write_text(FAILING)
    deployed(nodes[0], "sums", source)
    good = invoked(nodes[1], "sums", "--data", '{"by": 2}')
    assert (good.code, good.out) == (0, "0.5\n"), good.err
    ran = invoked(nodes[2], "sums", "--data", '{"by": 0}', "--logs")
    assert (ran.code, ran.out) == (1, "")
    assert "error[FUNCTION_FAILED]: ZeroDivisionError: division by zero" in ran.err
    assert ran.err.startswith("to be seen\n")
    source.write_text(BROKEN)
    deployed(nodes[0], "sums", source)
    ran = invoked(nodes[0], "sums", "--data", '{"by": 1}')
    assert "error[FUNCTION_LOAD_FAILED]" in ran.err
    assert "sums.py, line 2" in ran.err
    gone = nodes[0].cli("function", "delete", "sums", "hello", "--yes")
    assert gone.code == 0, gone.err
    assert invoked(nodes[0], "hello").code == 3
