from __future__ import annotations

import random

import pytest

from blixard.base.errors import BlixardError
from blixard.security import keys

MINTED = keys.mint_key(bytes(range(64)))


def test_minted_key_has_the_published_shape() -> None:
    assert len(MINTED.text) == 57
    assert MINTED.text.startswith(f"blx_k1_{MINTED.key_id}_")
    assert keys.key_id_of(MINTED.text) == MINTED.key_id
    assert keys.key_matches(MINTED.text, MINTED.sha256)


def test_every_wrong_character_is_refused() -> None:
    for place in range(len(MINTED.text)):
        wrong = "0" if MINTED.text[place] != "0" else "1"
        with pytest.raises(BlixardError) as caught:
            keys.key_id_of(MINTED.text[:place] + wrong + MINTED.text[place + 1 :])
        assert caught.value.code == "UNAUTHENTICATED"


def test_random_noise_has_no_good_checksum() -> None:
    generator = random.Random(1)
    for _round in range(2000):
        noise = "".join(generator.choices(keys._ALPHABET, k=49))
        with pytest.raises(BlixardError):
            keys.key_id_of(f"blx_k1_{noise[:11]}_{noise[11:]}")


def test_other_key_does_not_match() -> None:
    other = keys.mint_key(bytes(64))
    assert not keys.key_matches(other.text, MINTED.sha256)
    assert not keys.key_matches(MINTED.text, "")


def test_secret_stays_out_of_representation() -> None:
    assert MINTED.text not in repr(MINTED)
