"""What the command line needs of the API: the part of ``blixard.api.client`` that it uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol


class Outside(Protocol):
    """What a command takes from the machine that it runs on; a simulated one brings its own."""

    def monotonic(self) -> float:
        """Return seconds that only grow."""

    def sleep(self, seconds: float, /) -> None:
        """Let time pass."""

    def entropy(self) -> int:
        """Return 80 random bits."""


class ByteStream(Protocol):
    """A two-way stream of frames (see :mod:`blixard.cli.frames`)."""

    def send(self, frame: bytes) -> None:
        """Send one frame. Raises ConnectionError."""

    def receive(self) -> bytes | None:
        """Return the next frame, None at the end. Raises ConnectionError."""

    def end(self) -> None:
        """Say that nothing more will be sent. Raises ConnectionError."""

    def close(self) -> None:
        """End both directions."""


class Api(Protocol):
    """One cluster, reached through any of its nodes."""

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
        once: bool = False,
        told: dict[str, str] | None = None,
    ) -> Any:
        """Return the decoded answer; its headers go into *told*. *once*: never send it twice.

        Raises:
            BlixardError: with the server's code.
        """

    def watch(
        self,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yield changes ``{type, object, revision}``; TIMEOUT after *timeout_s* as a whole."""

    def stream(self, path: str, *, query: Mapping[str, str] | None = None) -> ByteStream:
        """Open a two-way stream. Raises BlixardError with the server's code."""
