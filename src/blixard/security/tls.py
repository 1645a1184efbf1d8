"""The only place that makes TLS contexts and gRPC credentials.

Rules, each with a test: TLS 1.3 only, every peer verified by the library against the cluster's root
and a fixed name, and no session tickets: a resumed session would skip the check of the client's
certificate (expired, or of an authority no longer trusted).
"""

from __future__ import annotations

import os
import ssl
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from blixard.base.whole import write_whole
from blixard.security.ca import API_NAME, BOOTSTRAP_NAME, certificate_pem
from blixard.security.identity import node_server_name

if TYPE_CHECKING:
    import grpc

__all__ = ["API_NAME", "BOOTSTRAP_NAME", "TlsIdentity", "TlsMaterial", "bootstrap_context"]


class TlsIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What one end presents and trusts, all PEM: chain (leaf first), its key, trusted roots."""

    chain_pem: bytes
    key_pem: bytes
    roots_pem: bytes

    def __repr__(self) -> str:
        return "TlsIdentity(...)"


class TlsMaterial:
    """The current identity of this process, and all contexts made from it, reloaded together."""

    def __init__(self, identity: TlsIdentity) -> None:
        self._identity = identity
        self._contexts: weakref.WeakSet[ssl.SSLContext] = weakref.WeakSet()
        self._listeners: list[Callable[[], None]] = []

    @property
    def identity(self) -> TlsIdentity:
        """What is presented now."""
        return self._identity

    def on_reload(self, listener: Callable[[], None]) -> None:
        """Call *listener* after each change: outgoing gRPC channels must be made again."""
        self._listeners.append(listener)

    def reload(self, identity: TlsIdentity) -> None:
        """Present a new leaf from the next handshake on, without closing anything.

        The new pair is tried first, so that a damaged one leaves the old one in use.
        Raises ssl.SSLError.
        """
        _load_leaf(_server_base(), identity)
        for context in list(self._contexts):
            _load_leaf(context, identity)
        self._identity = identity
        for listener in self._listeners:
            listener()

    def server_context(self, *, client_certificate: bool) -> ssl.SSLContext:
        """Return a server context; without a required certificate one may still be presented."""
        context = _server_base()
        context.verify_mode = ssl.CERT_REQUIRED if client_certificate else ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=self._identity.roots_pem.decode())
        return self._with_leaf(context)

    def client_context(self) -> ssl.SSLContext:
        """Return a client context that presents our certificate; give a fixed server_hostname."""
        return self._with_leaf(trusting_context(self._identity.roots_pem))

    def grpc_server_credentials(self) -> grpc.ServerCredentials:
        """Return credentials that require a client certificate and follow each reload."""
        import grpc

        used = [self._identity]

        def fetch() -> Any:
            if self._identity is used[0]:
                return None
            used[0] = self._identity
            return _grpc_configuration(self._identity)

        return grpc.dynamic_ssl_server_credentials(
            _grpc_configuration(self._identity), fetch, require_client_authentication=True
        )

    def grpc_channel_credentials(self) -> grpc.ChannelCredentials:
        """Return credentials for one channel; fixed for its life."""
        import grpc

        return grpc.ssl_channel_credentials(
            root_certificates=self._identity.roots_pem,
            private_key=self._identity.key_pem,
            certificate_chain=self._identity.chain_pem,
        )

    def _with_leaf(self, context: ssl.SSLContext) -> ssl.SSLContext:
        _load_leaf(context, self._identity)
        self._contexts.add(context)
        return context


def trusting_context(roots_pem: bytes) -> ssl.SSLContext:
    """Return a client context without a certificate of its own (joiners, users with keys)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=roots_pem.decode())
    return context


def bootstrap_context(ca_certificate_der: bytes) -> ssl.SSLContext:
    """Return the joiner's context: it trusts the authority in the token and nothing else.

    Use ``server_hostname=BOOTSTRAP_NAME``.
    """
    return trusting_context(certificate_pem(ca_certificate_der))


def grpc_name_override(uid: str) -> tuple[str, str]:
    """Return the channel option that verifies a node by its name instead of its address."""
    return ("grpc.ssl_target_name_override", node_server_name(uid))


def _server_base() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    return context


def _load_leaf(context: ssl.SSLContext, identity: TlsIdentity) -> None:
    """Load chain and key from memory: as two files they could be seen half replaced."""
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        chain_and_key = identity.chain_pem + identity.key_pem
        write_whole(lambda left, _at: os.write(descriptor, left), chain_and_key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _grpc_configuration(identity: TlsIdentity) -> Any:
    import grpc

    return grpc.ssl_server_certificate_configuration(
        [(identity.key_pem, identity.chain_pem)], root_certificates=identity.roots_pem
    )
