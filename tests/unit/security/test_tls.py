from __future__ import annotations

import ssl

import pytest
from authorities import DAY_MS, TestAuthority, now_ms

from blixard.security import ca, identity
from blixard.security.tls import (
    API_NAME,
    BOOTSTRAP_NAME,
    TlsIdentity,
    TlsMaterial,
    bootstrap_context,
    trusting_context,
)


class Pair:
    """A client and a server joined in memory."""

    def __init__(
        self,
        server: ssl.SSLContext,
        client: ssl.SSLContext,
        name: str = API_NAME,
        session: ssl.SSLSession | None = None,
    ) -> None:
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(down, up, server_hostname=name, session=session)
        self.server = server.wrap_bio(up, down, server_side=True)

    def handshake(self) -> None:
        """Run both ends; the first refusal of either is raised."""
        done: set[ssl.SSLObject] = set()
        for _round in range(8):
            for end in (self.client, self.server):
                try:
                    end.do_handshake()
                    done.add(end)
                except ssl.SSLWantReadError:
                    continue
        assert len(done) == 2

    def read_late(self) -> ssl.SSLSession | None:
        """Let the client read what follows the handshake; return its session."""
        self.server.write(b"x")
        assert self.client.read(1) == b"x"
        return self.client.session


def _refused(server: ssl.SSLContext, client: ssl.SSLContext, name: str = API_NAME) -> str:
    with pytest.raises(ssl.SSLError) as caught:
        Pair(server, client, name).handshake()
    return str(caught.value.reason)


@pytest.fixture(scope="module")
def authority() -> TestAuthority:
    return TestAuthority()


@pytest.fixture(scope="module")
def other() -> TestAuthority:
    return TestAuthority()


def _server(identity_: TlsIdentity, *, required: bool = True) -> ssl.SSLContext:
    return TlsMaterial(identity_).server_context(client_certificate=required)


def _client(identity_: TlsIdentity) -> ssl.SSLContext:
    return TlsMaterial(identity_).client_context()


def test_nodes_and_users_know_each_other(authority: TestAuthority) -> None:
    pair = Pair(_server(authority.node("N1", epoch=4)), _client(authority.user("alice")))
    pair.handshake()
    assert pair.client.version() == "TLSv1.3"
    for end, name in ((pair.server, "alice"), (pair.client, "N1")):
        der = end.getpeercert(True)
        assert der is not None
        assert identity.from_der(der).identity.name == name


def test_node_is_known_by_its_uid(authority: TestAuthority) -> None:
    server = _server(authority.node("N1"))
    Pair(server, _client(authority.node("N2")), identity.node_server_name("N1")).handshake()
    wrong = identity.node_server_name("N2")
    assert "VERIFY_FAILED" in _refused(server, _client(authority.node("N2")), wrong)


def test_server_of_other_authority_is_refused(
    authority: TestAuthority, other: TestAuthority
) -> None:
    assert "VERIFY_FAILED" in _refused(_server(other.node()), _client(authority.node()))


def test_client_of_other_authority_is_refused(
    authority: TestAuthority, other: TestAuthority
) -> None:
    impostor = other.node()
    client = trusting_context(authority.root.certificate_pem)
    fake = TlsIdentity(
        chain_pem=impostor.chain_pem,
        key_pem=impostor.key_pem,
        roots_pem=authority.root.certificate_pem,
    )
    for required in (True, False):
        server = _server(authority.node(), required=required)
        assert "VERIFY_FAILED" in _refused(server, _client(fake))
    assert client.verify_mode is ssl.CERT_REQUIRED


def test_missing_certificate_between_nodes_is_refused(authority: TestAuthority) -> None:
    client = trusting_context(authority.root.certificate_pem)
    assert "PEER_DID_NOT_RETURN" in _refused(_server(authority.node()), client)


def test_public_port_takes_clients_without_certificate(authority: TestAuthority) -> None:
    server = _server(authority.node(), required=False)
    pair = Pair(server, trusting_context(authority.root.certificate_pem))
    pair.handshake()
    assert pair.server.getpeercert(True) is None


def test_expired_certificates_are_refused(authority: TestAuthority) -> None:
    old_ms = now_ms() - 2 * DAY_MS
    fresh, old = authority.node(), authority.node(at_ms=old_ms)
    assert "VERIFY_FAILED" in _refused(_server(fresh), _client(old))
    assert "VERIFY_FAILED" in _refused(_server(old), _client(fresh))


def test_user_certificate_serves_nobody(authority: TestAuthority) -> None:
    assert "VERIFY_FAILED" in _refused(_server(authority.user()), _client(authority.node()))


def test_leaf_cannot_sign_certificates(authority: TestAuthority) -> None:
    node = authority.node()
    rogue = ca.Authority(certificate_pem=node.chain_pem, key_pem=node.key_pem)
    key = ca.make_key()
    chain = ca.issue_node_certificate(
        rogue,
        ca.make_request(key),
        identity.Identity(trust_domain=authority.domain, kind="node", name="N9", epoch=1),
        now_ms=now_ms(),
    )
    fake = TlsIdentity(chain_pem=chain, key_pem=key, roots_pem=node.roots_pem)
    assert "VERIFY_FAILED" in _refused(_server(node), _client(fake))


def test_older_protocol_is_refused(authority: TestAuthority) -> None:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.load_verify_locations(cadata=authority.root.certificate_pem.decode())
    assert "PROTOCOL" in _refused(_server(authority.node(), required=False), client)


def test_sessions_are_never_resumed(authority: TestAuthority) -> None:
    server, client = _server(authority.node()), _client(authority.user())
    first = Pair(server, client)
    first.handshake()
    session = first.read_late()
    assert session is None or not session.has_ticket
    second = Pair(server, client, session=session)
    second.handshake()
    assert not second.server.session_reused


def test_joiner_trusts_the_authority_of_its_token(
    authority: TestAuthority, other: TestAuthority
) -> None:
    server = _server(authority.node(), required=False)
    good = bootstrap_context(ca.certificate_der(authority.root.certificate_pem))
    Pair(server, good, BOOTSTRAP_NAME).handshake()
    bad = bootstrap_context(ca.certificate_der(other.root.certificate_pem))
    assert "VERIFY_FAILED" in _refused(server, bad, BOOTSTRAP_NAME)


def test_reload_presents_the_new_leaf(authority: TestAuthority) -> None:
    told: list[str] = []
    material = TlsMaterial(authority.node("N1", epoch=1))
    material.on_reload(lambda: told.append("reloaded"))
    server = material.server_context(client_certificate=True)
    material.reload(authority.node("N1", epoch=2))
    pair = Pair(server, _client(authority.user()))
    pair.handshake()
    der = pair.client.getpeercert(True)
    assert der is not None
    assert identity.from_der(der).identity.epoch == 2
    assert told == ["reloaded"]


def test_damaged_pair_leaves_the_old_one(authority: TestAuthority) -> None:
    first, second = authority.node("N1"), authority.node("N1")
    material = TlsMaterial(first)
    server = material.server_context(client_certificate=True)
    mixed = TlsIdentity(
        chain_pem=second.chain_pem, key_pem=first.key_pem, roots_pem=first.roots_pem
    )
    with pytest.raises(ssl.SSLError):
        material.reload(mixed)
    assert material.identity is first
    Pair(server, _client(authority.user())).handshake()


def test_keys_stay_out_of_representations(authority: TestAuthority) -> None:
    assert "KEY" not in repr(authority.node())
