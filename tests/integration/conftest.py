"""What tests with guests share: the base image and the accelerator are found once for all."""

from __future__ import annotations

import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import guest_lab as lab
import pytest

from blixard.hypervisors.qemu import probe


@pytest.fixture(scope="session")
def base() -> pathlib.Path:
    return lab.base_runner()


@pytest.fixture(scope="session")
def accelerator(base: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Probe once; later probes find the answer."""
    place = tmp_path_factory.mktemp("probe")
    probe.probe(str(place), str(base / "share/microvm/kernel"))
    return place / probe.CACHE


@pytest.fixture
def state(accelerator: pathlib.Path) -> Iterator[pathlib.Path]:
    """A directory with a short name: paths of sockets have 107 bytes."""
    place = pathlib.Path(tempfile.mkdtemp(prefix="bx-"))
    shutil.copy(accelerator, place / probe.CACHE)
    yield place
    lab.end_guard(place)
    shutil.rmtree(place)
