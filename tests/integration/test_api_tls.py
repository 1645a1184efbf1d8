"""Certificates and keys over TLS: who the service sees."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import pytest

for package in ("api", "security"):
    sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / package))

from authorities import TestAuthority
from harness import Node, World

from blixard.api.client import Address, ApiClient, Credentials
from blixard.api.server import ApiServer, ServerConfig
from blixard.base.errors import BlixardError
from blixard.security.tls import API_NAME, TlsIdentity, TlsMaterial


def _write(directory: Path, name: str, identity: TlsIdentity) -> tuple[str, str]:
    chain, key = directory / f"{name}.pem", directory / f"{name}.key"
    chain.write_bytes(identity.chain_pem)
    key.write_bytes(identity.key_pem)
    return str(chain), str(key)


def _serve(test: Any, directory: Path) -> None:
    """Run *test* in a thread against a TLS server; it gets a maker of clients and the node."""
    authority, stranger = TestAuthority(), TestAuthority("other.blixard")
    for name, one in (("ca", authority), ("other", stranger)):
        (directory / f"{name}.pem").write_bytes(one.root.certificate_pem)

    async def main() -> None:
        node = await Node(World(), "n1", now_ms=time.time_ns() // 1_000_000).prepare()
        tls = TlsMaterial(authority.node()).server_context(client_certificate=False)
        config = ServerConfig(tls_host="127.0.0.1", tls_port=0)
        server = ApiServer(node.service, config, tls=tls, log=lambda *_, **__: None)
        await server.start()

        def client(ca: str = "ca", user: TlsIdentity | None = None, key: str = "") -> ApiClient:
            chain, private = _write(directory, "user", user) if user else ("", "")
            return ApiClient(
                Address(host="127.0.0.1", port=server.tls_port),
                credentials=Credentials(
                    ca_file=str(directory / f"{ca}.pem"),
                    certificate_file=chain,
                    private_key_file=private,
                    api_key=key,
                    server_name=API_NAME,
                ),
            )

        try:
            await asyncio.to_thread(test, client, authority, stranger)
        finally:
            await server.stop()

    asyncio.run(main())


def _code(client: ApiClient) -> str:
    try:
        client.get("/v1/apps")
    except BlixardError as error:
        return error.code
    finally:
        client.close()
    return "ok"


def test_nobody_and_unknown_users_and_keys_are_refused(tmp_path):
    def test(client: Any, authority: TestAuthority, _stranger: TestAuthority) -> None:
        assert _code(client()) == "UNAUTHENTICATED"
        assert _code(client(user=authority.user("alice"))) == "FORBIDDEN"
        assert _code(client(key="blx_k1_nonsense")) == "UNAUTHENTICATED"

    _serve(test, tmp_path)


def test_certificate_of_another_authority_is_refused(tmp_path):
    def test(client: Any, authority: TestAuthority, stranger: TestAuthority) -> None:
        assert _code(client(user=stranger.user("alice"))) == "UNREACHABLE"
        assert _code(client(ca="other")) == "CA_MISMATCH"

    _serve(test, tmp_path)


def test_version_needs_no_credentials(tmp_path):
    def test(client: Any, _authority: TestAuthority, _stranger: TestAuthority) -> None:
        made = client()
        assert made.get("/v1/version") == {"version": "1"}
        made.close()

    _serve(test, tmp_path)


def test_plain_http_address_is_refused():
    with pytest.raises(BlixardError, match="USAGE"):
        ApiClient("http://127.0.0.1:7601")
