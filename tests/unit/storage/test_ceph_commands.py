"""Ceph's programs, played by small scripts: deadlines, errors, and that no secret is an argument."""

from __future__ import annotations

import asyncio
import pathlib

import pytest

from blixard.base.errors import BlixardError
from blixard.ports.volumes import PoolPlan
from blixard.storage.ceph.backend import CephVolumes, write
from blixard.storage.ceph.commands import CephCommands, CephConfig, CephFailed


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


def test_hanging_program_is_ended(config: CephConfig, tmp_path: pathlib.Path) -> None:
    script(tmp_path, "ceph", f"echo $$ > {tmp_path}/pid; exec sleep 60")
    with pytest.raises(BlixardError, match=r"STORAGE_UNAVAILABLE.*no answer within 0.3 s"):
        asyncio.run(CephCommands(config).ceph("status"))
    assert not pathlib.Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_error_has_the_programs_last_words(config: CephConfig, tmp_path: pathlib.Path) -> None:
    script(tmp_path, "rbd", "echo first >&2; echo 'rbd: no such image' >&2; exit 2")
    with pytest.raises(CephFailed, match="rbd info: rbd: no such image") as caught:
        asyncio.run(CephCommands(config).rbd("info"))
    assert caught.value.code == 2


def test_absent_program_and_absent_files_are_named(
    config: CephConfig, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BlixardError, match=r"STORAGE_UNAVAILABLE.*ceph: No such file") as caught:
        asyncio.run(CephCommands(config).ceph("status"))
    assert caught.value.hint == "apt-get install ceph-common"
    (tmp_path / "keyring").unlink()
    with pytest.raises(BlixardError, match=r"STORAGE_UNAVAILABLE.*keyring is not there"):
        asyncio.run(CephCommands(config).ceph("status"))


def test_own_user_is_given_by_file(config: CephConfig, tmp_path: pathlib.Path) -> None:
    script(tmp_path, "rados", 'echo "$@"')
    said = asyncio.run(CephCommands(config).rados("ssd", "ls")).decode().split()
    reach = ["--conf", config.conf, "--id", "me", "--keyring", config.keyring]
    assert said == [*reach, "--pool", "ssd", "ls"]


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


def test_answer_of_another_shape_is_an_error(config: CephConfig, tmp_path: pathlib.Path) -> None:
    script(tmp_path, "ceph", "echo '{\"pools\": 1}'")
    with pytest.raises(BlixardError, match=r"STORAGE_UNAVAILABLE.*does not know"):
        asyncio.run(
            CephVolumes(config, str(tmp_path)).ensure_pool(PoolPlan(name="p", backend="ceph"))
        )


def test_unknown_health_is_no_error(config: CephConfig, tmp_path: pathlib.Path) -> None:
    script(tmp_path, "ceph", "exec sleep 60")
    health = asyncio.run(CephVolumes(config, str(tmp_path)).pool_health("ssd"))
    assert (health.state, "no answer" in health.reason) == ("unknown", True)


def test_key_is_readable_by_its_owner_alone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "key"
    path.touch(mode=0o644)
    write(str(path), b"secret", 0o600)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"secret", 0o600)
