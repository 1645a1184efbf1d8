"""QEMU's arguments for a guest's disks: files of the node, images in Ceph.

A file comes as two descriptors of one set, to read and to write; Ceph's configuration and the key
of the node epoch come as descriptors too. A key is never an argument.
"""

from __future__ import annotations

import json

from blixard.ports.volumes import DiskAttachment

# Set 1 is the console's log.
FIRST_SET = 2
# What virtio hands to the guest (VIRTIO_BLK_ID_BYTES).
SERIAL_BYTES_MAX = 20

Disks = tuple[DiskAttachment, ...]


def paths(disks: Disks) -> dict[str, str]:
    """Return the files that the launcher opens to write and locks."""
    return {_name(number): disk.path for number, disk in _of(disks, "file")}


def configurations(disks: Disks) -> dict[str, str]:
    """Return the files that the launcher opens to read."""
    return {f"{_name(number)}-conf": disk.conf for number, disk in _of(disks, "rbd")}


def secrets(disks: Disks) -> dict[str, str]:
    """Return the files whose content only the hypervisor's user is to read."""
    return {f"{_name(number)}-key": disk.key_file for number, disk in _of(disks, "rbd")}


def file_bytes(disks: Disks) -> int:
    """Return how large a file the hypervisor writes for its disks; 0: none."""
    return max((disk.size_bytes for _number, disk in _of(disks, "file")), default=0)


def arguments(disks: Disks) -> list[str]:
    """Return the argument list; the disks follow the root in their own order."""
    words: list[str] = []
    for number, disk in enumerate(disks):
        name = _name(number)
        words += _file(number) if disk.kind == "file" else _rbd(number, disk)
        serial = disk.name.encode()[:SERIAL_BYTES_MAX].decode(errors="ignore")
        words += ["-device", f"virtio-blk-device,drive={name},serial={serial}"]
    return words


def _file(number: int) -> list[str]:
    name, group = _name(number), FIRST_SET + number
    block = {
        "driver": "raw",
        "node-name": name,
        "discard": "unmap",
        # The launcher's lock is the lock: QEMU cannot place one on descriptors of a set.
        "file": {"driver": "file", "filename": f"/dev/fdset/{group}", "locking": "off"},
    }
    return [
        *("-add-fd", f"fd={{fd:{name}}},set={group}"),
        *("-add-fd", f"fd={{fd:{name}-read}},set={group}"),
        *("-blockdev", json.dumps(block)),
    ]


def _rbd(number: int, disk: DiskAttachment) -> list[str]:
    name = _name(number)
    block = {
        "driver": "rbd",
        "node-name": name,
        "pool": disk.pool,
        "image": disk.image,
        "conf": f"{{path:{name}-conf}}",
        "user": disk.user,
        "key-secret": f"{name}-key",
        "discard": "unmap",
        # The guest's own cache is enough: what it was told is written, is.
        "cache": {"direct": True},
    }
    return [
        *("-object", f"secret,id={name}-key,format=base64,file={{path:{name}-key}}"),
        *("-blockdev", json.dumps(block)),
    ]


def _name(number: int) -> str:
    return f"disk{number}"


def _of(disks: Disks, kind: str) -> list[tuple[int, DiskAttachment]]:
    return [(number, disk) for number, disk in enumerate(disks) if disk.kind == kind]
