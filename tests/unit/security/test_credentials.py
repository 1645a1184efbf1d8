from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from authorities import TestAuthority

from blixard.base.errors import BlixardError
from blixard.runtime.disk import RealDisk
from blixard.security import credentials


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[RealDisk]:
    opened = RealDisk(str(tmp_path))
    yield opened
    opened.close()


def test_identity_is_read_again(disk: RealDisk) -> None:
    assert credentials.load_identity(disk) is None
    first, second = TestAuthority().node("N1"), TestAuthority().node("N1", epoch=2)
    for wanted in (first, second):
        asyncio.run(credentials.save_identity(disk, wanted))
        assert credentials.load_identity(disk) == wanted
    assert disk.listdir("credentials") == ["node.json"]


def test_issuer_is_kept_and_forgotten(disk: RealDisk) -> None:
    issuer = TestAuthority().issuer
    asyncio.run(credentials.save_authority(disk, issuer))
    assert credentials.load_authority(disk) == issuer
    asyncio.run(credentials.forget_authority(disk))
    assert credentials.load_authority(disk) is None


def test_keys_are_readable_by_owner_alone(disk: RealDisk) -> None:
    asyncio.run(credentials.save_identity(disk, TestAuthority().node()))
    path = Path(disk.root) / "credentials"
    assert (path / "node.json").stat().st_mode & 0o777 == 0o600


def test_damaged_file_is_named(disk: RealDisk) -> None:
    disk.mkdir("credentials")
    disk.open("credentials/node.json", create=True).close()
    with pytest.raises(BlixardError) as caught:
        credentials.load_identity(disk)
    assert "node.json" in caught.value.message
