"""A small image is built and boots the agent that it ships."""

from __future__ import annotations

import asyncio
import os
import pathlib
import shutil
import tempfile

import guest_lab as lab
import pytest
from guest_lab import MemoryStream

from blixard.hypervisors import channel as c
from blixard.images.debian.builder import DebianGuestBuilder, pack_root
from blixard.images.debian.kernel import pack_initrd
from blixard.ports.guests import GuestFile, GuestRecipe, GuestService

pytestmark = [
    pytest.mark.guest,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="building guests needs root"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
]
RECIPE = GuestRecipe(
    files=(GuestFile("/etc/words/hello", "hello\n", "0640"),),
    services=(GuestService("idle", ("sleep", "1000")),),
)
LOOK = (
    "stat -c '%a %U' /etc/words/hello /etc/words; stat -c %n /usr/lib/blixard/agent.pyc;"
    "python3 -v -c 'import json.decoder' 2>&1 | grep -c 'code object from.*py.$' ; mountpoint /run"
)


def unreadable(place: pathlib.Path) -> list[str]:
    """Return what another user could not read."""
    return [
        str(path.relative_to(place))
        for path in [place, *place.rglob("*")]
        if path.stat().st_mode & (0o005 if path.is_dir() else 0o004)
        != (0o005 if path.is_dir() else 0o004)
    ]


def test_built_image_boots_its_own_agent() -> None:
    place = pathlib.Path(tempfile.mkdtemp(prefix="bx-"))
    mask = os.umask(0o077)
    try:
        builder = DebianGuestBuilder(str(place / "cache"))
        dead = place / "cache/runners/.new-dead"
        dead.mkdir(parents=True)
        os.utime(dead, (1, 1))
        built = asyncio.run(builder.build(RECIPE, lambda _line: None))
        os.umask(mask)
        said: list[str] = []
        assert asyncio.run(builder.build(RECIPE, said.append)) == built
        assert said == []
        assert not dead.exists()
        assert unreadable(pathlib.Path(built.runner)) == []
        asyncio.run(boots(place, built.runner))
    finally:
        os.umask(mask)
        shutil.rmtree(place, ignore_errors=True)


async def boots(place: pathlib.Path, runner: str) -> None:
    """Start the runner, look into it, and let it end."""
    state = place / "vms"
    state.mkdir(mode=0o711)
    async with lab.hypervisor(state) as made:
        await made.start_paused(lab.plan(runner))
        await made.resume("guest1")
        await lab.ready(made, "guest1")
        stream = MemoryStream()
        stream.said.put_nowait(None)
        await made.exec("guest1", ["/bin/sh", "-c", LOOK], tty=False, stream=stream)
        assert stream.of(c.CLIENT_STDOUT).decode().splitlines() == [
            "640 root",
            "755 root",
            "/usr/lib/blixard/agent.pyc",
            "0",
            "/run is a mountpoint",
        ]
        assert (await made.guest_status("guest1")).services == {"idle": "running"}
        await made.shutdown("guest1", grace_s=30)
        assert (await made.instances())[0].exit_code == 0


def test_like_trees_give_the_same_bytes(tmp_path: pathlib.Path) -> None:
    packed = []
    for age_s in (0, 50):
        place = tmp_path / str(age_s)
        tree = place / "tree"
        (tree / "bin").mkdir(parents=True)
        (tree / "bin/one").write_text("one" * 5000)
        (tree / "two").symlink_to("bin/one")
        for path in (tree, *tree.rglob("*")):
            os.utime(path, (2e9 + age_s, 2e9 + age_s), follow_symlinks=False)
        asyncio.run(pack_root(tree, place / "root"))
        asyncio.run(pack_initrd(str(tree), str(place / "initrd")))
        packed.append([(place / name).read_bytes() for name in ("root", "initrd")])
    assert packed[0] == packed[1]
