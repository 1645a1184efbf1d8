"""API keys: ``blx_k1_`` + 11 characters id + ``_`` + 32 characters secret + 6 characters CRC.

The prefix is for secret scanners; the checksum refuses typing errors without a look-up. The cluster
keeps the id and the SHA-256 of the whole: right for 190 random bits, wrong for passwords.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import zlib

import msgspec

from blixard.base.errors import BlixardError
from blixard.cluster.resources import Put

PREFIX = "blx_k1_"
ENTROPY_BYTES = 64
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_CHARACTERS, _SECRET_CHARACTERS, _CRC_CHARACTERS = 11, 32, 6
_KEY = re.compile(rf"{PREFIX}([0-9A-Za-z]{{11}})_([0-9A-Za-z]{{32}})([0-9A-Za-z]{{6}})")


class MintedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A new key: ``text`` is shown once, id and hash are kept."""

    text: str
    key_id: str
    sha256: str

    def __repr__(self) -> str:
        return f"MintedKey(key_id={self.key_id!r})"


def mint_key(entropy: bytes) -> MintedKey:
    """Return a new key made of 64 random bytes."""
    assert len(entropy) == ENTROPY_BYTES
    count = _ID_CHARACTERS + _SECRET_CHARACTERS
    drawn = _base62(int.from_bytes(entropy), count)
    key_id, secret = drawn[:_ID_CHARACTERS], drawn[_ID_CHARACTERS:]
    text = f"{PREFIX}{key_id}_{secret}"
    text += _checksum(text)
    return MintedKey(text=text, key_id=key_id, sha256=key_hash(text))


def store_key(key: MintedKey, *, role: str, expires_at_ms: int = 0, description: str = "") -> Put:
    """Return the operation that makes the cluster know the key."""
    spec = {
        "hash": key.sha256,
        "role": role,
        "expiresAtMs": expires_at_ms,
        "description": description,
    }
    return Put(kind="ApiKey", namespace="", name=key.key_id, spec=spec, uid=key.key_id, expect=0)


def key_id_of(text: str) -> str:
    """Return the public id inside a key.

    Raises:
        BlixardError: UNAUTHENTICATED, for what is no key or has a wrong character.
    """
    match = _KEY.fullmatch(text)
    if match is None or match[3] != _checksum(text[:-_CRC_CHARACTERS]):
        raise BlixardError("UNAUTHENTICATED", "this is no API key, or a character of it is wrong")
    return match[1]


def key_hash(text: str) -> str:
    """Return what is kept of a key, hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def key_matches(text: str, kept_sha256: str) -> bool:
    """Tell whether *text* is the key of which the hash was kept, in constant time."""
    return hmac.compare_digest(key_hash(text), kept_sha256)


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode()), _CRC_CHARACTERS)


def _base62(value: int, count: int) -> str:
    characters = []
    for _index in range(count):
        value, rest = divmod(value, 62)
        characters.append(_ALPHABET[rest])
    return "".join(reversed(characters))
