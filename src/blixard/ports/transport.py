"""Messages, requests and streams between nodes, addressed by node uid.

Every peer is authenticated by the adapter: handlers get the uid of the *certificate*, never one
that the peer claims. Handlers are registered by channel or method name before ``start``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

MESSAGES = "messages"  # the method that sending on any channel counts as, beside the channel's name


class Stream(Protocol):
    """A two-way sequence of byte frames."""

    async def send(self, frame: bytes) -> None:
        """Send one frame; waits while the peer is slow. Raises ConnectionError."""

    async def receive(self) -> bytes | None:
        """Return the next frame, or None at the end. Raises ConnectionError."""

    async def close(self) -> None:
        """End both directions."""


MessageHandler = Callable[[str, bytes], None]
RequestHandler = Callable[[str, bytes], Awaitable[bytes]]
StreamHandler = Callable[[str, bytes, Stream], Awaitable[None]]


class Transport(Protocol):
    """How one node talks to the others."""

    def set_peer(self, uid: str, address: str) -> None:
        """Say where *uid* listens (``host:port``); a new address replaces the old connection."""

    def remove_peer(self, uid: str) -> None:
        """Forget *uid* and end its connection."""

    def send(self, uid: str, channel: str, payload: bytes) -> bool:
        """Queue a message; in order per peer and channel, may be lost. False.

        Queue full or unknown peer.
        """

    async def request(self, uid: str, method: str, payload: bytes, *, timeout_s: float) -> bytes:
        """Call a method of a peer.

        Raises:
            BlixardError: the handler's own error; UNREACHABLE, TIMEOUT after *timeout_s*: both
                leave open whether the handler ran, unless ``details["sent"]`` is False.
        """

    async def open_stream(self, uid: str, method: str, payload: bytes) -> Stream:
        """Open a stream handled by the peer's stream handler. Raises BlixardError UNREACHABLE."""

    def on_message(self, channel: str, handler: MessageHandler) -> None:
        """Handle messages of *channel*; the handler must not block."""

    def on_request(self, method: str, handler: RequestHandler) -> None:
        """Handle requests of *method*; a BlixardError raised travels to the caller."""

    def on_stream(self, method: str, handler: StreamHandler) -> None:
        """Handle streams of *method*; the stream ends when the handler returns."""
