"""Key files of node epochs: written for root alone, older ones removed."""

from __future__ import annotations

import pathlib

from blixard.storage.ceph.backend import CephVolumes, write
from blixard.storage.ceph.link import CephConfig


def test_key_is_readable_by_its_owner_alone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "key"
    path.touch(mode=0o644)
    write(str(path), b"secret", 0o600)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"secret", 0o600)


def test_keys_of_earlier_epochs_go(tmp_path: pathlib.Path) -> None:
    names = ("A.2", "A.3", "A.4", "B.1")
    for name in names:
        (tmp_path / f"blixard.{name}.key").touch()
    (tmp_path / "guest.conf").touch()
    config = CephConfig(conf="/none", user="me", keyring="/none")
    CephVolumes(config, str(tmp_path))._forget_older("blixard.A.3")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [*(f"blixard.{name}.key" for name in ("A.3", "A.4", "B.1")), "guest.conf"]
