"""The network of a cluster on one machine: bridge, namespace per node, route to the guests."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess

from blixard.app import dev_layout as layout
from blixard.app.dev_layout import Place
from blixard.base.errors import BlixardError

COMMAND_S = 15.0
NAMESPACES = "/run/netns"
_FORWARD = "/proc/sys/net/ipv4/ip_forward"


def command(argv: list[str], text: str = "", *, check: bool = True) -> str:
    """Run a command of the system and return what it prints.

    Raises:
        BlixardError: NETWORK_FAILED, with its words.
    """
    try:
        done = subprocess.run(
            argv, input=text, capture_output=True, text=True, timeout=COMMAND_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BlixardError("NETWORK_FAILED", f"{' '.join(argv)}: {error}") from error
    if check and done.returncode != 0:
        words = " ".join(done.stderr.split())
        raise BlixardError("NETWORK_FAILED", f"{' '.join(argv)}: {words}")
    return done.stdout


def make(directory: str, nodes: list[Place]) -> None:
    """Make bridge, namespaces, cables and NAT."""
    _batch(layout.bridge_lines(directory))
    for place in nodes:
        command(["ip", "netns", "add", place.namespace])
    _batch([line for place in nodes for line in layout.cable_lines(place)])
    for place in nodes:
        _batch(layout.inside_lines(place), namespace=place.namespace)
    _set_forwarding(on=True)
    command(["nft", "-f", "-"], layout.nat_rules())


def remove(*, forwarded: bool) -> None:
    """Remove whatever is there of it."""
    command(["ip", "route", "del", layout.GUESTS, "dev", layout.BRIDGE], check=False)
    for name in namespaces():
        command(["ip", "netns", "del", name])
    for link in links():
        command(["ip", "link", "del", link], check=False)
    table = layout.NFT_TABLE
    with contextlib.suppress(BlixardError):
        # Without nft nothing was made with it.
        command(["nft", "-f", "-"], f"table ip {table}\ndelete table ip {table}\n")
    if not forwarded:
        _set_forwarding(on=False)


def namespaces() -> list[str]:
    """Return the namespaces of ours."""
    if not os.path.isdir(NAMESPACES):
        return []
    return sorted(n for n in os.listdir(NAMESPACES) if layout.is_node_namespace(n))


def links() -> list[str]:
    """Return the links of ours on the machine, the bridge last."""
    found = [str(link["ifname"]) for link in json.loads(command(["ip", "-json", "link"]) or "[]")]
    ours = [n for n in found if n == layout.BRIDGE or n.startswith(layout.PORT)]
    return sorted(ours, key=lambda name: (name == layout.BRIDGE, name))


def owner() -> str:
    """Return the directory of the cluster that is on this machine; empty: none."""
    text = command(["ip", "-json", "link", "show", "dev", layout.BRIDGE], check=False)
    found = json.loads(text) if text.strip() else []
    return str(found[0].get("ifalias", "")) if found else ""


def lead_to_guests(place: Place) -> None:
    """Send what goes to guests through this node."""
    command(["ip", "route", "replace", layout.GUESTS, "via", place.address, "dev", layout.BRIDGE])


def _batch(lines: list[str], *, namespace: str = "") -> None:
    inside = ["-n", namespace] if namespace else []
    command(["ip", *inside, "-batch", "-"], "\n".join(lines) + "\n")


def forwarding() -> bool:
    """Tell whether the machine forwards packets."""
    with open(_FORWARD) as file:
        return file.read().strip() == "1"


def _set_forwarding(*, on: bool) -> None:
    with open(_FORWARD, "w") as file:
        file.write("1" if on else "0")
