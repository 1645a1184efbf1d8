"""Addresses of instances: the next free one of a pool, and a MAC that follows from it."""

from __future__ import annotations

import ipaddress

import msgspec

from blixard.base.errors import BlixardError
from blixard.cluster.store import Store
from blixard.network.kinds import NetworkSpec


def gateway_of(cidr: str) -> str:
    """Return the pool's first address, which every node's bridge carries."""
    return str(ipaddress.IPv4Network(cidr).network_address + 1)


def mac_of(ip: str, vni: int) -> str:
    """Return a locally administered MAC, unique for network and address."""
    packed = ipaddress.IPv4Address(ip).packed
    return ":".join(f"{byte:02x}" for byte in (0x02, vni & 0xFF, *packed))


class AddressPlan:
    """The free addresses of all networks, with those taken while a plan is being drawn.

    The search goes on after the highest address in use and wraps around, so that an address that
    was just given back is the last to be used again.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._used: dict[str, set[int]] = {}
        for instance in store.list("Instance"):
            ip = instance.spec.get("ip", "")
            if ip:
                taken = self._used.setdefault(instance.spec.get("network", ""), set())
                taken.add(int(ipaddress.IPv4Address(ip)))

    def allocate(self, network: str) -> tuple[str, str]:
        """Return IP and MAC.

        Raises:
            BlixardError: NOT_FOUND, if there is no such network; ADDRESSES_EXHAUSTED.
        """
        resource = self._store.get("Network", "", network)
        if resource is None:
            raise BlixardError("NOT_FOUND", f"network {network!r} does not exist")
        spec = msgspec.convert(resource.spec, NetworkSpec)
        used = self._used.setdefault(network, set())
        address = next_free(spec.cidr, used)
        used.add(address)
        ip = str(ipaddress.IPv4Address(address))
        return ip, mac_of(ip, spec.vni)


def next_free(cidr: str, used: set[int]) -> int:
    """Return the next free address as a number. Raises BlixardError ADDRESSES_EXHAUSTED."""
    pool = ipaddress.IPv4Network(cidr)
    first, last = int(pool.network_address) + 2, int(pool.broadcast_address) - 1
    inside = [number for number in used if first <= number <= last]
    start = max(inside, default=first - 1) + 1
    if start > last:
        start = first
    count = last - first + 1
    for step in range(count):
        number = first + (start - first + step) % count
        if number not in used:
            return number
    raise BlixardError("ADDRESSES_EXHAUSTED", f"all {count} addresses of {cidr} are in use")
