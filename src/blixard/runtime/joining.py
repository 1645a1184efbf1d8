"""The new node's side of joining: one verified connection, one request, one checked answer.

Blocking, because it runs before the node does. The caller keeps the key before it calls: after a
lost answer the same key and name get the certificate again.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Callable

import msgspec
from cryptography import x509

from blixard.base.errors import BlixardError, ErrorBody, from_body
from blixard.runtime.logs import JsonLog
from blixard.security import identity
from blixard.security.ca import certificate_pem, public_key_matches
from blixard.security.join import JOIN_PATH, JoinAnswer, NodeFacts, make_join_request
from blixard.security.tls import BOOTSTRAP_NAME, TlsIdentity, bootstrap_context
from blixard.security.tokens import JoinSecret, decode_token

_ANSWER_BYTES_MAX = 4 << 20
_PAUSE_S = 0.5
_CONNECT_TIMEOUT_S = 5.0
_AGAIN = frozenset({"NOT_LEADER", "NO_QUORUM", "OUTCOME_UNKNOWN", "OVERLOADED", "TIMEOUT"})


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """What a joined node keeps."""

    identity: TlsIdentity
    answer: JoinAnswer


def join_cluster(
    token: str,
    *,
    name: str,
    facts: NodeFacts,
    key_pem: bytes,
    log: JsonLog,
    former_uid: str = "",
    addresses: tuple[str, ...] = (),
    timeout_s: float = 30.0,
) -> Joined:
    """Join the cluster of *token*; its addresses are tried in turn until the deadline.

    *addresses* take the place of the token's; trust comes from the token in any case.

    Raises:
        BlixardError: JOIN_TOKEN_DAMAGED before any connection; CA_MISMATCH before anything is
            sent; the leader's refusal; UNREACHABLE if no address answered in time.
    """
    secret = decode_token(token)

    def ask(address: str, patience_s: float) -> JoinAnswer:
        return _ask(
            secret, address, name=name, facts=facts, key_pem=key_pem, former_uid=former_uid,
            patience_s=patience_s,
        )  # fmt: skip

    answer = _try_addresses(addresses or secret.addresses, ask, log=log, timeout_s=timeout_s)
    return Joined(identity=_checked(answer, secret, key_pem), answer=answer)


def _try_addresses(
    addresses: tuple[str, ...],
    ask: Callable[[str, float], JoinAnswer],
    *,
    log: JsonLog,
    timeout_s: float,
) -> JoinAnswer:
    deadline_s = time.monotonic() + timeout_s
    turn = 0
    while True:
        address = addresses[turn % len(addresses)]
        turn += 1
        try:
            return ask(address, max(0.1, deadline_s - time.monotonic()))
        except BlixardError as error:
            if error.code not in _AGAIN and error.code != "UNREACHABLE":
                raise
            log("warning", "join_attempt_failed", address=address, code=error.code, why=str(error))
            if time.monotonic() + _PAUSE_S >= deadline_s:
                raise
        if turn % len(addresses) == 0:
            time.sleep(_PAUSE_S)


def _ask(
    secret: JoinSecret,
    address: str,
    *,
    name: str,
    facts: NodeFacts,
    key_pem: bytes,
    former_uid: str,
    patience_s: float,
) -> JoinAnswer:
    with _connect(secret, address, patience_s) as channel:
        server_certificate = channel.getpeercert(binary_form=True)
        assert server_certificate is not None
        request = make_join_request(
            secret,
            name=name,
            facts=facts,
            key_pem=key_pem,
            server_certificate_der=server_certificate,
            former_uid=former_uid,
        )
        try:
            return _exchange(channel, msgspec.json.encode(request))
        except (OSError, http.client.HTTPException) as error:
            raise BlixardError("UNREACHABLE", f"{address} gave no answer: {error}") from error


def _connect(secret: JoinSecret, address: str, patience_s: float) -> ssl.SSLSocket:
    host, _colon, port = address.rpartition(":")
    timeout_s = min(patience_s, _CONNECT_TIMEOUT_S)
    try:
        raw = socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s)
    except (OSError, ValueError) as error:
        raise BlixardError("UNREACHABLE", f"{address} cannot be reached: {error}") from error
    try:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = bootstrap_context(secret.ca_certificate_der)
        channel = context.wrap_socket(raw, server_hostname=BOOTSTRAP_NAME)
    except ssl.SSLCertVerificationError as error:
        raw.close()
        raise BlixardError("CA_MISMATCH", f"{address}: {error.verify_message}") from error
    except OSError as error:
        raw.close()
        raise BlixardError("UNREACHABLE", f"{address} is no node: {error}") from error
    channel.settimeout(patience_s)
    return channel


def _exchange(channel: ssl.SSLSocket, body: bytes) -> JoinAnswer:
    connection = http.client.HTTPConnection(BOOTSTRAP_NAME)
    connection.sock = channel
    connection.request("POST", JOIN_PATH, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    data = response.read(_ANSWER_BYTES_MAX)
    try:
        if response.status == http.client.OK:
            return msgspec.json.decode(data, type=JoinAnswer)
        raise from_body(msgspec.json.decode(data, type=ErrorBody))
    except msgspec.MsgspecError as error:
        raise BlixardError("UNREACHABLE", f"an answer of no cluster ({response.status})") from error


def _checked(answer: JoinAnswer, secret: JoinSecret, key_pem: bytes) -> TlsIdentity:
    """Return the identity if the certificate is for our key, the uid given and the token's root."""
    chain = answer.chain_pem.encode()
    peer = identity.from_pem(chain)
    leaf = x509.load_pem_x509_certificate(chain)
    ours = public_key_matches(leaf, key_pem)
    if not ours or peer.identity.kind != "node" or peer.identity.name != answer.node_uid:
        raise BlixardError("CA_MISMATCH", "the certificate in the answer is not for this node")
    return TlsIdentity(
        chain_pem=chain, key_pem=key_pem, roots_pem=certificate_pem(secret.ca_certificate_der)
    )
