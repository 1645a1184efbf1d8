"""What a machine lacks is found, named, and said with what helps."""

import os
import pathlib

import msgspec
import pytest

from blixard.daemon import probes
from blixard.hypervisors.qemu.probe import CACHE, Accelerator

ALL = (1 << 41) - 1


def test_missing_capabilities_are_named():
    assert probes.privileges(ALL).ok
    row = probes.privileges(ALL & ~(1 << 12))
    assert (row.ok, row.found) == (False, "without CAP_NET_ADMIN")
    assert row.hint


def test_missing_programs_are_named_with_their_packages(tmp_path: pathlib.Path):
    for name in probes.PROGRAMS:
        if name not in ("nft", "bridge") and "/" not in name:
            (tmp_path / name).touch(mode=0o755)
    row = probes.programs(str(tmp_path))
    assert not row.ok
    assert "bridge, nft" in row.found
    assert "iproute2 nftables" in row.hint


def test_each_part_of_the_network_is_tried_with_what_is_really_used():
    tried = {}

    def attempt(argv, text):
        tried[argv[2]] = tried.get(argv[2], "") + text
        return "Operation not supported" if "vxlan" in argv else ""

    rows = {row.name: row for row in probes.network(attempt)}
    assert [name for name, row in rows.items() if not row.ok] == ["vxlan"]
    assert rows["vxlan"].found == "Operation not supported"
    assert "vxlan" in rows["vxlan"].hint
    assert "masquerade" in tried["nft"]
    assert "counter drop" in tried["nft"]


def test_words_of_a_failure_are_kept():
    assert probes.try_command(["sh", "-c", "cat"], "text") == ""
    assert probes.try_command(["sh", "-c", "echo why >&2; exit 3"], "") == "why"
    assert probes.try_command(["sh", "-c", "exit 3"], "") == "ended with 3"
    assert "nosuchprogram" in probes.try_command(["nosuchprogram"], "")


@pytest.mark.skipif(not os.path.exists(probes.BINARY), reason="needs QEMU")
def test_guests_can_be_emulated_where_kvm_is_not(tmp_path: pathlib.Path):
    row = probes.hypervisor(str(tmp_path), device=str(tmp_path / "kvm"))
    assert row.ok
    assert "emulated (TCG)" in row.found
    known = Accelerator("kvm", "a probe guest ran under KVM", "key")
    (tmp_path / CACHE).write_bytes(msgspec.json.encode(known))
    assert probes.hypervisor(str(tmp_path)).found == "kvm: a probe guest ran under KVM"


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_this_machine_has_what_a_network_needs():
    rows = probes.network(probes.try_command)
    assert [row for row in rows if not row.ok] == []
