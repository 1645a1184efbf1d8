from __future__ import annotations

import hashlib

import pytest
from authorities import TestAuthority

from blixard.base.errors import BlixardError
from blixard.security import ca, tokens

SEED = bytes(range(32))
CA_DER = ca.certificate_der(TestAuthority().root.certificate_pem)
TOKEN = tokens.encode_token(("10.0.0.1:7000",), SEED, CA_DER)
CSR, SERVER = b"request", b"certificate"


def _proof_holds(proof: bytes, **changed: object) -> bool:
    facts: dict[str, object] = {
        "csr_der": CSR,
        "server_certificate_sha256": hashlib.sha256(SERVER).digest(),
        "name": "n2",
    }
    return tokens.proof_is_valid(tokens.public_key_of(SEED), proof, **{**facts, **changed})  # type: ignore[arg-type]


def test_token_carries_authority_and_addresses() -> None:
    secret = tokens.decode_token(f"  {TOKEN}\n")
    assert (secret.addresses, secret.seed) == (("10.0.0.1:7000",), SEED)
    assert secret.ca_certificate_der == CA_DER
    assert len(TOKEN) < 800


def test_every_wrong_character_is_noticed() -> None:
    for place in range(len(TOKEN)):
        wrong = "A" if TOKEN[place] != "A" else "B"
        with pytest.raises(BlixardError) as caught:
            tokens.decode_token(TOKEN[:place] + wrong + TOKEN[place + 1 :])
        assert caught.value.code == "JOIN_TOKEN_DAMAGED"


@pytest.mark.parametrize(
    "text", ["", "blxjoin1.", "blxjoin1..", TOKEN[:-1], TOKEN + "0", "x" * 9999]
)
def test_cut_and_foreign_texts_are_damaged(text: str) -> None:
    with pytest.raises(BlixardError) as caught:
        tokens.decode_token(text)
    assert caught.value.code == "JOIN_TOKEN_DAMAGED"


def test_name_of_token_hides_the_seed() -> None:
    name = tokens.token_id(tokens.public_key_of(SEED))
    assert len(name) == 16
    assert SEED.hex() not in name
    assert "seed" not in repr(tokens.decode_token(TOKEN))


def test_proof_holds_for_its_request_only() -> None:
    proof = tokens.sign_proof(SEED, csr_der=CSR, server_certificate_der=SERVER, name="n2")
    assert _proof_holds(proof)
    assert not _proof_holds(proof, csr_der=b"other")
    assert not _proof_holds(proof, server_certificate_sha256=bytes(32))
    assert not _proof_holds(proof, name="n3")
    assert not _proof_holds(b"short")
    other = tokens.sign_proof(bytes(32), csr_der=CSR, server_certificate_der=SERVER, name="n2")
    assert not _proof_holds(other)
