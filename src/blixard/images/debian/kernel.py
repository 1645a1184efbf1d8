"""The guests' kernel and initramfs, from Debian's cloud kernel and a static busybox."""

from __future__ import annotations

import asyncio
import glob
import gzip
import lzma
import os
import shutil
import tempfile

from blixard.base.errors import BlixardError
from blixard.images.debian import layout
from blixard.images.debian.tools import make_durable, run

DOWNLOAD_S, UNPACK_S = 300.0, 120.0
BUSYBOX = "/bin/busybox"


async def kernel_version() -> str:
    """Return the package that the kernel's meta package stands for."""
    text = await run(
        ["apt-cache", "depends", "--important", layout.KERNEL_META], timeout_s=30.0, check=False
    )
    names = [line.split()[-1] for line in text.splitlines() if "Depends:" in line]
    if not names:
        raise BlixardError(
            "IMAGE_BUILD_FAILED",
            f"the distribution's lists have no {layout.KERNEL_META}",
            hint="apt-get update",
        )
    return names[0]


async def build_kernel(target: str, package: str) -> None:
    """Put ``kernel`` and ``initrd`` into the new directory *target*."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(target)) as place:
        os.chmod(place, 0o755)
        await run(["apt-get", "download", package], timeout_s=DOWNLOAD_S, cwd=place)
        (archive,) = glob.glob(os.path.join(place, "*.deb"))
        tree = os.path.join(place, "tree")
        await run(["dpkg-deb", "-x", archive, tree], timeout_s=UNPACK_S)
        made = os.path.join(place, "made")
        os.mkdir(made)
        (image,) = glob.glob(os.path.join(tree, "boot/vmlinuz-*"))
        shutil.copyfile(image, os.path.join(made, "kernel"))
        await _unpack_kernel(image, place, os.path.join(made, "vmlinux"))
        (modules,) = glob.glob(os.path.join(tree, "lib/modules/*"))
        release = os.path.basename(modules)
        await run(["depmod", "-b", tree, release], timeout_s=UNPACK_S)
        root = os.path.join(place, "initramfs")
        await asyncio.to_thread(_fill_initramfs, root, modules)
        await pack_initrd(root, os.path.join(made, "initrd"))
        for name in os.listdir(made):
            os.chmod(os.path.join(made, name), 0o644)
        os.chmod(made, 0o755)
        await asyncio.to_thread(make_durable, made)
        os.rename(made, target)


async def _unpack_kernel(image: str, place: str, target: str) -> None:
    """Write the kernel that is packed inside *image*: an emulated guest needs seconds to unpack it.

    Without a part that unpacks to an ELF file there is none, and guests start from the image.
    """
    with open(image, "rb") as file:
        packed = file.read()
    for offset in layout.zstd_offsets(packed):
        part, whole = os.path.join(place, "part.zst"), os.path.join(place, "whole")
        with open(part, "wb") as file:
            file.write(packed[offset:])
        # What follows the packed kernel makes zstd complain after it has written all of it.
        argv = ["/bin/sh", "-c", 'zstd -qdc "$1" > "$2"', "sh", part, whole]
        await run(argv, timeout_s=UNPACK_S, check=False)
        if os.path.exists(whole):
            with open(whole, "rb") as file:
                elf = file.read(4) == b"\x7fELF"
            if elf:
                os.rename(whole, target)
                return


def _fill_initramfs(root: str, modules: str) -> None:
    with open(os.path.join(modules, "modules.dep")) as file:
        table = file.read()
    order = layout.module_order(table)
    target = os.path.join(root, "lib/modules", os.path.basename(modules))
    for name in ("bin", "proc", "dev", "lower", "upper", "root"):
        os.makedirs(os.path.join(root, name), mode=0o755)
    os.makedirs(target)
    shutil.copyfile(BUSYBOX, os.path.join(root, "bin/busybox"))
    os.chmod(os.path.join(root, "bin/busybox"), 0o755)
    for path in order:
        with open(os.path.join(target, layout.file_name(path)), "wb") as module:
            module.write(layout.without_signature(_unpacked(os.path.join(modules, path))))
    texts = {
        os.path.join(target, "modules.dep"): layout.modules_dep(order, table),
        os.path.join(root, "modules"): " ".join(layout.module_names(order)) + "\n",
        os.path.join(root, "init"): layout.INIT,
        **{os.path.join(root, f"mounts.{n}"): text for n, text in enumerate(layout.MOUNTS)},
    }
    for path, text in texts.items():
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, 0o755)


async def pack_initrd(root: str, target: str) -> None:
    """Write the archive, not compressed: to unpack it would take an emulated guest 0.1 s.

    Like trees give the same bytes, whenever they were made.
    """
    script = (
        'cd "$1" && find . -exec touch -hd "@$SOURCE_DATE_EPOCH" {} + && '
        'find . | LC_ALL=C sort | cpio --quiet -o -H newc --reproducible > "$2"'
    )
    await run(["/bin/sh", "-euc", script, "sh", root, target], timeout_s=UNPACK_S)
    os.chmod(target, 0o644)


def _unpacked(path: str) -> bytes:
    with open(path, "rb") as file:
        data = file.read()
    if path.endswith(".xz"):
        return lzma.decompress(data)
    return gzip.decompress(data) if path.endswith(".gz") else data
