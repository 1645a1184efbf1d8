"""Ceph's programs and the talker, played by small scripts: deadlines, errors, no secret arguments."""

from __future__ import annotations

import asyncio
import json
import pathlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import pytest

from blixard.base.errors import BlixardError
from blixard.ports.volumes import PoolPlan
from blixard.storage.ceph.backend import CephVolumes
from blixard.storage.ceph.commands import CephCommands
from blixard.storage.ceph.link import CephConfig, CephFailed, CephLink

T = TypeVar("T")


@pytest.fixture
def config(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> CephConfig:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name in ("conf", "keyring"):
        (tmp_path / name).touch()
    place = str(tmp_path)
    return CephConfig(conf=f"{place}/conf", user="me", keyring=f"{place}/keyring", call_s=0.3)


def script(tmp_path: pathlib.Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def talker(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Play the talker by a shell's words, which find a request in ``line``."""

    def play(text: str) -> None:
        script(
            tmp_path, "talker", f"echo $$ >> {tmp_path}/pid\nwhile read -r line; do {text}; done"
        )
        monkeypatch.setattr("blixard.storage.ceph.link.TALKER", (str(tmp_path / "talker"),))

    return play


def said(out: str, number: int = 1, code: int = 0) -> str:
    answer = json.dumps({"id": number, "code": code, "out": out, "err": "so it is"})
    return f"echo '{answer}'"


async def closed(ceph: CephLink | CephVolumes, call: Awaitable[T]) -> T:
    try:
        return await call
    finally:
        await ceph.close()


def test_hanging_program_is_ended(config: CephConfig, tmp_path: pathlib.Path) -> None:
    script(tmp_path, "rbd", f"echo $$ > {tmp_path}/pid; exec sleep 60")
    with pytest.raises(BlixardError, match=r"STORAGE_UNAVAILABLE.*no answer within 0.3 s"):
        asyncio.run(CephCommands(config).rbd("ls"))
    assert not pathlib.Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_hanging_connection_is_ended_and_made_again(
    config: CephConfig, tmp_path: pathlib.Path, talker: Callable[[str], None]
) -> None:
    talker(f"[ -e {tmp_path}/once ] && {said('well', 2)}; touch {tmp_path}/once")

    async def scenario() -> None:
        link = CephLink(msgspec.structs.replace(config, call_s=2.0))
        with pytest.raises(BlixardError, match=r"STORAGE_UNAVAILABLE.*status: no answer"):
            await link.ask("mon", "status")
        assert await closed(link, link.ask("mon", "status")) == b"well"

    asyncio.run(scenario())
    pids = (tmp_path / "pid").read_text().split()
    assert len(pids) == 2
    assert not [pid for pid in pids if pathlib.Path(f"/proc/{pid}").exists()]


def test_refused_command_has_its_reason(config: CephConfig, talker: Callable[[str], None]) -> None:
    talker(said("", code=2))
    link = CephLink(config)
    with pytest.raises(CephFailed, match="auth del: so it is") as caught:
        asyncio.run(closed(link, link.ask("mon", "auth del")))
    assert caught.value.code == 2


def test_lost_connection_says_why(config: CephConfig, talker: Callable[[str], None]) -> None:
    talker(f"{said('', 0, 13)}; exit 0")
    link = CephLink(config)
    with pytest.raises(BlixardError, match=r"STORAGE_UNAVAILABLE.*no connection to Ceph: so it is"):
        asyncio.run(closed(link, link.ask("mon", "status")))


def test_error_has_the_programs_last_words(config: CephConfig, tmp_path: pathlib.Path) -> None:
    script(tmp_path, "rbd", "echo first >&2; echo 'rbd: no such image' >&2; exit 2")
    with pytest.raises(CephFailed, match="rbd info: rbd: no such image") as caught:
        asyncio.run(CephCommands(config).rbd("info"))
    assert caught.value.code == 2


def test_absent_program_and_absent_files_are_named(
    config: CephConfig, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BlixardError, match=r"STORAGE_UNAVAILABLE.*rbd: No such file") as caught:
        asyncio.run(CephCommands(config).rbd("ls"))
    assert caught.value.hint == "apt-get install ceph-common"
    (tmp_path / "keyring").unlink()
    with pytest.raises(BlixardError, match=r"STORAGE_UNAVAILABLE.*keyring is not there"):
        asyncio.run(CephCommands(config).ask("status"))


def test_own_user_is_given_by_file(config: CephConfig, tmp_path: pathlib.Path) -> None:
    script(tmp_path, "rados", 'echo "$@"')
    words = asyncio.run(CephCommands(config).rados("ssd", "ls")).decode().split()
    reach = ["--conf", config.conf, "--id", "me", "--keyring", config.keyring]
    assert words == [*reach, "--pool", "ssd", "ls"]


@pytest.mark.parametrize(
    ("code", "expected"), [(28, "POOL_FULL"), (122, "POOL_FULL"), (5, "STORAGE_UNAVAILABLE")]
)
def test_errors_are_translated(
    config: CephConfig, tmp_path: pathlib.Path, code: int, expected: str
) -> None:
    script(tmp_path, "rbd", f"exit {code}")
    pools = CephVolumes(config, str(tmp_path / "keys"))
    with pytest.raises(BlixardError) as caught:
        asyncio.run(pools.ensure_volume("ssd", "v1", 1 << 20))
    assert caught.value.code == expected


def test_answer_of_another_shape_is_an_error(
    config: CephConfig, tmp_path: pathlib.Path, talker: Callable[[str], None]
) -> None:
    talker(said('{"pools": 1}'))
    pools = CephVolumes(config, str(tmp_path))
    with pytest.raises(BlixardError, match=r"STORAGE_UNAVAILABLE.*does not know"):
        asyncio.run(closed(pools, pools.ensure_pool(PoolPlan(name="p", backend="ceph"))))


def test_unknown_health_is_no_error(
    config: CephConfig, tmp_path: pathlib.Path, talker: Callable[[str], None]
) -> None:
    talker(":")
    pools = CephVolumes(config, str(tmp_path))
    health = asyncio.run(closed(pools, pools.pool_health("ssd")))
    assert (health.state, "no answer" in health.reason) == ("unknown", True)
