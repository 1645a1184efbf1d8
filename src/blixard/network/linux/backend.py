"""Implements the NetworkBackend port with iproute2 and nftables in the node's own namespace.

Batches go through ``ip -batch`` and ``bridge -batch``: one process for any number of changes. What
was set is remembered, so that an unchanged view costs nothing; after a restart it is read back.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
from typing import Any

from blixard.base.errors import BlixardError
from blixard.network.linux import commands as c
from blixard.network.linux import filters
from blixard.ports.network import NetworkView

COMMAND_S = 10.0
SYSCTLS = (
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/bridge/bridge-nf-call-iptables", "0"),
)


class LinuxNetwork:
    """The network of one node; *own_uid* and *local* (underlay IP) say which one."""

    def __init__(self, own_uid: str, local: str) -> None:
        self._own_uid = own_uid
        self._local = local
        self._views: dict[str, NetworkView] = {}
        self._set: set[c.Entry] | None = None
        self._taps: dict[str, str] | None = None
        self._guest_rules = ""
        self._lock = asyncio.Lock()

    async def apply(self, networks: tuple[NetworkView, ...]) -> None:
        """Make bridges, overlay, forwarding entries, NAT and filters match."""
        async with self._lock:
            unread = self._set is None
            if unread:
                await self._first(networks)
            known = {view.vni: _shape(view) for view in self._views.values()}
            if unread or {view.vni: _shape(view) for view in networks} != known:
                await self._make_networks(networks)
            if unread:
                for view in networks:
                    await self._rejoin(view)
            self._views = {view.name: view for view in networks}
            await self._set_entries()

    async def _first(self, networks: tuple[NetworkView, ...]) -> None:
        """Set the kernel's switches; read what an earlier daemon left, and remove its ruins."""
        for name, value in SYSCTLS:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(_write_sysctl, name, value)
        mine = {
            e.instance_uid
            for view in networks
            for e in view.endpoints
            if e.node_uid == self._own_uid
        }
        ruins = [link["ifname"] for link in await self._links() if _is_ruin(link, mine)]
        await self._batch("ip", [f"link del {name}" for name in ruins])
        self._taps = await self._read_taps()

    async def _make_networks(self, networks: tuple[NetworkView, ...]) -> None:
        present = {link["ifname"]: link for link in await self._links()}
        wanted = set()
        for view in networks:
            bridge, vxlan = c.bridge_name(view.vni), c.vxlan_name(view.vni)
            wanted |= {bridge, vxlan}
            if bridge in present and vxlan in present and _fits(present, view, self._local):
                await self._batch("bridge", [c.port_flags(vxlan, overlay=True)])
                continue
            await self._run(
                ["ip", "-force", "-batch", "-"],
                f"link del {vxlan}\nlink del {bridge}\n",
                check=False,
            )
            await self._batch("ip", c.make_network(view, self._local))
            await self._batch("bridge", [c.port_flags(vxlan, overlay=True)])
            await self._rejoin(view)
        stale = [n for n in sorted(present) if _is_network(n) and n not in wanted]
        await self._batch("ip", [f"link del {name}" for name in stale])
        # Entries went with the devices: of bridges, overlays, and of taps that lost their bridge.
        self._set = await self._read_entries()
        await self._run(["nft", "-f", "-"], filters.nat_rules(networks))

    async def _rejoin(self, view: NetworkView) -> None:
        """Put existing taps of the network's instances into its bridge, again or at last."""
        mine = {e.instance_uid for e in view.endpoints}
        taps = [tap for uid, tap in sorted((self._taps or {}).items()) if uid in mine]
        bridge = c.bridge_name(view.vni)
        await self._batch(
            "ip", [f"link set {tap} mtu {view.mtu} master {bridge} up" for tap in taps]
        )
        await self._batch("bridge", [c.port_flags(tap, overlay=False) for tap in taps])

    async def _set_guest_rules(self) -> None:
        """Say what guests may send; the first time, in place of what an earlier daemon said."""
        rules = filters.guest_rules(tuple(self._views.values()), self._taps or {})
        if rules == self._guest_rules:
            return
        before = "" if self._guest_rules else filters.REMOVE_GUESTS
        await self._run(["nft", "-f", "-"], before + rules)
        self._guest_rules = rules

    async def _set_entries(self) -> None:
        # Nothing reaches a tap, or comes from it, that the rules do not know.
        await self._set_guest_rules()
        wanted: set[c.Entry] = set()
        for view in self._views.values():
            wanted |= c.entries(view, self._own_uid, self._taps or {})
        current = self._set or set()
        bridge_lines, ip_lines = c.entry_lines(wanted - current, current - wanted)
        try:
            await self._batch("bridge", bridge_lines)
            await self._batch("ip", ip_lines)
        except BlixardError:
            # What took effect is not known: read it back the next time.
            self._set = None
            raise
        self._set = wanted

    async def ensure_tap(self, network: str, instance_uid: str) -> str:
        """Return the instance's tap, made if absent, with its forwarding entry."""
        async with self._lock:
            view = self._views.get(network)
            if view is None or self._taps is None:
                raise BlixardError("NETWORK_FAILED", f"network {network!r} is not set up yet")
            name = c.tap_name(instance_uid)
            if instance_uid not in self._taps:
                # An attempt that was cut short may have left it half made, and nobody uses it.
                await self._run(["ip", "link", "del", name], "", check=False)
                await self._batch("ip", c.make_tap(name, instance_uid, view))
                await self._batch("bridge", [c.port_flags(name, overlay=False)])
                self._taps[instance_uid] = name
            await self._set_entries()
            return name

    async def release_tap(self, instance_uid: str) -> None:
        """Remove the instance's tap."""
        async with self._lock:
            taps = self._taps if self._taps is not None else await self._read_taps()
            name = taps.pop(instance_uid, None)
            if name is None:
                return
            await self._run(["ip", "link", "del", name], "", check=False)
            # The kernel drops the entries of a device with the device.
            self._set = {e for e in self._set or () if e.device != name}

    async def taps(self) -> dict[str, str]:
        """Return the taps of ours by instance uid."""
        return await self._read_taps()

    async def probe(self, ip: str, port: int, path: str | None, *, timeout_s: float) -> bool:
        """Tell whether TCP connects, and HTTP answers below 400 if *path* is given."""
        try:
            async with asyncio.timeout(timeout_s):
                reader, writer = await asyncio.open_connection(ip, port)
                try:
                    if path is None:
                        return True
                    request = f"GET {path} HTTP/1.1\r\nHost: {ip}\r\nConnection: close\r\n\r\n"
                    writer.write(request.encode())
                    await writer.drain()
                    status = (await reader.readline()).split(b" ")
                    return len(status) > 1 and status[1].isdigit() and int(status[1]) < 400
                finally:
                    writer.close()
        except (OSError, TimeoutError, ValueError):
            return False

    async def cleanup(self) -> None:
        """Remove every device and table of ours."""
        async with self._lock:
            names = [link["ifname"] for link in await self._links()]
            ours = [n for n in names if n.startswith(c.PREFIX)]
            script = "".join(f"link del {name}\n" for name in ours)
            await self._run(["ip", "-force", "-batch", "-"], script, check=False)
            await self._run(["nft", "-f", "-"], filters.REMOVE_NAT + filters.REMOVE_GUESTS)
            self._views, self._set, self._taps, self._guest_rules = {}, None, None, ""

    # -- reading back --

    async def _links(self) -> list[dict[str, Any]]:
        found = json.loads(await self._run(["ip", "-json", "-details", "address"], "") or "[]")
        return [link for link in found if str(link.get("ifname", "")).startswith(c.PREFIX)]

    async def _read_taps(self) -> dict[str, str]:
        return {
            link["ifalias"]: link["ifname"]
            for link in await self._links()
            if link["ifname"].startswith(f"{c.PREFIX}t") and link.get("ifalias")
        }

    async def _read_entries(self) -> set[c.Entry]:
        forwarding = json.loads(await self._run(["bridge", "-json", "fdb", "show"], "") or "[]")
        neighbours = json.loads(
            await self._run(["ip", "-json", "neigh", "show", "nud", "permanent"], "") or "[]"
        )
        found = {entry for item in forwarding if (entry := _entry(item)) is not None}
        return found | {
            c.Entry("neigh", n["dev"], n["dst"], n.get("lladdr", ""))
            for n in neighbours
            if str(n.get("dev", "")).startswith(f"{c.PREFIX}b")
        }

    # -- commands --

    async def _batch(self, tool: str, lines: list[str]) -> None:
        if lines:
            await self._run([tool, "-batch", "-"], "\n".join(lines) + "\n")

    async def _run(self, argv: list[str], text: str, *, check: bool = True) -> str:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(COMMAND_S):
                out, err = await process.communicate(text.encode())
        except TimeoutError as error:
            process.kill()
            await process.wait()
            raise BlixardError("NETWORK_FAILED", f"{argv[0]} did not end in time") from error
        if check and process.returncode != 0:
            words = err.decode(errors="replace").strip().replace("\n", "; ")
            raise BlixardError("NETWORK_FAILED", f"{' '.join(argv)}: {words}")
        return out.decode(errors="replace")


