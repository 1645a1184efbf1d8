"""The QMP codec: lines in, messages out, bounded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blixard.hypervisors.qemu.qmp import LINE_BYTES_MAX, QmpCodec

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
MESSAGES = st.lists(st.dictionaries(st.text(max_size=8), VALUES, max_size=4), max_size=6)


@given(messages=MESSAGES, size=st.integers(1, 40))
def test_any_cut_gives_the_same_messages(messages: list[dict[str, Any]], size: int) -> None:
    data = b"".join(json.dumps(message).encode() + b"\r\n" for message in messages)
    codec = QmpCodec()
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    assert [message for part in parts for message in codec.feed(part)] == messages


@given(st.binary(max_size=100))
def test_hostile_bytes_are_refused_or_held(data: bytes) -> None:
    codec = QmpCodec()
    try:
        assert all(isinstance(message, dict) for message in codec.feed(data))
    except ValueError:
        return


@pytest.mark.parametrize("line", [b"[]", b"3", b"{", b"nothing", b"[" * 100_000, b"\xff"])
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        QmpCodec().feed(line + b"\n")


def test_endless_line_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        QmpCodec().feed(b"x" * (LINE_BYTES_MAX + 1))


def test_command_carries_its_number() -> None:
    assert QmpCodec.command("cont", 3) == b'{"execute": "cont", "id": 3}\n'
    assert b'"arguments": {"a": 1}' in QmpCodec.command("cont", 3, {"a": 1})
