from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "security"))

from authorities import DAY_MS, DOMAIN, TestAuthority, now_ms

from blixard.base.errors import BlixardError, to_body
from blixard.cluster.resources import Metadata, Resource
from blixard.runtime.joining import Joined, join_cluster
from blixard.runtime.logs import JsonLog
from blixard.security import ca, identity, tokens
from blixard.security.identity import Identity
from blixard.security.join import (
    JOIN_PATH,
    JoinAnswer,
    JoinDecision,
    JoinRequest,
    JoinView,
    NodeFacts,
    decide_join,
)
from blixard.security.tls import TlsIdentity, TlsMaterial

AUTHORITY = TestAuthority()
SEED = bytes(range(32))
KEY = ca.make_key()
FACTS = NodeFacts(address="127.0.0.1:1", api_address="127.0.0.1:2", vcpus=2, memory_mib=512)
QUIET = JsonLog(descriptor=os.open(os.devnull, os.O_WRONLY))


class Leader:
    """A leader's join route on loopback: decide, sign, answer; keeps no state but the requests."""

    def __init__(self, served: TlsIdentity, *, busy: int = 0, uid: str = "NEW") -> None:
        self.served = served
        self.requests = 0
        self.busy = busy
        self.uid = uid
        self.port = 0

    def answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        self.requests += 1
        try:
            if self.requests <= self.busy:
                raise BlixardError("NO_QUORUM")
            assert path == JOIN_PATH
            return 200, msgspec.json.encode(self._joined(body))
        except BlixardError as error:
            return error.info.http_status, msgspec.json.encode(to_body(error))

    def _joined(self, body: bytes) -> JoinAnswer:
        request = msgspec.json.decode(body, type=JoinRequest)
        decision = decide_join(self._view(), request, now_ms=now_ms(), new_uid="NEW")
        if not isinstance(decision, JoinDecision):
            raise decision
        who = Identity(trust_domain=DOMAIN, kind="node", name=self.uid, epoch=decision.epoch)
        chain = ca.issue_node_certificate(AUTHORITY.issuer, request.csr, who, now_ms=now_ms())
        return JoinAnswer(
            cluster_id="C",
            node_uid=decision.node_uid,
            raft_id=decision.raft_id,
            epoch=decision.epoch,
            chain_pem=chain.decode(),
            roots_pem=AUTHORITY.root.certificate_pem.decode(),
            members=(),
            time_ms=now_ms(),
        )

    def _view(self) -> JoinView:
        key = base64.b64encode(tokens.public_key_of(SEED)).decode()
        spec: dict[str, Any] = {"publicKey": key, "expiresAtMs": now_ms() + 60_000}
        return JoinView(
            token=Resource(kind="JoinToken", metadata=Metadata(name="t"), spec=spec),
            node_of_name=None,
            former_node=None,
            config=Resource(
                kind="ClusterConfig", metadata=Metadata(name="c"), spec={"nextRaftId": 2}
            ),
            server_certificate_sha256=hashlib.sha256(
                ca.certificate_der(self.served.chain_pem)
            ).digest(),
        )


@contextmanager
def serving(leader: Leader) -> Iterator[Leader]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, data = leader.answer(self.path, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_args: object) -> None:
            """Stay quiet."""

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_args: object) -> None:
            """A joiner that refuses us is what some tests want."""

    server = Server(("127.0.0.1", 0), Handler)
    context = TlsMaterial(leader.served).server_context(client_certificate=False)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    leader.port = server.server_address[1]
    try:
        yield leader
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _join(*ports: int, timeout_s: float = 20) -> Joined:
    addresses = tuple(f"127.0.0.1:{port}" for port in ports)
    authority = ca.certificate_der(AUTHORITY.root.certificate_pem)
    token = tokens.encode_token(addresses, SEED, authority)
    return join_cluster(token, name="n2", facts=FACTS, key_pem=KEY, log=QUIET, timeout_s=timeout_s)


def _code(*ports: int, timeout_s: float = 20) -> str:
    with pytest.raises(BlixardError) as caught:
        _join(*ports, timeout_s=timeout_s)
    return caught.value.code


def test_node_gets_a_certificate_for_its_key() -> None:
    with serving(Leader(AUTHORITY.node("N1"))) as leader:
        joined = _join(leader.port)
    assert (joined.answer.node_uid, joined.answer.raft_id) == ("NEW", 2)
    assert identity.from_pem(joined.identity.chain_pem).identity.name == "NEW"
    TlsMaterial(joined.identity).client_context()


def test_absent_and_busy_addresses_are_tried_again() -> None:
    with serving(Leader(AUTHORITY.node("N1"), busy=2)) as leader:
        assert _join(9, leader.port).answer.node_uid == "NEW"
        assert leader.requests == 3


def test_nobody_there_is_unreachable() -> None:
    assert _code(9, timeout_s=0.2) == "UNREACHABLE"


def test_server_of_other_authority_gets_nothing() -> None:
    with serving(Leader(TestAuthority().node("N1"))) as leader:
        assert _code(leader.port) == "CA_MISMATCH"
        assert leader.requests == 0


def test_server_with_ended_certificate_gets_nothing() -> None:
    with serving(Leader(AUTHORITY.node("N1", at_ms=now_ms() - 2 * DAY_MS))) as leader:
        assert _code(leader.port) == "CA_MISMATCH"
        assert leader.requests == 0


def test_user_certificate_cannot_pose_as_server() -> None:
    with serving(Leader(AUTHORITY.user("mallory"))) as leader:
        assert _code(leader.port) == "CA_MISMATCH"


def test_relay_with_other_certificate_is_refused() -> None:
    leader = Leader(AUTHORITY.node("N1"))
    relay = Leader(AUTHORITY.node("N9"))
    relay.answer = leader.answer  # type: ignore[method-assign]
    with serving(relay):
        assert _code(relay.port) == "JOIN_PROOF_INVALID"


def test_certificate_of_another_node_is_refused() -> None:
    with serving(Leader(AUTHORITY.node("N1"), uid="OTHER")) as leader:
        assert _code(leader.port) == "CA_MISMATCH"


def test_damaged_token_opens_no_connection() -> None:
    with serving(Leader(AUTHORITY.node("N1"))) as leader:
        with pytest.raises(BlixardError) as caught:
            join_cluster("blxjoin1.x.y", name="n2", facts=FACTS, key_pem=KEY, log=QUIET)
        assert caught.value.code == "JOIN_TOKEN_DAMAGED"
        assert leader.requests == 0


def test_answer_of_other_program_is_unreachable() -> None:
    leader = Leader(AUTHORITY.node("N1"))
    leader.answer = lambda _path, _body: (404, json.dumps(["?"]).encode())  # type: ignore[method-assign,assignment]
    with serving(leader):
        assert _code(leader.port, timeout_s=0.3) == "UNREACHABLE"
