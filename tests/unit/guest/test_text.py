"""The agent's JSON says what ``json`` says."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blixard.guest import text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(VALUES)
def test_same_as_the_standard_library(value):
    assert json.loads(text.encode(value)) == value
    assert text.decode(json.dumps(value).encode()) == value
    assert text.decode(json.dumps(value, ensure_ascii=False, indent=1).encode()) == value


@pytest.mark.parametrize("wrong", [b"", b" ", b"{", b"[1] 2", b'{"a": }', b"\xff", b"nul"])
def test_what_is_no_json_is_refused(wrong):
    with pytest.raises(ValueError):
        text.decode(wrong)
