"""Join tokens: what a new node needs to trust the cluster and to be trusted by it, once.

``blxjoin1.`` + base64url(msgpack [version, addresses, Ed25519 seed, CA certificate]) + ``.`` + CRC.
The CA certificate is inside, so there is no connection without verification, not even the first.
The cluster keeps the public key alone: who reads its state or a snapshot can join nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from blixard.base.errors import BlixardError

PREFIX = "blxjoin1."
SEED_BYTES = 32
DEFAULT_VALIDITY_S = 3600
_TOKEN_CHARACTERS_MAX = 4096
_ADDRESSES_MAX = 16
_PROOF_CONTEXT = b"blixard join v1"


class JoinSecret(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The content of a token; printed once and forgotten by who made it."""

    version: int
    addresses: tuple[str, ...]
    seed: bytes
    ca_certificate_der: bytes

    def __repr__(self) -> str:
        return "JoinSecret(...)"


_DECODER = msgspec.msgpack.Decoder(JoinSecret)


def encode_token(addresses: tuple[str, ...], seed: bytes, ca_certificate_der: bytes) -> str:
    """Return the text of a token; *seed* is 32 random bytes."""
    assert len(seed) == SEED_BYTES
    assert 0 < len(addresses) <= _ADDRESSES_MAX
    secret = JoinSecret(
        version=1, addresses=addresses, seed=seed, ca_certificate_der=ca_certificate_der
    )
    body = base64.urlsafe_b64encode(msgspec.msgpack.encode(secret)).decode().rstrip("=")
    return f"{PREFIX}{body}.{_checksum(PREFIX + body)}"


def decode_token(text: str) -> JoinSecret:
    """Return the content of a token.

    Raises:
        BlixardError: JOIN_TOKEN_DAMAGED; decided here, before any connection.
    """
    text = text.strip()
    body, dot, checksum = text[len(PREFIX) :].partition(".")
    whole = len(text) <= _TOKEN_CHARACTERS_MAX and text.startswith(PREFIX) and dot == "."
    if not whole or checksum != _checksum(PREFIX + body):
        raise BlixardError("JOIN_TOKEN_DAMAGED")
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        secret = _DECODER.decode(data)
    except (binascii.Error, msgspec.MsgspecError) as error:
        raise BlixardError("JOIN_TOKEN_DAMAGED") from error
    if secret.version != 1 or len(secret.seed) != SEED_BYTES or not secret.addresses:
        raise BlixardError("JOIN_TOKEN_DAMAGED", "the token is of a version unknown here")
    return secret


def public_key_of(seed: bytes) -> bytes:
    """Return the 32 bytes that the cluster keeps of a token."""
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def token_id(public_key: bytes) -> str:
    """Return the name of the token's resource: it tells nothing about the seed."""
    return hashlib.sha256(public_key).digest()[:8].hex()


def sign_proof(seed: bytes, *, csr_der: bytes, server_certificate_der: bytes, name: str) -> bytes:
    """Return the joiner's proof, good for this request over this channel only."""
    statement = _statement(csr_der, hashlib.sha256(server_certificate_der).digest(), name)
    return Ed25519PrivateKey.from_private_bytes(seed).sign(statement)


def proof_is_valid(
    public_key: bytes, proof: bytes, *, csr_der: bytes, server_certificate_sha256: bytes, name: str
) -> bool:
    """Tell whether the holder of the seed made *proof* for exactly this request and channel."""
    try:
        verifier = Ed25519PublicKey.from_public_bytes(public_key)
        verifier.verify(proof, _statement(csr_der, server_certificate_sha256, name))
    except (ValueError, InvalidSignature):
        return False
    return True


def _statement(csr_der: bytes, server_certificate_sha256: bytes, name: str) -> bytes:
    """Return what is signed: hashes of fixed length, the name last, so no two read alike."""
    assert len(server_certificate_sha256) == 32
    csr_sha256 = hashlib.sha256(csr_der).digest()
    return _PROOF_CONTEXT + csr_sha256 + server_certificate_sha256 + name.encode()


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
