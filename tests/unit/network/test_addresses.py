"""Addresses: the next free one, in the pool, never twice."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blixard.base.errors import BlixardError
from blixard.network.addresses import gateway_of, mac_of, next_free

POOL = "10.42.0.0/28"
FIRST, LAST = (int(ipaddress.IPv4Address(a)) for a in ("10.42.0.2", "10.42.0.14"))


def test_the_first_address_is_the_gateways():
    assert gateway_of(POOL) == "10.42.0.1"
    assert next_free(POOL, set()) == FIRST


def test_an_address_just_given_back_is_used_last():
    assert next_free(POOL, {FIRST + 3}) == FIRST + 4


def test_a_full_pool_says_so():
    with pytest.raises(BlixardError) as caught:
        next_free(POOL, set(range(FIRST, LAST + 1)))
    assert caught.value.code == "ADDRESSES_EXHAUSTED"


@given(st.sets(st.integers(FIRST, LAST), max_size=LAST - FIRST))
def test_what_is_found_is_free_and_inside(used):
    found = next_free(POOL, used)
    assert found not in used
    assert FIRST <= found <= LAST


def test_macs_are_local_and_follow_the_address():
    assert mac_of("10.42.0.2", 42) == "02:2a:0a:2a:00:02"
    assert mac_of("10.42.0.2", 42) != mac_of("10.42.0.3", 42) != mac_of("10.42.0.3", 43)
