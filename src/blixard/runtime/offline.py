# ruff: noqa: ARG002 - the port gives the parameters; nobody is reached with them
"""A transport that reaches nobody: for work on a data directory before the node runs."""

from __future__ import annotations

from blixard.base.errors import BlixardError
from blixard.ports.transport import MessageHandler, RequestHandler, Stream, StreamHandler


class OfflineTransport:
    """Implements ``ports.transport.Transport``; every peer is unreachable."""

    def set_peer(self, uid: str, address: str) -> None:
        """Know nobody."""

    def remove_peer(self, uid: str) -> None:
        """Know nobody."""

    def send(self, uid: str, channel: str, payload: bytes) -> bool:
        """Say that the message was not queued."""
        return False

    async def request(self, uid: str, method: str, payload: bytes, *, timeout_s: float) -> bytes:
        """Raise UNREACHABLE."""
        raise BlixardError("UNREACHABLE", "this process is not connected to the cluster")

    async def open_stream(self, uid: str, method: str, payload: bytes) -> Stream:
        """Raise UNREACHABLE."""
        raise BlixardError("UNREACHABLE", "this process is not connected to the cluster")

    def on_message(self, channel: str, handler: MessageHandler) -> None:
        """Hear nothing."""

    def on_request(self, method: str, handler: RequestHandler) -> None:
        """Hear nothing."""

    def on_stream(self, method: str, handler: StreamHandler) -> None:
        """Hear nothing."""
