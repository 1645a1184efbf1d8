"""The node's network: a bridge, taps, an overlay, NAT; always set from a whole desired state."""

from __future__ import annotations

from typing import Protocol

import msgspec


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One instance's interface anywhere in the cluster.

    ``node_address`` is the owner's underlay IP.
    """

    instance_uid: str
    mac: str
    ip: str
    node_uid: str
    node_address: str


class NetworkView(msgspec.Struct, frozen=True, kw_only=True):
    """One network as this node must know it.

    ``vni`` is the VXLAN id, ``cidr`` the pool, ``gateway`` the address that every node's bridge
    carries, ``peers`` the underlay IPs of all other nodes, ``endpoints`` all instances on it.
    """

    name: str
    vni: int
    cidr: str
    gateway: str
    mtu: int
    peers: tuple[str, ...]
    endpoints: tuple[Endpoint, ...]


class NetworkBackend(Protocol):
    """Makes the kernel match; every call may be repeated."""

    async def apply(self, networks: tuple[NetworkView, ...]) -> None:
        """Make bridges, overlay, forwarding entries, NAT and filters match.

        Raises BlixardError NETWORK_FAILED.
        """

    async def ensure_tap(self, network: str, instance_uid: str) -> str:
        """Return the name of the instance's tap in the network's bridge, made if absent."""

    async def release_tap(self, instance_uid: str) -> None:
        """Remove the instance's tap; absent is fine."""

    async def taps(self) -> dict[str, str]:
        """Return ``{instance uid: tap name}`` of all taps of ours, also from before a crash."""

    async def probe(self, ip: str, port: int, path: str | None, *, timeout_s: float) -> bool:
        """Tell whether TCP connects (and HTTP answers below 400 if *path* is given)."""

    async def cleanup(self) -> None:
        """Remove everything of ours from the kernel."""
