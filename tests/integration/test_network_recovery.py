"""What a crash or a changed network leaves in the kernel is put right by the next apply."""

import asyncio
import ctypes
import json
import os
import subprocess

import msgspec
import pytest

from blixard.network.linux import commands as c
from blixard.network.linux.backend import LinuxNetwork
from blixard.ports.network import Endpoint, NetworkView

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0 and not os.environ.get("CI"), reason="needs root"),
]
CLONE_NEWNET = 0x40000000
LOCAL = "10.99.0.1"
MINE = Endpoint(
    instance_uid="mine",
    mac="02:2a:0a:2a:00:02",
    ip="10.42.0.2",
    node_uid="n1",
    node_address=LOCAL,
)
VIEW = NetworkView(
    name="default",
    vni=42,
    cidr="10.42.0.0/16",
    gateway="10.42.0.1",
    mtu=1450,
    peers=("10.99.0.2",),
    endpoints=(MINE,),
)
OTHER = msgspec.structs.replace(
    VIEW, name="other", vni=43, cidr="10.50.0.0/24", gateway="10.50.0.1", endpoints=()
)
TAP = c.tap_name("mine")


def sh(command):
    done = subprocess.run(command.split(), check=True, capture_output=True, text=True, timeout=30)
    return done.stdout


def links():
    found = json.loads(sh("ip -json -details address"))
    return {link["ifname"]: link for link in found if link["ifname"].startswith("blx")}


@pytest.fixture(autouse=True)
def namespace():
    """Move the test into a network namespace that ends with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        assert libc.unshare(CLONE_NEWNET) == 0
        sh("ip link set lo up")
        sh(f"ip address add {LOCAL}/24 dev lo")
        yield
    finally:
        assert libc.setns(before, CLONE_NEWNET) == 0
        os.close(before)


def daemon():
    return LinuxNetwork("n1", LOCAL)


def test_a_tap_made_by_halves_is_made_again():
    async def body():
        network = daemon()
        await network.apply((VIEW,))
        sh(f"ip tuntap add dev {TAP} mode tap vnet_hdr")
        await network.ensure_tap("default", "mine")

    asyncio.run(body())
    assert links()[TAP]["master"] == "blxb42"


def test_a_tap_outside_the_bridge_joins_it():
    async def body():
        await daemon().apply((VIEW,))
        sh(f"ip tuntap add dev {TAP} mode tap vnet_hdr")
        sh(f"ip link set {TAP} alias mine")
        await daemon().apply((VIEW,))

    asyncio.run(body())
    assert links()[TAP]["master"] == "blxb42"


def test_taps_of_instances_that_moved_go_at_the_restart():
    async def body():
        network = daemon()
        await network.apply((VIEW,))
        await network.ensure_tap("default", "mine")
        moved = msgspec.structs.replace(MINE, node_uid="n2", node_address="10.99.0.2")
        await daemon().apply((msgspec.structs.replace(VIEW, endpoints=(moved,)),))

    asyncio.run(body())
    assert TAP not in links()


def test_a_tap_held_open_stays_at_the_restart():
    async def body():
        network = daemon()
        await network.apply((VIEW,))
        await network.ensure_tap("default", "mine")
        holder = _open_tap(TAP)
        try:
            await daemon().apply((msgspec.structs.replace(VIEW, endpoints=()),))
            return TAP in links()
        finally:
            os.close(holder)

    assert asyncio.run(body())


def _open_tap(name):
    import fcntl
    import struct

    holder = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    flags = 0x0002 | 0x1000 | 0x4000  # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR
    fcntl.ioctl(holder, 0x400454CA, struct.pack("16sH22x", name.encode(), flags))
    return holder


def test_an_unchanged_network_survives_the_restart():
    async def body():
        await daemon().apply((VIEW,))
        before = links()["blxb42"]["ifindex"]
        await daemon().apply((VIEW,))
        return before

    assert asyncio.run(body()) == links()["blxb42"]["ifindex"]


def test_a_changed_pool_moves_the_gateway():
    async def body():
        network = daemon()
        await network.apply((VIEW,))
        await network.ensure_tap("default", "mine")
        await network.apply(
            (msgspec.structs.replace(VIEW, cidr="10.43.0.0/16", gateway="10.43.0.1", endpoints=()),)
        )

    asyncio.run(body())
    assert "10.43.0.1" in [a["local"] for a in links()["blxb42"]["addr_info"]]


def test_a_changed_node_address_reaches_the_overlay():
    async def body():
        await daemon().apply((VIEW,))
        await LinuxNetwork("n1", "10.99.0.9").apply((VIEW,))

    asyncio.run(body())
    assert links()["blxv42"]["linkinfo"]["info_data"]["local"] == "10.99.0.9"


def test_learning_is_off_after_a_cut_start():
    async def body():
        await daemon().apply((VIEW,))
        sh("bridge link set dev blxv42 learning on neigh_suppress off")
        await daemon().apply((VIEW,))

    asyncio.run(body())
    port = json.loads(sh("bridge -json -details link show dev blxv42"))[0]
    assert (port["learning"], port["neigh_suppress"]) == (False, True)


def test_one_of_two_networks_is_removed():
    async def body():
        network = daemon()
        await network.apply((VIEW, OTHER))
        await network.apply((VIEW,))

    asyncio.run(body())
    assert sorted(links()) == ["blxb42", "blxv42"]
