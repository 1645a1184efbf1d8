"""Looks at what the cache holds and who uses it, and removes what may go."""

from __future__ import annotations

import os
import pathlib
import shutil
import time

from blixard.images.debian.keeping import Kept, evictable

STAMP = "made-by"


def evict(cache: pathlib.Path, *, meta: str, stamp: str, limit_bytes: int) -> list[str]:
    """Remove images that may go, then kernels that no image has; return the images' keys."""
    runners = cache / "runners"
    opened = _opened(str(runners))
    kept = []
    for place in sorted(runners.iterdir()):
        try:
            used_s = (place / meta).stat().st_mtime
            size_bytes = (place / "share/microvm/root").stat().st_size
            own = (place / STAMP).read_text() == stamp
        except FileNotFoundError:
            continue  # being built, or not whole: the next build of it replaces it
        kept.append(Kept(place.name, size_bytes, used_s, place.name in opened, not own))
    gone = evictable(kept, limit_bytes=limit_bytes, now_s=time.time())
    for key in gone:
        # Without its description it is no image: a removal that is cut short leaves none.
        (runners / key / meta).unlink(missing_ok=True)
        shutil.rmtree(runners / key, ignore_errors=True)
    _evict_kernels(cache / "kernels")
    return gone


def _evict_kernels(kernels: pathlib.Path) -> None:
    """Images hold their kernel by a link: a kernel with one name is in none of them."""
    places = [place for place in kernels.iterdir() if (place / "kernel").exists()]
    places.sort(key=lambda place: place.stat().st_mtime)
    for place in places[:-1]:
        if (place / "kernel").stat().st_nlink == 1:
            shutil.rmtree(place, ignore_errors=True)


def _opened(runners: str) -> set[str]:
    """Return the keys of images of which some process has a file open."""
    found = set()
    for process in pathlib.Path("/proc").glob("[0-9]*/fd"):
        try:
            names = os.listdir(process)
        except OSError:
            continue  # it ended, or is not ours to look at
        for name in names:
            try:
                target = os.readlink(process / name)
            except OSError:
                continue
            if target.startswith(runners + "/"):
                found.add(target[len(runners) + 1 :].split("/", 1)[0])
    return found
