"""Where runners come from: built from distribution packages here, fetched or built by Nix later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec


class GuestFile(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A file put into the root file system: absolute path, text, octal mode."""

    path: str
    content: str
    mode: str = "0644"


class GuestService(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A process that the agent starts and keeps running in the guest."""

    name: str
    command: tuple[str, ...]
    env: dict[str, str] = {}
    restart: bool = True


class GuestRecipe(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What is in a guest: distribution packages, files and services."""

    packages: tuple[str, ...] = ()
    files: tuple[GuestFile, ...] = ()
    services: tuple[GuestService, ...] = ()


class BuiltGuest(msgspec.Struct, frozen=True, rename="camel"):
    """A runner on this node: its directory, and the digest of the recipe with the versions it
    got.
    """

    runner: str
    digest: str
    size_bytes: int
    build_s: float


Progress = Callable[[str], None]


class GuestBuilder(Protocol):
    """Builds runners, cached by content."""

    async def build(self, recipe: GuestRecipe, progress: Progress) -> BuiltGuest:
        """Return the runner, from the cache if it is there.

        Raises:
            BlixardError: PACKAGE_UNKNOWN, IMAGE_BUILD_FAILED, DISK_FULL.
        """

    async def images(self) -> list[BuiltGuest]:
        """Return what the cache holds."""
