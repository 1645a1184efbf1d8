"""Real guests under QEMU, started by a real guard."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import shutil

import guest_lab as lab
import pytest
from guest_lab import MemoryStream

from blixard.base.errors import BlixardError
from blixard.hypervisors import channel as c
from blixard.hypervisors.guard.client import GuardClient
from blixard.hypervisors.qemu import probe
from blixard.hypervisors.qemu.hypervisor import QemuHypervisor

pytestmark = [
    pytest.mark.guest,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="building guests needs root"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
]

ECHO = """
/bin/busybox mount -t devtmpfs devtmpfs /dev
echo booted
while read -r word; do
  echo "got:$word"
  [ "$word" = end ] && /bin/busybox reboot -f
  [ "$word" = panic ] && exit 1
done
"""


@pytest.fixture
def plain(base: pathlib.Path, tmp_path: pathlib.Path) -> str:
    return lab.make_plain_runner(base, tmp_path, ECHO)


@pytest.fixture
def debian(base: pathlib.Path, tmp_path: pathlib.Path) -> str:
    web = "echo serving; exec sleep 1000"
    services: list[dict[str, object]] = [{"name": "web", "command": ["/bin/sh", "-c", web]}]
    return lab.make_runner(base, tmp_path, services)


async def shows(made: QemuHypervisor, text: str) -> None:
    while not any(text in line for line in made.console_tail("guest1", 50)):
        await asyncio.sleep(0.05)


async def ended(made: QemuHypervisor) -> None:
    while (await made.instances())[0].state != "exited":
        await asyncio.sleep(0.05)


async def executed(made: QemuHypervisor, *command: str, given: bytes = b"") -> MemoryStream:
    stream = MemoryStream()
    if given:
        stream.said.put_nowait(b"\x00" + given)
    stream.said.put_nowait(None)
    await made.exec("guest1", list(command), tty=False, stream=stream)
    return stream


def test_cpus_stand_still_until_resumed(state: pathlib.Path, plain: str) -> None:
    async def scenario(made: QemuHypervisor) -> None:
        started = await made.start_paused(lab.plan(plain))
        live = await made._connect("guest1")
        assert (await live.qmp.execute("query-status"))["status"] == "prelaunch"
        assert made.console_tail("guest1", 5) == []
        await made.resume("guest1")
        await shows(made, "booted")
        (running,) = await made.instances()
        assert (running.state, running.pid) == ("running", started.pid)

    lab.run(state, scenario)


def test_console_passes_keys_and_output(state: pathlib.Path, plain: str) -> None:
    async def scenario(made: QemuHypervisor) -> None:
        await made.start_paused(lab.plan(plain))
        await made.resume("guest1")
        await shows(made, "booted")
        stream = MemoryStream()
        joined = asyncio.ensure_future(made.console("guest1", stream))
        stream.said.put_nowait(b"hello\n")
        while b"got:hello" not in b"".join(stream.told):
            await asyncio.sleep(0.02)
        stream.said.put_nowait(None)
        await joined
        again = MemoryStream()
        again.said.put_nowait(b"end\n")
        await made.console("guest1", again)
        await ended(made)
        (left,) = await made.instances()
        assert (left.exit_code, left.killed_by_guard) == (0, False)
        assert made.console_tail("guest1", 50).count("got:end") == 1

    lab.run(state, scenario)


def test_panic_ends_the_process_and_leaves_words(state: pathlib.Path, plain: str) -> None:
    async def scenario(made: QemuHypervisor) -> None:
        changed: list[str] = []
        made.on_change(changed.append)
        await made.start_paused(lab.plan(plain))
        await made.resume("guest1")
        await shows(made, "booted")
        stream = MemoryStream()
        stream.said.put_nowait(b"panic\n")
        await made.console("guest1", stream)
        await ended(made)
        assert any("Kernel panic" in line for line in made.console_tail("guest1", 50))
        assert "guest1" in changed
        with pytest.raises(BlixardError):
            await made.resume("guest1")

    lab.run(state, scenario)


def test_guest_without_agent_is_killed_on_shutdown(state: pathlib.Path, plain: str) -> None:
    async def scenario(made: QemuHypervisor) -> None:
        await made.start_paused(lab.plan(plain))
        await made.resume("guest1")
        await shows(made, "booted")
        with pytest.raises(BlixardError, match="GUEST_UNREACHABLE"):
            await made.guest_status("guest1")
        await made.shutdown("guest1", grace_s=0.1)
        assert (await made.instances())[0].exit_code == -9
        await made.forget("guest1")
        assert await made.instances() == []
        assert "booted" in made.console_tail("guest1", 5)

    lab.run(state, scenario)


def test_guard_kills_at_the_deadline_without_daemon(state: pathlib.Path, plain: str) -> None:
    async def scenario(made: QemuHypervisor) -> None:
        started = await made.start_paused(lab.plan(plain))
        deadline_ns = lab.boottime_ns(1.0)
        await made.arm("guest1", deadline_ns, epoch=1, seq=0)
        await made.resume("guest1")
        await made.close()
        while pathlib.Path(f"/proc/{started.pid}").exists():
            await asyncio.sleep(0.05)
        assert lab.boottime_ns(0) >= deadline_ns
        (left,) = await made.instances()
        assert (left.exit_code, left.killed_by_guard) == (-9, True)

    lab.run(state, scenario)


def test_next_daemon_adopts_the_guest(state: pathlib.Path, debian: str) -> None:
    async def scenario(made: QemuHypervisor) -> None:
        started = await made.start_paused(lab.plan(debian))
        await made.resume("guest1")
        await lab.ready(made, "guest1")
        await made.close()
        second = QemuHypervisor(str(state), GuardClient(str(state), "other"))
        (found,) = await second.instances()
        assert (found.pid, found.state, found.plan) == (started.pid, "running", started.plan)
        assert (await second.guest_status("guest1")).ready
        await second.pause("guest1")
        await second.resume("guest1")
        assert (await executed(second, "echo", "hi")).of(c.CLIENT_STDOUT) == b"hi\n"
        await second.shutdown("guest1", grace_s=20)
        assert (await second.instances())[0].exit_code == 0
        await second.close()

    lab.run(state, scenario)


def test_agent_serves_and_stops_the_guest(state: pathlib.Path, debian: str) -> None:
    async def scenario(made: QemuHypervisor) -> None:
        await made.start_paused(lab.plan(debian))
        await made.resume("guest1")
        await lab.ready(made, "guest1")
        status = await made.guest_status("guest1")
        assert status.services == {"web": "running"}
        assert status.metrics["memory_total_bytes"] > 100e6
        failed = await executed(made, "/bin/sh", "-c", "hostname; exit 4")
        assert failed.told == [b"\x01web-1\n", b"\x034"]
        data = os.urandom(700_000)
        echoed = await executed(made, "cat", given=data)
        assert echoed.of(c.CLIENT_STDOUT) == data
        await shows(made, "web: serving")
        await made.shutdown("guest1", grace_s=20)
        (left,) = await made.instances()
        assert (left.exit_code, left.killed_by_guard) == (0, False)

    lab.run(state, scenario)


def test_log_is_followed_to_the_client(state: pathlib.Path, debian: str) -> None:
    async def scenario(made: QemuHypervisor) -> None:
        await made.start_paused(lab.plan(debian))
        await made.resume("guest1")
        await lab.ready(made, "guest1")
        stream = MemoryStream()
        following = asyncio.ensure_future(made.logs("guest1", tail=5, follow=True, stream=stream))
        await executed(made, "/bin/sh", "-c", "printf '\\033[31mnew line\\n' > /dev/console")
        while b"new line\n" not in stream.told:
            await asyncio.sleep(0.05)
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following

    lab.run(state, scenario)


def test_kernel_that_is_none_is_a_start_failure(
    state: pathlib.Path, plain: str, accelerator: pathlib.Path
) -> None:
    kernel = pathlib.Path(plain) / "share/microvm/kernel"
    kernel.unlink()
    kernel.write_bytes(b"nothing")

    async def scenario(made: QemuHypervisor) -> None:
        with pytest.raises(BlixardError, match=r"GUEST_START_FAILED.*kernel"):
            await made.start_paused(lab.plan(plain))
        assert await made.instances() == []

    lab.run(state, scenario)


def test_runner_that_is_not_there_is_a_start_failure(state: pathlib.Path) -> None:
    async def scenario(made: QemuHypervisor) -> None:
        with pytest.raises(BlixardError, match="GUEST_START_FAILED"):
            await made.start_paused(lab.plan(str(state / "none")))

    lab.run(state, scenario)


def test_probe_remembers_its_answer(state: pathlib.Path, base: pathlib.Path) -> None:
    kernel = str(base / "share/microvm/kernel")
    first = probe.probe(str(state), kernel)
    assert first.name in ("kvm", "tcg")
    assert first.why
    assert probe.probe(str(state), kernel) == first
