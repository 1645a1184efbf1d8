"""The real agent and the host's real end of its channel, joined by a socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from blixard.base.errors import BlixardError
from blixard.guest import protocol
from blixard.guest.bundle import agent_source
from blixard.hypervisors import channel as c
from blixard.hypervisors.qemu.agent import HELLO_NUMBER, AgentLink
from tests.unit.hypervisors.streams import MemoryStream

ROUND = 400_000
STATUS = b'{"ready": true, "uptime_s": 7.0, "services": {}, "metrics": {}}'
LAB = pathlib.Path(__file__).with_name("agent_process.py")


class Lab:
    """A running agent and a link to it."""

    def __init__(self, link: AgentLink, path: str, output: pathlib.Path) -> None:
        self.link = link
        self.path = path
        self.output = output

    async def run(
        self, *command: str, given: tuple[bytes, ...] = (), tty: bool = False
    ) -> MemoryStream:
        """Run a command to its end with the frames *given*."""
        stream = MemoryStream()
        for frame in given:
            stream.said.put_nowait(frame)
        if not tty:
            stream.said.put_nowait(None)
        await self.link.exec(list(command), tty=tty, stream=stream)
        return stream

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        while not await holds():
            await asyncio.sleep(0.02)


async def answers(link: AgentLink) -> bool:
    """Tell whether the agent is up; on a busy machine that takes longer than one hello waits."""
    try:
        await link.status()
    except BlixardError:
        return False
    return True


@contextlib.asynccontextmanager
async def lab(place: pathlib.Path, services: list[dict[str, object]]) -> AsyncIterator[Lab]:
    config, output, path = place / "services.json", place / "output", str(place / "port")
    config.write_text(json.dumps(services))
    with output.open("wb") as file:
        process = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs yet
            [sys.executable, str(LAB), path, str(place), str(config)], stdout=file, stderr=file
        )
    link = AgentLink(path)
    try:
        async with asyncio.timeout(60):
            while not await answers(link):
                await asyncio.sleep(0.02)
            yield Lab(link, path, output)
    finally:
        await link.close()
        process.kill()
        process.wait()


def run(
    place: pathlib.Path,
    scenario: Callable[[Lab], Awaitable[None]],
    services: list[dict[str, object]] | None = None,
) -> None:
    async def main() -> None:
        async with lab(place, services or []) as made:
            await scenario(made)

    asyncio.run(main())


def service(name: str, script: str, **fields: object) -> dict[str, object]:
    return {"name": name, "command": ["/bin/sh", "-c", script], **fields}


def test_command_gives_output_errors_and_code(tmp_path: pathlib.Path) -> None:
    async def scenario(made: Lab) -> None:
        stream = await made.run("/bin/sh", "-c", "echo out; echo err >&2; exit 7")
        assert stream.of(c.CLIENT_STDOUT) == b"out\n"
        assert stream.of(c.CLIENT_STDERR) == b"err\n"
        assert stream.told[-1] == b"\x037"

    run(tmp_path, scenario)


def test_signal_is_told_as_shells_do(tmp_path: pathlib.Path) -> None:
    async def scenario(made: Lab) -> None:
        assert (await made.run("/bin/sh", "-c", "kill -9 $$")).told[-1] == b"\x03137"

    run(tmp_path, scenario)


def test_unknown_command_is_an_error(tmp_path: pathlib.Path) -> None:
    async def scenario(made: Lab) -> None:
        stream = await made.run("/no/such/command")
        assert stream.told[-1][:1] == b"\x05"
        assert b"No such file" in stream.told[-1]

    run(tmp_path, scenario)


def test_much_data_passes_both_ways(tmp_path: pathlib.Path) -> None:
    data = bytes(range(256)) * (ROUND // 64)

    async def scenario(made: Lab) -> None:
        cut = [data[at : at + 100_000] for at in range(0, len(data), 100_000)]
        stream = await made.run("cat", given=tuple(b"\x00" + piece for piece in cut))
        assert stream.of(c.CLIENT_STDOUT) == data
        assert stream.told[-1] == b"\x030"

    run(tmp_path, scenario)


def test_slow_client_holds_up_nobody(tmp_path: pathlib.Path) -> None:
    async def scenario(made: Lab) -> None:
        stream = MemoryStream()
        stream.reads.clear()
        command = ["/bin/sh", "-c", f"head -c {4 * ROUND} /dev/zero"]
        slow = asyncio.ensure_future(made.link.exec(command, tty=False, stream=stream))
        await asyncio.sleep(0.3)
        assert (await made.link.status()).ready
        assert (await made.run("echo", "hi")).of(c.CLIENT_STDOUT) == b"hi\n"
        stream.reads.set()
        await slow
        assert len(stream.of(c.CLIENT_STDOUT)) == 4 * ROUND

    run(tmp_path, scenario)


def test_command_that_reads_nothing_holds_up_nobody(tmp_path: pathlib.Path) -> None:
    async def scenario(made: Lab) -> None:
        stream = MemoryStream()
        stream.said.put_nowait(b"\x00" + bytes(4 * ROUND))
        idle = asyncio.ensure_future(made.link.exec(["sleep", "60"], tty=False, stream=stream))
        await asyncio.sleep(0.3)
        assert (await made.link.status()).ready
        stream.said.put_nowait(ConnectionError("left"))
        idle.cancel()
        await asyncio.gather(idle, return_exceptions=True)

    run(tmp_path, scenario)


def test_client_that_leaves_ends_the_command(tmp_path: pathlib.Path) -> None:
    async def scenario(made: Lab) -> None:
        stream = MemoryStream()
        script = "echo $$ > pid; sleep 60"
        command = ["/bin/sh", "-c", script]
        running = asyncio.ensure_future(made.link.exec(command, tty=False, stream=stream))
        pid_file = tmp_path / "pid"

        async def started() -> bool:
            return pid_file.exists() and pid_file.read_text().strip() != ""

        await made.until(started)
        stream.said.put_nowait(ConnectionError("left"))
        await running

        async def gone() -> bool:
            return not pathlib.Path("/proc", pid_file.read_text().strip()).exists()

        await made.until(gone)

    run(tmp_path, scenario)


def test_child_in_the_background_does_not_keep_the_client(tmp_path: pathlib.Path) -> None:
    async def scenario(made: Lab) -> None:
        stream = await made.run("/bin/sh", "-c", "sleep 30 & echo $!")
        assert stream.told[-1] == b"\x030"
        pid = int(stream.of(c.CLIENT_STDOUT))
        assert pathlib.Path("/proc", str(pid)).exists()
        await made.run("kill", "-9", str(pid))

    run(tmp_path, scenario)


def test_terminal_has_size_and_end_of_input(tmp_path: pathlib.Path) -> None:
    async def scenario(made: Lab) -> None:
        stream = MemoryStream()
        command = ["/bin/sh", "-c", "read x; stty size; cat; echo done"]
        running = asyncio.ensure_future(made.link.exec(command, tty=True, stream=stream))
        stream.said.put_nowait(b"\x04" + b"100x30")
        stream.said.put_nowait(b"\x00go\n")

        async def shown() -> bool:
            return b"30 100" in stream.of(c.CLIENT_STDOUT)

        await made.until(shown)
        stream.said.put_nowait(None)
        await running
        assert stream.of(c.CLIENT_STDOUT).endswith(b"done\r\n")
        assert stream.told[-1] == b"\x030"

    run(tmp_path, scenario)


def test_output_of_services_has_their_name(tmp_path: pathlib.Path) -> None:
    async def scenario(made: Lab) -> None:
        async def shown() -> bool:
            return b"web: hello\n" in made.output.read_bytes()

        await made.link.status()
        await made.until(shown)

    run(tmp_path, scenario, [service("web", "echo hello; sleep 60")])


def test_services_know_instance_and_node(tmp_path: pathlib.Path) -> None:
    words = 'echo "$BLIXARD_INSTANCE on $BLIXARD_NODE, $MORE"; exec sleep 60'
    service = {"name": "web", "command": ["sh", "-c", words], "env": {"MORE": "and more"}}

    async def body() -> None:
        async with lab(tmp_path, [service]) as here:

            async def said() -> bool:
                return b"web: guest-1 on node1, and more\n" in here.output.read_bytes()

            await here.until(said)

    asyncio.run(body())


def test_ready_once_all_services_run(tmp_path: pathlib.Path) -> None:
    async def scenario(made: Lab) -> None:
        async def ready() -> bool:
            return (await made.link.status()).ready

        await made.until(ready)
        status = await made.link.status()
        assert status.services == {"once": "ended", "web": "running"}
        assert status.metrics["memory_total_bytes"] > 0

    run(tmp_path, scenario, [service("web", "sleep 60"), service("once", "true", restart=False)])


def test_failing_service_is_started_again_and_not_ready(tmp_path: pathlib.Path) -> None:
    async def scenario(made: Lab) -> None:
        async def twice() -> bool:
            return made.output.read_bytes().count(b"ended with code 3") >= 2

        await made.link.status()
        await made.until(twice)
        status = await made.link.status()
        assert not status.ready
        assert b"service bad cannot start" in made.output.read_bytes()

    bad: dict[str, object] = {"name": "bad", "command": ["/no/such"]}
    run(tmp_path, scenario, [service("web", "exit 3"), bad])


def test_service_that_talks_much_loses_output_only(tmp_path: pathlib.Path) -> None:
    async def scenario(made: Lab) -> None:
        async def ready() -> bool:
            return (await made.link.status()).ready

        await made.until(ready)
        assert (await made.run("echo", "hi")).of(c.CLIENT_STDOUT) == b"hi\n"

    run(tmp_path, scenario, [service("loud", "head -c 3000000 /dev/zero; sleep 60")])


def test_host_that_comes_back_is_answered(tmp_path: pathlib.Path) -> None:
    async def scenario(made: Lab) -> None:
        assert (await made.link.status()).ready
        await made.link.close()
        again = AgentLink(made.path)
        try:
            assert (await again.status()).ready
        finally:
            await again.close()

    run(tmp_path, scenario)


def test_half_a_frame_is_survived(tmp_path: pathlib.Path) -> None:
    async def scenario(made: Lab) -> None:
        await made.link.status()
        assert made.link._writer is not None
        made.link._writer.write(c.MAGIC + b"\x02\x00")
        assert (await made.link.status()).ready

    run(tmp_path, scenario)


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b'{"command": [], "tty": false}', b"\xff"])
def test_bad_exec_is_an_error(tmp_path: pathlib.Path, payload: bytes) -> None:
    async def scenario(made: Lab) -> None:
        kind, _ = await made.link._ask(c.EXEC, payload)
        assert kind == c.ERROR
        assert (await made.link.status()).ready

    run(tmp_path, scenario)


def test_hello_amid_a_command_disturbs_nothing(tmp_path: pathlib.Path) -> None:
    async def scenario(made: Lab) -> None:
        stream = MemoryStream()
        running = asyncio.ensure_future(made.link.exec(["cat"], tty=False, stream=stream))
        stream.said.put_nowait(b"\x00before ")
        async with asyncio.timeout(60):
            await made.until(lambda: told(stream, b"before "))
        for _ in range(3):
            made.link._send(c.HELLO, HELLO_NUMBER, b'{"version": 1}')
        assert (await made.link.status()).ready
        stream.said.put_nowait(b"\x00after")
        stream.said.put_nowait(None)
        await running
        assert stream.of(c.CLIENT_STDOUT) == b"before after"

    async def told(stream: MemoryStream, text: bytes) -> bool:
        return stream.of(c.CLIENT_STDOUT) == text

    run(tmp_path, scenario)


def test_lost_hello_is_said_again(tmp_path: pathlib.Path) -> None:
    hellos: list[int] = []
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = protocol.Decoder()
        while data := await reader.read(65_536):
            for kind, number, _ in decoder.feed(data):
                if kind == c.HELLO:
                    hellos.append(number)
                elif kind == c.STATUS:
                    # Answers to further hellos come amid those to other requests.
                    writer.write(c.encode(c.HELLO, hellos[0], b"{}") * 2)
                    writer.write(c.encode(c.STATUS, number, STATUS))
                if kind == c.HELLO and len(hellos) > 1:
                    writer.write(c.encode(c.HELLO, number, b"{}"))
        writer.close()
        left.set()

    async def main() -> None:
        server = await asyncio.start_unix_server(serve, tmp_path / "port")
        link = AgentLink(str(tmp_path / "port"))
        async with server, asyncio.timeout(60):
            assert [(await link.status()).uptime_s for _ in range(3)] == [7.0] * 3
            await link.close()
            await left.wait()

    asyncio.run(main())
    assert len(hellos) >= 2


def test_nobody_there_is_unreachable(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        with pytest.raises(BlixardError, match="GUEST_UNREACHABLE"):
            await AgentLink(str(tmp_path / "none")).status()

    asyncio.run(main())


def test_agent_is_one_file_of_the_standard_library() -> None:
    source = agent_source()
    compile(source, "agent.py", "exec")
    imported = {
        words[1].split(".")[0]
        for line in source.splitlines()
        if (words := line.split()) and words[0] in ("import", "from")
    }
    assert imported <= sys.stdlib_module_names
