"""The node's network and its guest builder, as far as a simulated host needs them."""

from __future__ import annotations

import asyncio
import hashlib

import msgspec

from blixard.ports.guests import BuiltGuest, GuestRecipe, Progress
from blixard.ports.network import NetworkView

_BUILD_S = 0.5
_KERNEL_S = 0.002


class SimNetworkBackend:
    """``ports.network.NetworkBackend``: the kernel of a host keeps it until the host crashes."""

    def __init__(self) -> None:
        self.networks: tuple[NetworkView, ...] = ()
        self._taps: dict[str, str] = {}

    async def apply(self, networks: tuple[NetworkView, ...]) -> None:
        """Take the desired state over."""
        await asyncio.sleep(_KERNEL_S)
        self.networks = networks

    async def ensure_tap(self, network: str, instance_uid: str) -> str:
        """Return the tap's name."""
        await asyncio.sleep(_KERNEL_S)
        digest = hashlib.blake2b(f"{network}/{instance_uid}".encode(), digest_size=5)
        return self._taps.setdefault(instance_uid, f"t{digest.hexdigest()}")

    async def release_tap(self, instance_uid: str) -> None:
        """Remove the tap."""
        await asyncio.sleep(_KERNEL_S)
        self._taps.pop(instance_uid, None)

    async def taps(self) -> dict[str, str]:
        """Return all taps."""
        return dict(sorted(self._taps.items()))

    async def probe(self, ip: str, port: int, path: str | None, *, timeout_s: float) -> bool:
        """Every endpoint that the node knows answers."""
        assert port > 0
        assert path is None or timeout_s > 0
        await asyncio.sleep(_KERNEL_S)
        return any(e.ip == ip for view in self.networks for e in view.endpoints)

    async def cleanup(self) -> None:
        """Remove everything."""
        self._taps.clear()
        self.networks = ()


class SimGuestBuilder:
    """``ports.guests.GuestBuilder`` with a cache on the host."""

    def __init__(self) -> None:
        self._built: dict[str, BuiltGuest] = {}

    async def build(self, recipe: GuestRecipe, progress: Progress) -> BuiltGuest:
        """Return the runner after the time of a build, at once from the cache."""
        digest = hashlib.blake2b(msgspec.json.encode(recipe), digest_size=16).hexdigest()
        if digest not in self._built:
            progress("building")
            await asyncio.sleep(_BUILD_S)
            self._built[digest] = BuiltGuest(
                runner=f"runners/{digest}", digest=digest, size_bytes=1 << 20, build_s=_BUILD_S
            )
        return self._built[digest]

    async def images(self) -> list[BuiltGuest]:
        """Return the cache."""
        return [self._built[digest] for digest in sorted(self._built)]
