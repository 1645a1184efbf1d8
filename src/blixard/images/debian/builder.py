"""Builds runners from Debian packages, cached by content and shared by the nodes of a machine.

``CACHE/kernels/PACKAGE`` holds kernels, ``CACHE/runners/KEY`` runners. Each is made in a directory
of its own and renamed into place at the end: a build that was cut short leaves nothing that looks
whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import pathlib
import shutil
import time
from collections.abc import AsyncIterator

import msgspec

from blixard.base.errors import BlixardError
from blixard.guest.bundle import agent_source
from blixard.images.debian import kernel, layout
from blixard.images.debian.eviction import STAMP, evict
from blixard.images.debian.tools import make_durable, run
from blixard.ports.guests import BuiltGuest, GuestRecipe, Progress

BOOTSTRAP_S, PACK_S, LISTS_S, LOCK_S = 900.0, 300.0, 180.0, 1200.0
META = "built.json"
LIMIT_BYTES = 20 << 30
_TRIMMED = (
    "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/lib/apt/lists",
    "var/cache/apt", "var/log", "usr/share/bash-completion", "usr/share/zoneinfo",
)  # fmt: skip


class DebianGuestBuilder:
    """Implements ``ports.guests.GuestBuilder``."""

    def __init__(self, cache_dir: str, *, mirror: str = "", limit_bytes: int = LIMIT_BYTES) -> None:
        self._cache = pathlib.Path(cache_dir)
        self._mirror = mirror
        self._limit_bytes = limit_bytes
        self._agent = agent_source()

    async def build(self, recipe: GuestRecipe, progress: Progress) -> BuiltGuest:
        """Return the runner, from the cache if it is there."""
        key = layout.recipe_key(recipe, self._agent)
        found = self._look_up(key)
        if found is not None:
            return found
        try:
            for name in ("kernels", "runners", "locks"):
                _folder(self._cache / name)
            async with self._locked(key, progress):
                return self._look_up(key) or await self._build(key, recipe, progress)
        except OSError as error:
            code = "DISK_FULL" if error.errno == errno.ENOSPC else "IMAGE_BUILD_FAILED"
            raise BlixardError(code, f"building a guest: {error}") from error

    async def images(self) -> list[BuiltGuest]:
        """Return what the cache holds, in order of digest."""
        runners = self._cache / "runners"
        names = sorted(p.name for p in runners.iterdir()) if runners.exists() else []
        found = [self._look_up(name) for name in names if not name.startswith(".")]
        return [image for image in found if image is not None]

    def _look_up(self, key: str) -> BuiltGuest | None:
        try:
            path = self._cache / "runners" / key / META
            built = msgspec.json.decode(path.read_bytes(), type=BuiltGuest)
            os.utime(path)  # what is asked for stays longest
            return built
        except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
            return None

    @contextlib.asynccontextmanager
    async def _locked(self, name: str, progress: Progress) -> AsyncIterator[None]:
        """Hold a lock that the other nodes of this machine respect."""
        descriptor = os.open(
            self._cache / "locks" / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            async with asyncio.timeout(LOCK_S):
                waiting = False
                while not _try_lock(descriptor):
                    if not waiting:
                        progress("waiting for another node of this machine to build it")
                    waiting = True
                    await asyncio.sleep(0.2)
            yield
        except TimeoutError as error:
            raise BlixardError("IMAGE_BUILD_FAILED", "another build holds the lock") from error
        finally:
            os.close(descriptor)

    async def _build(self, key: str, recipe: GuestRecipe, progress: Progress) -> BuiltGuest:
        began_s = time.monotonic()
        place = self._cache / "runners" / f".new-{key}"
        await asyncio.to_thread(self._remove_leftovers, place)
        await self._check_packages(recipe, progress)
        kernel_dir = await self._kernel(progress)
        try:
            root = place / "runner/share/microvm/root"
            _folder(root.parent)
            versions = await self._root(place, root, recipe, progress)
            built = BuiltGuest(
                runner=str(self._cache / "runners" / key),
                digest=layout.image_digest(key, kernel_dir.name, versions),
                size_bytes=root.stat().st_size,
                build_s=round(time.monotonic() - began_s, 3),
            )
            await asyncio.to_thread(self._finish_runner, place / "runner", kernel_dir, built)
        finally:
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
        progress(f"built in {built.build_s:.0f} s")
        await asyncio.to_thread(
            evict, self._cache, meta=META, stamp=self._stamp, limit_bytes=self._limit_bytes
        )
        return built

    @property
    def _stamp(self) -> str:
        """What an image must have been made by to be found."""
        return layout.recipe_key(GuestRecipe(), self._agent)

    def _finish_runner(
        self, runner: pathlib.Path, kernel_dir: pathlib.Path, built: BuiltGuest
    ) -> None:
        share = runner / "share/microvm"
        names = [n for n in ("kernel", "vmlinux", "initrd") if (kernel_dir / n).exists()]
        for name in names:
            os.link(kernel_dir / name, share / name)
        _write(share / "hypervisor", "qemu\n")
        paths = {n: f"share/microvm/{n}" for n in (*names, "root")}
        _write(share / "blixard.json", msgspec.json.encode(paths).decode())
        _write(runner / "bin/microvm-run", layout.RUN, 0o755)
        _write(runner / STAMP, self._stamp)
        _write(runner / META, msgspec.json.encode(built).decode())
        make_durable(str(runner))
        # The look-up under the lock refused what may be there: it is not whole.
        shutil.rmtree(built.runner, ignore_errors=True)
        runner.rename(built.runner)

    def _remove_leftovers(self, place: pathlib.Path) -> None:
        """Remove what builds that were killed left: ours is dead, for we hold its lock."""
        shutil.rmtree(place, ignore_errors=True)
        for path in (self._cache / "runners").glob(".new-*"):
            if time.time() - path.stat().st_mtime > LOCK_S:
                shutil.rmtree(path, ignore_errors=True)

    async def _check_packages(self, recipe: GuestRecipe, progress: Progress) -> None:
        """Find unknown packages before the long part; a mirror is asked by the long part itself."""
        wanted = () if self._mirror else tuple(sorted(set(recipe.packages)))
        command = ["apt-cache", "show", "--no-all-versions", layout.KERNEL_META, *wanted]
        text = await run(command, timeout_s=LISTS_S, check=False)
        if layout.unknown_packages(text, (layout.KERNEL_META,)):
            progress("reading the distribution's package lists")
            await run(["apt-get", "update"], timeout_s=LISTS_S)
            text = await run(command, timeout_s=LISTS_S, check=False)
        unknown = layout.unknown_packages(text, wanted)
        if unknown:
            raise _unknown(unknown)

    async def _kernel(self, progress: Progress) -> pathlib.Path:
        package = await kernel.kernel_version()
        target = self._cache / "kernels" / f"{package}-{layout.BUILDER_VERSION}"
        async with self._locked("kernel", progress):
            if not target.exists():
                progress(f"fetching the kernel {package}")
                await kernel.build_kernel(str(target), package)
        return target

    async def _root(
        self, place: pathlib.Path, target: pathlib.Path, recipe: GuestRecipe, progress: Progress
    ) -> str:
        """Write the root file system; return its packages with their versions."""
        packages = sorted({*layout.BASE_PACKAGES, *recipe.packages})
        progress(f"unpacking {len(recipe.packages)} packages and what they need")
        tree = place / "root"
        bootstrap = [
            "mmdebstrap",
            "--variant=minbase",
            "--mode=root",
            "--format=directory",
            f"--include={','.join(packages)}",
            '--aptopt=APT::Install-Recommends "false"',
            layout.SUITE,
            str(tree),
            *((self._mirror,) if self._mirror else ()),
        ]
        try:
            await run(bootstrap, timeout_s=BOOTSTRAP_S)
        except BlixardError as error:
            unknown = layout.missing_packages(error.message)
            raise (_unknown(unknown) if unknown else error) from error
        chroot = ["chroot", str(tree)]
        query = ["dpkg-query", "-W", "-f", "${Package} ${Architecture} ${Version}\\n"]
        versions = await run([*chroot, *query], timeout_s=LISTS_S)
        await asyncio.to_thread(self._finish_tree, tree, recipe)
        await run([*chroot, "/usr/bin/python3", "-I", "-c", layout.COMPILE], timeout_s=PACK_S)
        progress("packing the root file system")
        await pack_root(tree, target)
        return versions

    def _finish_tree(self, tree: pathlib.Path, recipe: GuestRecipe) -> None:
        logs = _log_folders(tree)
        for name in _TRIMMED:
            shutil.rmtree(tree / name, ignore_errors=True)
            if name.startswith("var/"):
                _folder(tree / name)
        for name, (mode, user, group) in logs.items():
            _folder(tree / name)
            os.chown(tree / name, user, group)
            (tree / name).chmod(mode)
        _write(tree / layout.AGENT_PATH, self._agent)
        _write(tree / layout.SERVICES_PATH, layout.services_json(recipe))
        _write(tree / "etc/resolv.conf", "")
        for file in recipe.files:
            _write(inside(tree, file.path), file.content, int(file.mode, 8))


async def pack_root(tree: pathlib.Path, target: pathlib.Path) -> None:
    """Write a root file system; like trees give the same bytes, whenever they were made."""
    # Times of files stay: Python compiles whatever is not as old as its compiled form says.
    command = ["mkfs.erofs", "-zlz4", f"-U{layout.ROOT_UUID}", str(target), str(tree)]
    await run(command, timeout_s=PACK_S)
    target.chmod(0o644)


def _log_folders(tree: pathlib.Path) -> dict[str, tuple[int, int, int]]:
    """Return the folders that packages made for their logs, with mode, user and group."""
    found = {}
    for path in sorted((tree / "var/log").rglob("*")):
        if path.is_dir() and not path.is_symlink():
            facts = path.stat()
            name = str(path.relative_to(tree))
            found[name] = (facts.st_mode & 0o7777, facts.st_uid, facts.st_gid)
    return found


def _unknown(packages: list[str]) -> BlixardError:
    return BlixardError(
        "PACKAGE_UNKNOWN",
        f"Debian {layout.SUITE} has no package named {', '.join(packages)}",
        details={"packages": packages},
    )


def inside(tree: pathlib.Path, path: str) -> pathlib.Path:
    """Return the place of a guest's file in *tree*; links on the way are not followed out of it.

    Raises:
        BlixardError: INVALID, if the path leads through a link.
    """
    place = tree
    for part in pathlib.PurePosixPath(path).parts[1:]:
        if part == ".." or place.is_symlink():
            raise BlixardError("INVALID", f"{path} leads through a link or ..")
        place = place / part
    if place.is_symlink():
        place.unlink()
    return place


def _write(path: pathlib.Path, text: str, mode: int = 0o644) -> None:
    _folder(path.parent)
    path.write_text(text)
    path.chmod(mode)


def _folder(path: pathlib.Path) -> None:
    """Make a folder that everybody may read, whatever this process's umask."""
    if path.is_dir():
        return
    _folder(path.parent)
    path.mkdir(exist_ok=True)
    path.chmod(0o755)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
