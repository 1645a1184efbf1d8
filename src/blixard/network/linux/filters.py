"""Scripts for ``nft``: whose address leaves a node, and which frames a guest may send; pure.

A guest may use its own MAC and IP only: whatever else its tap sends is dropped and counted before
the bridge learns of it.

Who asks a guest from outside may come in by one node while the guest is on another. The guest's
answer leaves by the guest's own node, which never saw the question as a connection, and must not
get that node's address. Of TCP the flags tell; questions by UDP are noted when they arrive by the
overlay. Bridges cannot track connections on every kernel, hence the set of our own.
"""

from __future__ import annotations

from blixard.network.linux.commands import PREFIX, vxlan_name
from blixard.ports.network import NetworkView

TABLE = "blixard"
# Others use the lower bits of packet marks, for policy routing.
_ANSWER_MARK = "0x01000000"
_VISITORS_MAX = 65_536
_VISIT = "3m"
REMOVE_GUESTS = f"table bridge {TABLE}\ndelete table bridge {TABLE}\n"
REMOVE_NAT = f"table ip {TABLE}\ndelete table ip {TABLE}\n"


def nat_rules(views: tuple[NetworkView, ...]) -> str:
    """Return the table of addresses: what leaves a pool gets the node's, answers do not."""
    answers = (
        f"meta mark & {_ANSWER_MARK} == {_ANSWER_MARK}",
        "tcp flags & (fin | syn | rst | ack) != syn",
    )
    rules = [
        rule
        for view in views
        for rule in (
            *(f"ip saddr {view.cidr} {answer} accept" for answer in answers),
            f"ip saddr {view.cidr} ip daddr != {view.cidr} masquerade",
        )
    ]
    return (
        f"{REMOVE_NAT}table ip {TABLE} {{\n"
        "  chain leaving {\n    type nat hook postrouting priority srcnat; policy accept;\n"
        f"{_lines(rules)}  }}\n}}\n"
    )


def guest_rules(views: tuple[NetworkView, ...], taps: dict[str, str]) -> str:
    """Return the table of frames; *taps* are those of this node, by instance uid.

    The noted visitors stay when it is said again.
    """
    guests = [
        f'"{taps[endpoint.instance_uid]}" . {endpoint.mac} . {endpoint.ip}'
        for view in views
        for endpoint in view.endpoints
        if endpoint.instance_uid in taps
    ]
    asked = "ip saddr . udp sport . ip daddr . udp dport"
    answered = "ip daddr . udp dport . ip saddr . udp sport"
    noted = f"meta mark set meta mark | {_ANSWER_MARK}"
    own_arp = ("iifname . ether saddr . arp saddr ip", "iifname . arp saddr ether . arp saddr ip")
    rules = [
        *(
            f'iifname "{vxlan_name(view.vni)}" ip saddr != {view.cidr} ip daddr {view.cidr} '
            f"update @visitors {{ {asked} }}"
            for view in views
        ),
        f'iifname != "{PREFIX}t*" accept',
        f"{answered} @visitors update @visitors {{ {answered} }} {noted}",
        "iifname . ether saddr . ip saddr @guests accept",
        " ".join((*(f"{sender} @guests" for sender in own_arp), "accept")),
        "counter drop",
    ]
    address = "ipv4_addr . inet_service"
    return (
        f"table bridge {TABLE} {{\n"
        "  set guests { type ifname . ether_addr . ipv4_addr; }\n"
        f"  set visitors {{ type {address} . {address}; size {_VISITORS_MAX}; "
        f"flags dynamic,timeout; timeout {_VISIT}; }}\n"
        "  chain arriving { type filter hook prerouting priority -250; policy accept; }\n}\n"
        f"flush chain bridge {TABLE} arriving\nflush set bridge {TABLE} guests\n"
        + "".join(f"add element bridge {TABLE} guests {{ {guest} }}\n" for guest in sorted(guests))
        + f"table bridge {TABLE} {{\n  chain arriving {{\n{_lines(rules)}  }}\n}}\n"
    )


def _lines(rules: list[str]) -> str:
    return "".join(f"    {rule}\n" for rule in rules)
