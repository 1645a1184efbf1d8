"""A cluster authority with certificates for tests, all at a time given as a value."""

from __future__ import annotations

import time

from blixard.security import ca
from blixard.security.identity import Identity
from blixard.security.tls import TlsIdentity

DOMAIN = "test.blixard"
DAY_MS = 86_400_000


def now_ms() -> int:
    """Return the real time: TLS compares with the system's clock."""
    return time.time_ns() // 1_000_000


class TestAuthority:
    """Root and issuer of one trust domain."""

    __test__ = False

    def __init__(self, domain: str = DOMAIN, *, at_ms: int | None = None) -> None:
        self.domain = domain
        self.root = ca.make_root(domain, now_ms() - 10 * DAY_MS if at_ms is None else at_ms)
        issued_ms = now_ms() - 10 * DAY_MS if at_ms is None else at_ms
        self.issuer = ca.make_issuer(self.root, domain, issued_ms)

    def node(self, uid: str = "N1", *, epoch: int = 1, at_ms: int | None = None) -> TlsIdentity:
        """Return what a node presents."""
        identity = Identity(trust_domain=self.domain, kind="node", name=uid, epoch=epoch)
        key = ca.make_key()
        chain = ca.issue_node_certificate(
            self.issuer,
            ca.make_request(key),
            identity,
            now_ms=now_ms() if at_ms is None else at_ms,
        )
        return self._identity(chain, key)

    def user(self, name: str = "alice", *, at_ms: int | None = None) -> TlsIdentity:
        """Return what a user presents."""
        identity = Identity(trust_domain=self.domain, kind="user", name=name)
        key = ca.make_key()
        chain = ca.issue_user_certificate(
            self.issuer,
            ca.make_request(key),
            identity,
            now_ms=now_ms() if at_ms is None else at_ms,
        )
        return self._identity(chain, key)

    def _identity(self, chain: bytes, key: bytes) -> TlsIdentity:
        return TlsIdentity(chain_pem=chain, key_pem=key, roots_pem=self.root.certificate_pem)
