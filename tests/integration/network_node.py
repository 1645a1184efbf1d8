"""Run inside a test's namespace: sets a node's network and prints what the test looks at."""

import asyncio
import json
import sys

from blixard.network.linux.backend import LinuxNetwork
from blixard.ports.network import Endpoint, NetworkView


def view(own: int) -> NetworkView:
    """Return the network of two nodes with one instance each, as node *own* sees it."""
    endpoints = tuple(
        Endpoint(
            instance_uid=f"instance{n}",
            mac=f"02:2a:0a:2a:00:0{n + 1}",
            ip=f"10.42.0.{n + 1}",
            node_uid=f"n{n}",
            node_address=f"10.99.0.1{n}",
        )
        for n in (1, 2)
    )
    return NetworkView(
        name="default",
        vni=42,
        cidr="10.42.0.0/16",
        gateway="10.42.0.1",
        mtu=1450,
        peers=(f"10.99.0.1{3 - own}",),
        endpoints=endpoints,
    )


async def main(own: int, action: str) -> dict[str, object]:
    network = LinuxNetwork(f"n{own}", f"10.99.0.1{own}")
    if action == "clean":
        await network.apply(())
        await network.cleanup()
        return {}
    await network.apply((view(own),))
    if action == "tap":
        await network.ensure_tap("default", f"instance{own}")
    if action == "release":
        await network.release_tap(f"instance{own}")
    return {
        "taps": await network.taps(),
        "set": sorted(map(str, network._set or ())),
        "kernel": sorted(map(str, await network._read_entries())),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(int(sys.argv[1]), sys.argv[2]))))
