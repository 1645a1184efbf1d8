"""What goes into an image, and what its digest says."""

import subprocess

from blixard.images.debian import layout

TABLE = """kernel/fs/erofs/erofs.ko.xz: kernel/lib/libcrc32c.ko.xz
kernel/lib/libcrc32c.ko.xz:
kernel/drivers/virtio/virtio-mmio.ko.xz:
kernel/fs/xfs/xfs.ko.xz: kernel/lib/libcrc32c.ko.xz
"""


def test_newer_package_gives_another_digest():
    one = layout.image_digest("key", "kernel-1", "a 1\nb 2\n")
    assert one == layout.image_digest("key", "kernel-1", "b 2\na 1\n")
    assert one != layout.image_digest("key", "kernel-1", "a 1\nb 3\n")
    assert one != layout.image_digest("key", "kernel-2", "a 1\nb 2\n")


def test_unknown_package_is_found_in_the_words_of_apt():
    said = "E: Unable to locate package foo-1 | E: Unable to locate package libbar++ | E: more"
    assert layout.missing_packages(said) == ["foo-1", "libbar++"]
    assert layout.missing_packages("E: disk full") == []


def test_modules_come_with_what_they_need():
    order = layout.module_order(TABLE)
    assert [layout.file_name(path) for path in order] == [
        "virtio-mmio.ko",
        "libcrc32c.ko",
        "erofs.ko",
    ]
    assert layout.module_names(order) == ["virtio_mmio", "erofs"]
    assert layout.modules_dep(order, TABLE).splitlines() == [
        "erofs.ko: libcrc32c.ko",
        "libcrc32c.ko:",
        "virtio-mmio.ko:",
    ]


def test_signature_is_cut_off_a_module():
    body, signature = b"\x7fELF" + bytes(90), bytes(40)
    facts = bytes(8) + len(signature).to_bytes(4, "big")
    magic = b"~Module signature appended~\n"
    assert layout.without_signature(body + signature + facts + magic) == body
    assert layout.without_signature(body) == body
    lying = body + bytes(8) + (1 << 30).to_bytes(4, "big") + magic
    assert layout.without_signature(lying) == lying


def test_program_that_runs_an_image_by_hand_is_a_shell_program():
    subprocess.run(["sh", "-n"], input=layout.RUN.encode(), check=True)
    start = layout.RUN.index("mhz=")
    script = layout.RUN[start : layout.RUN.index("exec ")] + 'echo "$rate"'
    said = subprocess.run(["sh", "-euc", script], capture_output=True, check=True, text=True)
    assert said.stdout.strip() == "" or "tsc_early_khz=" in said.stdout
    assert said.stderr == ""
