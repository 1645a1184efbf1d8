"""Which images leave the cache."""

import os
import pathlib

from blixard.images.debian.eviction import STAMP, evict
from blixard.images.debian.keeping import GRACE_S, NEWEST, Kept, evictable

NOW_S = 10 * GRACE_S


def image(number: int, **facts: object) -> Kept:
    made = Kept(f"i{number}", 10, float(number), in_use=False, superseded=False)
    return made._replace(**facts)


def gone(kept: list[Kept], limit_bytes: int) -> list[str]:
    return evictable(kept, limit_bytes=limit_bytes, now_s=NOW_S)


def test_nothing_goes_while_all_fit():
    assert gone([image(n) for n in range(NEWEST + 3)], 1000) == []


def test_longest_unused_go_until_the_rest_fits():
    assert gone([image(n) for n in range(NEWEST + 3)], (NEWEST + 1) * 10) == ["i0", "i1"]


def test_newest_stay_whatever_their_size():
    assert gone([image(n) for n in range(NEWEST)], 0) == []


def test_what_runs_or_was_just_asked_for_stays():
    kept = [image(n) for n in range(NEWEST + 2)]
    kept[0] = image(0, in_use=True)
    assert gone(kept, 0) == ["i1"]
    recent = [image(n, used_s=NOW_S - 1 + n / 100) for n in range(NEWEST + 2)]
    assert gone(recent, 0) == []


def test_superseded_go_though_there_is_room():
    kept = [image(n, superseded=n == 1) for n in range(NEWEST + 3)]
    assert gone(kept, 1000) == ["i1"]


def put(cache: pathlib.Path, key: str, used_s: float, kernel: str) -> None:
    share = cache / "runners" / key / "share/microvm"
    share.mkdir(parents=True)
    (share / "root").write_bytes(bytes(100))
    (cache / "kernels" / kernel).mkdir(parents=True, exist_ok=True)
    (cache / "kernels" / kernel / "kernel").touch()
    os.link(cache / "kernels" / kernel / "kernel", share / "kernel")
    (cache / "runners" / key / STAMP).write_text("new")
    meta = cache / "runners" / key / "built.json"
    meta.write_text("{}")
    os.utime(meta, (used_s, used_s))


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_open_image_stays_and_unused_kernel_goes(tmp_path: pathlib.Path) -> None:
    for number in range(NEWEST + 2):
        put(tmp_path, f"i{number}", number, "old" if number == 1 else "new")
    os.utime(tmp_path / "kernels/old", (1, 1))
    with (tmp_path / "runners/i0/share/microvm/root").open():
        left = evict(tmp_path, meta="built.json", stamp="new", limit_bytes=0)
    assert left == ["i1"]
    assert names(tmp_path / "runners") == ["i0", "i2", "i3", "i4", "i5"]
    assert names(tmp_path / "kernels") == ["new"]
