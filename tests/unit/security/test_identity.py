from __future__ import annotations

import datetime as dt

import pytest
from authorities import DAY_MS, DOMAIN, TestAuthority, now_ms
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from blixard.base.errors import BlixardError
from blixard.security import ca, identity
from blixard.security.identity import Identity, verify_der

NODE = f"spiffe://{DOMAIN}/node/01ABC/epoch/3"


def test_node_and_user_uris_round_trip() -> None:
    for uri in (NODE, f"spiffe://{DOMAIN}/user/alice@example.org"):
        assert identity.parse_spiffe_id(uri).uri == uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://test.blixard/node/A/epoch/1",
        f"spiffe://{DOMAIN}/node/A",
        f"spiffe://{DOMAIN}/node/A/epoch/0",
        f"spiffe://{DOMAIN}/node/A/epoch/01",
        f"spiffe://{DOMAIN}/node/A/epoch/1/x",
        f"spiffe://{DOMAIN}/node/../epoch/1",
        f"spiffe://{DOMAIN}/user/",
        f"spiffe://{DOMAIN}/user/a/b",
        f"spiffe://{DOMAIN}/user/alice\n",
        "spiffe://TEST.blixard/user/alice",
        "spiffe:///user/alice",
    ],
)
def test_other_uris_are_refused(uri: str) -> None:
    with pytest.raises(BlixardError):
        identity.parse_spiffe_id(uri)


@pytest.mark.parametrize("uris", [[], [NODE, NODE], [NODE, "https://x.example"]])
def test_none_or_several_identities_are_refused(uris: list[str]) -> None:
    with pytest.raises(BlixardError) as caught:
        identity.from_der(_certificate(uris))
    assert caught.value.code == "UNAUTHENTICATED"


def test_certificate_without_names_is_refused() -> None:
    authority = TestAuthority()
    with pytest.raises(BlixardError):
        identity.from_der(ca.certificate_der(authority.root.certificate_pem))
    with pytest.raises(BlixardError):
        identity.from_der(b"noise")


def test_grpc_context_gives_the_peer() -> None:
    node = TestAuthority().node("N1", epoch=2)
    peer = identity.from_auth_context({"x509_pem_cert": [node.chain_pem]})
    assert peer.identity == Identity(trust_domain=DOMAIN, kind="node", name="N1", epoch=2)
    for context in ({}, {"x509_pem_cert": [node.chain_pem] * 2}):
        with pytest.raises(BlixardError):
            identity.from_auth_context(context)


def test_validity_is_checked_at_each_call() -> None:
    peer = identity.from_pem(TestAuthority().node().chain_pem)
    identity.check_valid_now(peer, now_ms())
    for time_ms in (peer.not_before_ms - 1, peer.not_after_ms + 1):
        with pytest.raises(BlixardError):
            identity.check_valid_now(peer, time_ms)


def _certificate(uris: list[str]) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(hours=1))
    )
    names = [x509.DNSName("a.example"), *(x509.UniformResourceIdentifier(uri) for uri in uris)]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def test_forwarded_certificate_must_hang_on_our_authority():
    ours, theirs = TestAuthority(), TestAuthority()
    own, alice, mallory = ours.node(), ours.user(), theirs.user()
    trust = {"chain_pem": own.chain_pem, "roots_pem": own.roots_pem}
    der = ca.certificate_der(alice.chain_pem)
    assert verify_der(der, now_ms=now_ms(), **trust).identity.name == "alice"
    with pytest.raises(BlixardError, match="does not hold"):
        verify_der(ca.certificate_der(mallory.chain_pem), now_ms=now_ms(), **trust)
    with pytest.raises(BlixardError, match="does not hold"):
        verify_der(der, now_ms=now_ms() + 2 * DAY_MS, **trust)
    with pytest.raises(BlixardError, match="cannot be parsed"):
        verify_der(b"nonsense", now_ms=now_ms(), **trust)
    node = verify_der(ca.certificate_der(own.chain_pem), now_ms=now_ms(), **trust)
    assert node.identity.kind == "node"
