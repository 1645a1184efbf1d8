"""What two QEMU processes must have in common before memory moves from one to the other.

It is read from the processes themselves, not from what they were meant to be: their arguments, and
a digest of the very files that they hold open. A runner may have been built anew since one started.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re

import msgspec

VERSION = 1
TSC_TOLERANCE = 0.001  # an emulated guest's clock would be wrong by as much
_KEPT_MAX = 64
# Each is followed by a word that may differ: a booted guest reads its kernel's arguments no more.
_OWN = ("-name", "-append", "-incoming")
_DESCRIPTOR = re.compile(r"/proc/self/fd/[0-9]+|\bfd=[0-9]+")
# The node epoch's own user in Ceph: what is opened is the same image.
_USER = re.compile(r'"user": "[^"]*"')
_FILE = re.compile(r"/proc/self/fd/([0-9]+)")
_FILES = {"-kernel": "kernel", "-initrd": "initrd", "-drive": "root"}


class Likeness(msgspec.Struct, frozen=True):
    """One process: QEMU's version, the machine it makes, digests of its files, its host's CPU.

    ``cpu`` is empty for an emulated one, ``tsc_khz`` 0 where the rate is not known or not needed.
    """

    version: int
    qemu: str
    machine: tuple[str, ...]
    files: dict[str, str]
    cpu: str = ""
    tsc_khz: int = 0


def machine_of(argv: list[str]) -> tuple[str, ...]:
    """Return the arguments that make the machine; numbers of descriptors and users are left out."""
    words: list[str] = []
    skipped = False
    for word in argv:
        if not skipped and word not in _OWN:
            words.append(_USER.sub('"user": "USER"', _DESCRIPTOR.sub("DESCRIPTOR", word)))
        skipped = word in _OWN
    return tuple(words)


def descriptors_of(argv: list[str]) -> dict[str, int]:
    """Return under which numbers a process holds kernel, initrd and root."""
    found = {}
    for flag, word in itertools.pairwise(argv):
        match = _FILE.search(word)
        other = flag == "-drive" and not word.startswith("id=root,")
        if flag in _FILES and match is not None and not other:
            found[_FILES[flag]] = int(match.group(1))
    return found


def differences(source: Likeness, target: Likeness) -> list[str]:
    """Return what keeps *source* from going on as *target*, in sentences; empty if nothing does."""
    if source.version != target.version:
        return [f"the nodes speak migration versions {source.version} and {target.version}"]
    found = []
    if source.qemu != target.qemu:
        found.append(f"QEMU is {source.qemu} here and {target.qemu} there")
    if source.machine != target.machine:
        left = [w for w in source.machine if w not in target.machine]
        right = [w for w in target.machine if w not in source.machine]
        words = f"{' '.join(left) or 'less'} here, {' '.join(right) or 'less'} there"
        found.append(f"the machines differ: {words[:300]}")
    names = sorted(source.files.keys() | target.files.keys())
    other = [n for n in names if source.files.get(n) != target.files.get(n)]
    if other:
        found.append(
            f"the guest's {', '.join(other)} there {'is' if len(other) == 1 else 'are'} not the "
            "same, bit for bit: the nodes built it of other package versions"
        )
    if source.cpu != target.cpu:
        found.append(
            f"the CPU is {source.cpu or 'emulated'} here, {target.cpu or 'emulated'} there"
        )
    if _rates_differ(source.tsc_khz, target.tsc_khz):
        found.append(
            f"the clock that the guest counts by has {source.tsc_khz} kHz here and "
            f"{target.tsc_khz} kHz there"
        )
    return found


def _rates_differ(one_khz: int, other_khz: int) -> bool:
    return bool(one_khz and other_khz) and abs(one_khz - other_khz) > TSC_TOLERANCE * one_khz


class FileDigests:
    """SHA-256 of files, kept while a file is the same one: a root takes a part of a second."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int, int, int], str] = {}

    def of(self, path: str) -> str:
        """Return the digest in hexadecimal; reads the file. Raises OSError."""
        with open(path, "rb") as file:
            facts = os.fstat(file.fileno())
            key = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
            if key not in self._kept:
                if len(self._kept) >= _KEPT_MAX:
                    self._kept.clear()
                self._kept[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._kept[key]


def likeness_of(pid: int, *, qemu: str, tsc_khz: int, digests: FileDigests) -> Likeness:
    """Return what a process is; blocks while it reads files. Raises OSError if it has ended."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        argv = file.read().decode().rstrip("\0").split("\0")
    emulated = any(word.startswith("tcg") for word in argv)
    held = descriptors_of(argv)
    return Likeness(
        version=VERSION,
        qemu=qemu,
        machine=machine_of(argv),
        files={name: digests.of(f"/proc/{pid}/fd/{held[name]}") for name in sorted(held)},
        cpu="" if emulated else _cpu(),
        tsc_khz=tsc_khz if emulated else 0,
    )


def _cpu() -> str:
    """Return the model of the host's CPU, with a digest of its features: guests see both."""
    with open("/proc/cpuinfo") as file:
        first = file.read().split("\n\n", 1)[0]
    facts = {
        name.strip(): value.strip()
        for name, _, value in (line.partition(":") for line in first.splitlines())
    }
    features = " ".join(sorted(facts.get("flags", "").split()))
    return f"{facts.get('model name', '')} {hashlib.sha256(features.encode()).hexdigest()[:12]}"
