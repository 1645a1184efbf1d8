"""What storage a node is composed of, and what doctor says of Ceph."""

from __future__ import annotations

import asyncio
import pathlib

import msgspec
import pytest

from blixard.base.config_keys import CephSection, ClusterSection, Config, StorageSection
from blixard.base.errors import BlixardError
from blixard.daemon.storage import close_backends, make_backends, storage_rows
from blixard.ports.volumes import PoolPlan


def config(place: pathlib.Path) -> Config:
    ceph = CephSection(config_file=f"{place}/ceph.conf", keyring=f"{place}/keyring")
    return Config(cluster=ClusterSection(data_dir=str(place)), storage=StorageSection(ceph=ceph))


def test_nothing_is_said_where_no_ceph_is_configured(tmp_path: pathlib.Path) -> None:
    assert storage_rows(config(tmp_path)) == []


def test_missing_keyring_fails_with_what_to_do(tmp_path: pathlib.Path) -> None:
    (tmp_path / "ceph.conf").touch()
    (row,) = storage_rows(config(tmp_path))
    assert (row.check, row.state) == ("ceph", "fail")
    assert "keyring is not there" in row.found
    assert "storage.ceph" in row.hint


def test_ceph_that_answers_is_told(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ceph.conf", "keyring"):
        (tmp_path / name).touch()
    status = {"quorum_names": ["a"], "monmap": {"num_mons": 3}, "osdmap": {"num_osds": 2}}
    out = msgspec.json.encode(status).decode().replace('"', '\\"')
    talker = tmp_path / "talker"
    talker.write_text(
        "#!/bin/sh\nread -r line\n"
        f"""echo '{{"id": 1, "code": 0, "out": "{out}", "err": ""}}'\nread -r line\n"""
    )
    talker.chmod(0o755)
    monkeypatch.setattr("blixard.storage.ceph.link.TALKER", (str(talker),))
    (row,) = storage_rows(config(tmp_path))
    assert (row.state, row.found) == ("ok", "1 of 3 monitors agree, 0 of 2 OSDs up")


def test_node_has_local_pools_without_ceph(tmp_path: pathlib.Path) -> None:
    backends = make_backends(config(tmp_path))

    async def scenario() -> None:
        await backends["local"].ensure_pool(PoolPlan(name="fast", backend="local", replicas=1))
        with pytest.raises(BlixardError, match="STORAGE_UNAVAILABLE"):
            await backends["ceph"].list_volumes("ssd")
        await close_backends(backends)

    asyncio.run(scenario())
    assert (tmp_path / "volumes/fast/pool.json").exists()
