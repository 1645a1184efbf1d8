"""Batches for ``ip`` and ``bridge``: what to say to the kernel, as text; pure.

Every choice has its reason in the kernel's behaviour: a bridge without a fixed MAC changes it with
its ports and flushes every neighbour; learning moves static entries; in the bridge's own table
*permanent* means local; unknown unicast must not be flooded into taps that nobody reads.
"""

from __future__ import annotations

import hashlib
import ipaddress

import msgspec

from blixard.ports.network import Endpoint, NetworkView

PREFIX = "blx"
VXLAN_PORT = 4789
_FLOOD = "00:00:00:00:00:00"


class Entry(msgspec.Struct, frozen=True, order=True):
    """One forwarding or neighbour entry: which table, the device, its key and where it leads."""

    table: str
    device: str
    key: str
    target: str = ""


def bridge_name(vni: int) -> str:
    """Return the name of a network's bridge."""
    return f"{PREFIX}b{vni}"


def vxlan_name(vni: int) -> str:
    """Return the name of a network's overlay device."""
    return f"{PREFIX}v{vni}"


def tap_name(instance_uid: str) -> str:
    """Return the name of an instance's tap: 15 characters at most."""
    return f"{PREFIX}t{hashlib.blake2b(instance_uid.encode(), digest_size=5).hexdigest()}"


def bridge_mac(vni: int) -> str:
    """Return the gateway's MAC, the same on every node: a guest that moves keeps its neighbour."""
    return ":".join(f"{b:02x}" for b in (0x02, 0xB1, *vni.to_bytes(3, "big"), 0x01))


def make_network(view: NetworkView, local: str) -> list[str]:
    """Return the ``ip`` lines that make bridge and overlay device."""
    bridge, vxlan = bridge_name(view.vni), vxlan_name(view.vni)
    return [
        f"link add {bridge} address {bridge_mac(view.vni)} mtu {view.mtu} type bridge",
        f"link set {bridge} up",
        f"address add {view.gateway}/{_prefix(view.cidr)} dev {bridge} noprefixroute",
        f"route replace {view.cidr} dev {bridge} src {local}",
        (
            f"link add {vxlan} mtu {view.mtu} type vxlan id {view.vni} local {local} "
            f"dstport {VXLAN_PORT} nolearning"
        ),
        f"link set {vxlan} master {bridge} up",
    ]


def port_flags(device: str, *, overlay: bool) -> str:
    """Return the ``bridge`` line for a port."""
    if overlay:
        return f"link set dev {device} learning off neigh_suppress on"
    return f"link set dev {device} learning off flood off"


def make_tap(name: str, instance_uid: str, view: NetworkView) -> list[str]:
    """Return the ``ip`` lines that make a tap in the network's bridge."""
    return [
        f"tuntap add dev {name} mode tap vnet_hdr",
        f"link set {name} alias {instance_uid}",
        f"link set {name} mtu {view.mtu} master {bridge_name(view.vni)}",
        f"link set {name} up",
    ]


def entries(view: NetworkView, own_uid: str, taps: dict[str, str]) -> set[Entry]:
    """Return every entry of a network as this node must have it; *taps* are those that exist."""
    vxlan, bridge = vxlan_name(view.vni), bridge_name(view.vni)
    wanted = {Entry("flood", vxlan, _FLOOD, peer) for peer in view.peers}
    for endpoint in view.endpoints:
        wanted |= _endpoint_entries(endpoint, own_uid, taps, bridge=bridge, vxlan=vxlan)
    return wanted


def _endpoint_entries(
    endpoint: Endpoint, own_uid: str, taps: dict[str, str], *, bridge: str, vxlan: str
) -> set[Entry]:
    neighbour = Entry("neigh", bridge, endpoint.ip, endpoint.mac)
    if endpoint.node_uid != own_uid:
        return {
            neighbour,
            Entry("self", vxlan, endpoint.mac, endpoint.node_address),
            Entry("master", vxlan, endpoint.mac),
        }
    tap = taps.get(endpoint.instance_uid)
    return {neighbour, Entry("master", tap, endpoint.mac)} if tap else set()


def entry_lines(add: set[Entry], remove: set[Entry]) -> tuple[list[str], list[str]]:
    """Return the ``bridge`` and the ``ip`` lines that change the entries.

    A key that moved from one device to another is removed before it is added.
    """
    bridge_lines, ip_lines = [], []
    for entry in sorted(remove):
        if entry.table == "neigh":
            if not any(
                a.table == "neigh" and (a.device, a.key) == (entry.device, entry.key) for a in add
            ):
                ip_lines.append(f"neigh del {entry.key} dev {entry.device}")
        elif entry.table == "self":
            if Entry("self", entry.device, entry.key) not in {_untargeted(a) for a in add}:
                bridge_lines.append(f"fdb del {entry.key} dev {entry.device} self")
        elif entry.table == "flood":
            bridge_lines.append(f"fdb del {entry.key} dev {entry.device} dst {entry.target} self")
        else:
            bridge_lines.append(f"fdb del {entry.key} dev {entry.device} master")
    for entry in sorted(add):
        if entry.table == "neigh":
            ip_lines.append(
                f"neigh replace {entry.key} lladdr {entry.target} dev {entry.device} nud permanent"
            )
        elif entry.table == "self":
            bridge_lines.append(
                f"fdb replace {entry.key} dev {entry.device} dst {entry.target} self permanent"
            )
        elif entry.table == "flood":
            bridge_lines.append(
                f"fdb append {entry.key} dev {entry.device} dst {entry.target} self permanent"
            )
        else:
            bridge_lines.append(f"fdb replace {entry.key} dev {entry.device} master static")
    return bridge_lines, ip_lines


def _untargeted(entry: Entry) -> Entry:
    return Entry(entry.table, entry.device, entry.key)


def _prefix(cidr: str) -> int:
    return ipaddress.IPv4Network(cidr).prefixlen