def _shape(view: NetworkView) -> tuple[int, str, str, int]:
    return (view.vni, view.cidr, view.gateway, view.mtu)


def _is_network(name: str) -> bool:
    return name[: len(c.PREFIX) + 1] in (f"{c.PREFIX}b", f"{c.PREFIX}v")


def _is_ruin(link: dict[str, Any], mine: set[str]) -> bool:
    """Tell whether a link is a tap that no hypervisor holds open, half made or not of *mine*."""
    is_tap = str(link["ifname"]).startswith(f"{c.PREFIX}t")
    return is_tap and "LOWER_UP" not in link.get("flags", []) and link.get("ifalias") not in mine


def _fits(present: dict[str, dict[str, Any]], view: NetworkView, local: str) -> bool:
    bridge, vxlan = present[c.bridge_name(view.vni)], present[c.vxlan_name(view.vni)]
    prefix = ipaddress.IPv4Network(view.cidr).prefixlen
    addresses = [(a.get("local"), a.get("prefixlen")) for a in bridge.get("addr_info", [])]
    return bool(
        bridge.get("mtu") == view.mtu
        and bridge.get("address") == c.bridge_mac(view.vni)
        and (view.gateway, prefix) in addresses
        and vxlan.get("mtu") == view.mtu
        and vxlan.get("master") == bridge["ifname"]
        and vxlan.get("linkinfo", {}).get("info_data", {}).get("local") == local
    )


def _entry(item: dict[str, Any]) -> c.Entry | None:
    """Return a forwarding entry of ours as the kernel lists it."""
    device, mac = str(item.get("ifname", "")), str(item.get("mac", ""))
    flags = item.get("flags", [])
    if not device.startswith(c.PREFIX):
        return None
    if "self" in flags and item.get("dst"):
        table = "flood" if mac == "00:00:00:00:00:00" else "self"
        return c.Entry(table, device, mac, str(item["dst"]))
    if item.get("master") and item.get("state") == "static":
        return c.Entry("master", device, mac)
    return None


def _write_sysctl(name: str, value: str) -> None:
    with open(f"/proc/sys/{name}", "w") as file:
        file.write(value)
