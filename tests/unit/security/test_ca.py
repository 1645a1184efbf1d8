from __future__ import annotations

import pytest
from authorities import DOMAIN, TestAuthority, now_ms
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from blixard.base.errors import BlixardError
from blixard.security import ca, identity
from blixard.security.identity import Identity

NOW_MS = 1_800_000_000_000
ALICE = Identity(trust_domain=DOMAIN, kind="user", name="alice")


def _load(chain: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(chain)


def test_node_certificate_names_uid_and_epoch() -> None:
    chain = _load(TestAuthority().node("01ABC", epoch=7).chain_pem)
    names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        f"spiffe://{DOMAIN}/node/01ABC/epoch/7"
    ]
    assert names.get_values_for_type(x509.DNSName) == [
        "01abc.node.blixard",
        "api.blixard",
        "bootstrap.blixard",
    ]
    assert identity.from_certificate(chain[0]).identity.epoch == 7


def test_leaf_is_backdated_and_short() -> None:
    authority = TestAuthority(at_ms=NOW_MS)
    leaf = _load(authority.node(at_ms=NOW_MS).chain_pem)[0]
    assert leaf.not_valid_before_utc.timestamp() * 1000 == NOW_MS - 300_000
    assert leaf.not_valid_after_utc.timestamp() * 1000 == NOW_MS + 86_400_000
    pem = leaf.public_bytes(serialization.Encoding.PEM)
    assert ca.expires_at_ms(pem) == NOW_MS + 86_400_000
    assert ca.renew_at_ms(pem) == NOW_MS + 43_200_000


def test_usages_separate_nodes_and_users() -> None:
    authority = TestAuthority()
    found = [
        set(_load(pem)[0].extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        for pem in (authority.node().chain_pem, authority.user().chain_pem)
    ]
    both = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert found == [both, {ExtendedKeyUsageOID.CLIENT_AUTH}]


def test_independent_verifier_accepts_the_chain() -> None:
    authority = TestAuthority()
    leaf, issuer = _load(authority.node("N1").chain_pem)
    store = Store([_load(authority.root.certificate_pem)[0]])
    verifier = PolicyBuilder().store(store).build_server_verifier(x509.DNSName("api.blixard"))
    assert len(verifier.verify(leaf, [issuer])) == 3


def test_issuer_cannot_make_authorities() -> None:
    authority = TestAuthority()
    rogue = ca.make_issuer(authority.issuer, DOMAIN, now_ms())
    chain = ca.issue_node_certificate(
        rogue,
        ca.make_request(ca.make_key()),
        Identity(trust_domain=DOMAIN, kind="node", name="N1", epoch=1),
        now_ms=now_ms(),
    )
    leaf, rogue_certificate = _load(chain)
    store = Store([_load(authority.root.certificate_pem)[0]])
    verifier = PolicyBuilder().store(store).build_server_verifier(x509.DNSName("api.blixard"))
    with pytest.raises(VerificationError):
        verifier.verify(leaf, [rogue_certificate, _load(authority.issuer.certificate_pem)[0]])


def test_names_in_requests_are_ignored() -> None:
    key = ca.make_key()
    private = serialization.load_pem_private_key(key, None)
    wanted = x509.SubjectAlternativeName([x509.DNSName("evil.example")])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(wanted, critical=False)
        .sign(private, hashes.SHA256())  # type: ignore[arg-type]
        .public_bytes(serialization.Encoding.DER)
    )
    issuer = TestAuthority().issuer
    chain = ca.issue_user_certificate(issuer, request, ALICE, now_ms=now_ms())
    names = _load(chain)[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == []


@pytest.mark.parametrize("kind", ["rsa", "ed25519", "noise", "huge", "damaged"])
def test_unacceptable_requests_are_refused(kind: str) -> None:
    good = ca.make_request(ca.make_key())
    requests = {
        "rsa": _foreign(rsa.generate_private_key(65537, 2048)),
        "ed25519": _foreign(ed25519.Ed25519PrivateKey.generate()),
        "noise": b"\x30\x03abc",
        "huge": b"x" * 10_000,
        "damaged": good[:-1] + bytes([good[-1] ^ 1]),
    }
    with pytest.raises(BlixardError) as caught:
        ca.issue_user_certificate(TestAuthority().issuer, requests[kind], ALICE, now_ms=now_ms())
    assert caught.value.code == "BAD_REQUEST"


def _foreign(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    algorithm = hashes.SHA256() if isinstance(key, rsa.RSAPrivateKey) else None
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


def test_authority_never_shows_its_key() -> None:
    assert "KEY" not in repr(TestAuthority().issuer)
