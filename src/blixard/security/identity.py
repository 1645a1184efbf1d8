"""Who a certificate speaks for: exactly one SPIFFE URI in it, of a form that we issued.

A certificate says *who*, never *what*: roles, removal and the current epoch are looked up in the
replicated state at each call.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import verification

from blixard.base.errors import BlixardError

IdentityKind = Literal["node", "user"]
NAME_PATTERN = re.compile(r"[a-zA-Z0-9](?:[-._@a-zA-Z0-9]{0,126}[a-zA-Z0-9])?")
_TRUST_DOMAIN = r"(?P<domain>[a-z0-9](?:[-.a-z0-9]{0,253}[a-z0-9])?)"
_NODE = re.compile(
    rf"spiffe://{_TRUST_DOMAIN}/node/(?P<name>[A-Za-z0-9-]{{1,64}})/epoch/(?P<epoch>[1-9]\d{{0,17}})"
)
_USER = re.compile(rf"spiffe://{_TRUST_DOMAIN}/user/(?P<name>{NAME_PATTERN.pattern})")


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A node (``name`` is its uid, with its epoch) or a user of one trust domain."""

    trust_domain: str
    kind: IdentityKind
    name: str
    epoch: int = 0

    @property
    def uri(self) -> str:
        """The SPIFFE id."""
        if self.kind == "node":
            return f"spiffe://{self.trust_domain}/node/{self.name}/epoch/{self.epoch}"
        return f"spiffe://{self.trust_domain}/user/{self.name}"


class PeerCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a peer's certificate: identity, validity (Unix ms), serial, SHA-256."""

    identity: Identity
    not_before_ms: int
    not_after_ms: int
    serial: str
    fingerprint: str


def trust_domain_of(cluster_id: str) -> str:
    """Return the trust domain of a cluster."""
    return f"{cluster_id.lower()}.blixard"


def node_server_name(uid: str) -> str:
    """Return the fixed name by which a node's certificate is verified, whatever its address."""
    return f"{uid.lower()}.node.blixard"


def parse_spiffe_id(uri: str) -> Identity:
    """Return the identity that *uri* names. Raises BlixardError UNAUTHENTICATED."""
    node = _NODE.fullmatch(uri)
    if node is not None:
        domain, name, epoch = node["domain"], node["name"], int(node["epoch"])
        return Identity(trust_domain=domain, kind="node", name=name, epoch=epoch)
    user = _USER.fullmatch(uri)
    if user is not None:
        return Identity(trust_domain=user["domain"], kind="user", name=user["name"])
    raise BlixardError("UNAUTHENTICATED", "the certificate carries no identity of this system")


def sole_identity(uris: Iterable[str]) -> Identity:
    """Return the identity of a certificate's URIs; none or several are refused."""
    found = list(uris)
    if len(found) != 1:
        raise BlixardError(
            "UNAUTHENTICATED", f"the certificate carries {len(found)} identities instead of one"
        )
    return parse_spiffe_id(found[0])


def from_certificate(certificate: x509.Certificate) -> PeerCertificate:
    """Return what is kept of a certificate that TLS has verified already."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError) as error:
        raise BlixardError("UNAUTHENTICATED", "the certificate carries no identity") from error
    return PeerCertificate(
        identity=sole_identity(names.get_values_for_type(x509.UniformResourceIdentifier)),
        not_before_ms=int(certificate.not_valid_before_utc.timestamp() * 1000),
        not_after_ms=int(certificate.not_valid_after_utc.timestamp() * 1000),
        serial=f"{certificate.serial_number:x}",
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def from_der(der: bytes) -> PeerCertificate:
    """Return what is kept of a verified certificate, as ``ssl`` hands it out."""
    return from_certificate(_parse(der, x509.load_der_x509_certificate))


def from_pem(pem: bytes) -> PeerCertificate:
    """Return what is kept of a verified certificate in PEM."""
    return from_certificate(_parse(pem, x509.load_pem_x509_certificate))


def verify_der(der: bytes, *, chain_pem: bytes, roots_pem: bytes, now_ms: int) -> PeerCertificate:
    """Return what is kept of a client certificate that no connection of ours has verified.

    *chain_pem* is our own chain: the issuers that it names are those of the cluster's clients too.

    Raises:
        BlixardError: UNAUTHENTICATED.
    """
    # Per minute, so that a hot caller is not verified anew with each request.
    return _verified(der, chain_pem, roots_pem, now_ms // 60_000 * 60_000)


@functools.lru_cache(maxsize=256)
def _verified(der: bytes, chain_pem: bytes, roots_pem: bytes, at_ms: int) -> PeerCertificate:
    certificate = _parse(der, x509.load_der_x509_certificate)
    roots = verification.Store(x509.load_pem_x509_certificates(roots_pem))
    builder = verification.PolicyBuilder().store(roots)
    verifier = builder.time(datetime.fromtimestamp(at_ms / 1000, UTC)).build_client_verifier()
    try:
        verifier.verify(certificate, x509.load_pem_x509_certificates(chain_pem)[1:])
    except verification.VerificationError as error:
        raise BlixardError(
            "UNAUTHENTICATED", f"the caller's certificate does not hold: {error}"
        ) from error
    return from_certificate(certificate)


def from_auth_context(context: Mapping[str, Iterable[bytes]]) -> PeerCertificate:
    """Return the peer of a gRPC call. Raises BlixardError UNAUTHENTICATED."""
    certificates = list(context.get("x509_pem_cert", ()))
    if len(certificates) != 1:
        raise BlixardError("UNAUTHENTICATED", "the connection carries no client certificate")
    return from_pem(certificates[0])


def check_valid_now(peer: PeerCertificate, now_ms: int) -> None:
    """Refuse a certificate whose time is over: a connection outlives its handshake.

    Raises:
        BlixardError: UNAUTHENTICATED.
    """
    if not peer.not_before_ms <= now_ms <= peer.not_after_ms:
        raise BlixardError("UNAUTHENTICATED", "the certificate's time is over or not yet come")


def _parse(data: bytes, load: object) -> x509.Certificate:
    assert callable(load)
    try:
        parsed = load(data)
    except ValueError as error:
        raise BlixardError("UNAUTHENTICATED", "the certificate cannot be parsed") from error
    assert isinstance(parsed, x509.Certificate)
    return parsed
