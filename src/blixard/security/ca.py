"""The cluster's certificate authority: a root, an issuing intermediate, and what it signs.

The root is made by ``init``, signs one intermediate (path length 0) and can be put away. The
intermediate's key lies on voters only. Keys of nodes and users are made where they are used: the
authority sees signing requests, and takes nothing from them but the public key.
All keys are ECDSA P-256: the common ground of OpenSSL and BoringSSL.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from blixard.base.errors import BlixardError
from blixard.security.identity import Identity, node_server_name

API_NAME = "api.blixard"
BOOTSTRAP_NAME = "bootstrap.blixard"
ROOT_VALIDITY_S = 10 * 365 * 86_400
ISSUER_VALIDITY_S = 365 * 86_400
LEAF_VALIDITY_S = 86_400
BACKDATING_S = 300
_CSR_BYTES_MAX = 8_192


class Authority(msgspec.Struct, frozen=True, kw_only=True):
    """A CA certificate with its private key, both PEM. The key must never be logged or sent."""

    certificate_pem: bytes
    key_pem: bytes

    def __repr__(self) -> str:
        return "Authority(...)"


def make_key() -> bytes:
    """Return a new private key, PEM (PKCS 8, not encrypted: the file's mode protects it)."""
    return _key_pem(ec.generate_private_key(ec.SECP256R1()))


def make_request(key_pem: bytes) -> bytes:
    """Return a signing request (DER) for the key; identity is the authority's business."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.sign(_load_key(key_pem), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def make_root(trust_domain: str, now_ms: int) -> Authority:
    """Return a new root of trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"root {trust_domain}")
    builder = _builder(name, name, key.public_key(), now_ms, ROOT_VALIDITY_S)
    return _sign_authority(builder, key, key, path_length=1)


def make_issuer(root: Authority, trust_domain: str, now_ms: int) -> Authority:
    """Return a new issuing intermediate, signed by the root."""
    key = ec.generate_private_key(ec.SECP256R1())
    parent = x509.load_pem_x509_certificate(root.certificate_pem)
    name = _name(f"issuer {trust_domain}")
    builder = _builder(name, parent.subject, key.public_key(), now_ms, ISSUER_VALIDITY_S)
    return _sign_authority(builder, key, _load_key(root.key_pem), path_length=0)


def issue_node_certificate(
    issuer: Authority, request_der: bytes, identity: Identity, *, now_ms: int
) -> bytes:
    """Return the certificate chain (PEM, leaf first) of a node; 24 hours, back-dated.

    Raises:
        BlixardError: BAD_REQUEST, if the signing request is not acceptable.
    """
    assert identity.kind == "node"
    assert identity.epoch > 0
    names = (node_server_name(identity.name), API_NAME, BOOTSTRAP_NAME)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    alternative = [x509.UniformResourceIdentifier(identity.uri), *(x509.DNSName(n) for n in names)]
    return _issue_leaf(
        issuer, request_der, alternative, usages, now_ms=now_ms, validity_s=LEAF_VALIDITY_S
    )


def issue_user_certificate(
    issuer: Authority,
    request_der: bytes,
    identity: Identity,
    *,
    now_ms: int,
    validity_s: int = LEAF_VALIDITY_S,
) -> bytes:
    """Return the certificate chain (PEM, leaf first) of a user: client use only.

    Raises:
        BlixardError: BAD_REQUEST, if the signing request is not acceptable.
    """
    assert identity.kind == "user"
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    alternative = [x509.UniformResourceIdentifier(identity.uri)]
    return _issue_leaf(
        issuer, request_der, alternative, usages, now_ms=now_ms, validity_s=validity_s
    )


def read_request(request_der: bytes) -> x509.CertificateSigningRequest:
    """Return a parsed request whose signature and key are good. Raises BlixardError BAD_REQUEST."""
    if len(request_der) > _CSR_BYTES_MAX:
        raise BlixardError("BAD_REQUEST", "the signing request is too large")
    try:
        request = x509.load_der_x509_csr(request_der)
        key = request.public_key()
        good = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise BlixardError("BAD_REQUEST", "the signing request cannot be parsed") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1" or not good:
        raise BlixardError("BAD_REQUEST", "the signing request must be signed by a P-256 key")
    return request


def public_key_matches(certificate: x509.Certificate, key_pem: bytes) -> bool:
    """Tell whether *certificate* is for the key."""
    return certificate.public_key() == _load_key(key_pem).public_key()


def certificate_der(pem: bytes) -> bytes:
    """Return the first certificate of a PEM chain as DER."""
    certificate = x509.load_pem_x509_certificate(pem)
    return certificate.public_bytes(serialization.Encoding.DER)


def certificate_pem(der: bytes) -> bytes:
    """Return a DER certificate as PEM."""
    certificate = x509.load_der_x509_certificate(der)
    return certificate.public_bytes(serialization.Encoding.PEM)


def expires_at_ms(certificate_pem: bytes) -> int:
    """Return when the first certificate of a PEM chain ends, Unix milliseconds."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    return int(certificate.not_valid_after_utc.timestamp() * 1000)


def renew_at_ms(certificate_pem: bytes) -> int:
    """Return when to renew: at half of the time for which the certificate was issued."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    start = certificate.not_valid_before_utc.timestamp() + BACKDATING_S
    end = certificate.not_valid_after_utc.timestamp()
    return int((start + end) / 2 * 1000)


def _issue_leaf(
    issuer: Authority,
    request_der: bytes,
    alternative: Sequence[x509.GeneralName],
    usages: list[x509.ObjectIdentifier],
    *,
    now_ms: int,
    validity_s: int,
) -> bytes:
    public_key = read_request(request_der).public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    parent = x509.load_pem_x509_certificate(issuer.certificate_pem)
    parent_key = _load_key(issuer.key_pem)
    certificate = (
        _builder(x509.Name([]), parent.subject, public_key, now_ms, validity_s)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        # RFC 5280: with an empty subject the alternative name is critical.
        .add_extension(x509.SubjectAlternativeName(alternative), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(parent_key.public_key()),
            critical=False,
        )
        .sign(parent_key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + issuer.certificate_pem


def _sign_authority(
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    path_length: int,
) -> Authority:
    certificate = (
        builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=path_length), critical=True
        )
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    return Authority(certificate_pem=pem, key_pem=_key_pem(key))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now_ms: int,
    validity_s: int,
) -> x509.CertificateBuilder:
    now = datetime.fromtimestamp(now_ms // 1000, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(seconds=BACKDATING_S))
        .not_valid_after(now + timedelta(seconds=validity_s))
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _load_key(key_pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(key_pem, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key
