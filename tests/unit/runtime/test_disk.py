from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from blixard.base.errors import BlixardError
from blixard.runtime.disk import LOCK_NAME, RealDisk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[RealDisk]:
    opened = RealDisk(str(tmp_path / "data"))
    yield opened
    opened.close()


def test_written_bytes_are_read_again(disk: RealDisk) -> None:
    file = disk.open("log", create=True)
    file.pwrite(3, b"abc")
    assert file.pread(0, 100) == b"\0\0\0abc"
    assert file.size() == 6
    file.truncate(4)
    assert file.pread(3, 10) == b"a"
    file.close()


async def _sync(disk: RealDisk) -> None:
    file = disk.open("log", create=True)
    file.pwrite(0, b"x" * 5000)
    await file.sync()
    await disk.sync_dir("")
    file.close()


def test_sync_and_directory_sync_return(disk: RealDisk) -> None:
    asyncio.run(_sync(disk))


def test_close_waits_for_running_sync(disk: RealDisk) -> None:
    async def run() -> None:
        file = disk.open("log", create=True)
        file.pwrite(0, b"x")
        sync = asyncio.ensure_future(file.sync())
        await asyncio.sleep(0)
        file.close()
        await sync
        with pytest.raises(OSError, match="closed"):
            file.pread(0, 1)

    asyncio.run(run())


def test_failed_sync_poisons_the_file(disk: RealDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_descriptor: int) -> None:
        raise OSError(errno.EIO, "no")

    async def run() -> None:
        file = disk.open("log", create=True)
        monkeypatch.setattr(os, "fdatasync", broken)
        with pytest.raises(OSError, match="no"):
            await file.sync()
        monkeypatch.undo()
        with pytest.raises(OSError, match="earlier sync"):
            file.pwrite(0, b"x")
        file.close()

    asyncio.run(run())


def test_full_disk_raises_the_system_error(disk: RealDisk) -> None:
    file = disk.open("log", create=True)
    with pytest.raises(OSError, match="too large"):
        file.pwrite(1 << 62, b"x")
    file.close()


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "a\0b", LOCK_NAME])
def test_paths_outside_are_refused(disk: RealDisk, path: str) -> None:
    with pytest.raises(PermissionError):
        disk.open(path, create=True)


def test_links_out_of_directory_are_refused(disk: RealDisk, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    os.symlink(tmp_path / "outside", Path(disk.root) / "link")
    os.symlink("/etc/passwd", Path(disk.root) / "file")
    with pytest.raises(PermissionError):
        disk.open("link/x", create=True)
    with pytest.raises(OSError, match="symbolic links"):
        disk.open("file")


def test_files_are_private(disk: RealDisk) -> None:
    disk.mkdir("a/b")
    disk.open("a/b/f", create=True).close()
    assert (Path(disk.root) / "a/b/f").stat().st_mode & 0o777 == 0o600
    assert Path(disk.root).stat().st_mode & 0o077 == 0


def test_names_list_rename_and_unlink(disk: RealDisk) -> None:
    assert disk.listdir("absent") == []
    for name in ("b", "a"):
        disk.open(name, create=True).close()
    assert disk.listdir("") == ["a", "b"]
    disk.rename("a", "c")
    disk.unlink("b")
    disk.unlink("b")
    assert disk.listdir(".") == ["c"]
    assert disk.exists("c")
    assert not disk.exists("a")
    with pytest.raises(FileNotFoundError):
        disk.open("absent")
    assert disk.free_bytes() > 0


def test_second_daemon_is_kept_out(disk: RealDisk) -> None:
    with pytest.raises(BlixardError) as caught:
        RealDisk(disk.root)
    assert caught.value.code == "DATA_DIR_IN_USE"


def test_lock_ends_with_killed_process(tmp_path: Path) -> None:
    script = (
        "import sys,time; from blixard.runtime.disk import RealDisk;"
        "RealDisk(sys.argv[1]); print('locked', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(BlixardError):
            RealDisk(str(tmp_path))
        process.kill()
    RealDisk(str(tmp_path)).close()
