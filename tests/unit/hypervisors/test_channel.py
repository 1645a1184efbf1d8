"""The guest channel's codec: any cut of the bytes gives the same frames."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blixard.guest import protocol
from blixard.hypervisors import channel

Frame = tuple[int, int, bytes]
FRAMES = st.lists(
    st.tuples(
        st.integers(channel.HELLO, channel.RESULT),
        st.integers(0, 0xFFFFFFFF),
        st.binary(max_size=200) | st.just(channel.MAGIC * 3),
    ),
    max_size=8,
)
NOISE = st.binary(max_size=60) | st.lists(
    st.sampled_from([b"B", b"BL", b"BLX", b"BLX1", b"\0", b"\xff"]), max_size=12
).map(b"".join)


class Decoder(Protocol):
    def feed(self, data: bytes) -> list[Frame]: ...


DECODERS: list[Callable[[], Decoder]] = [channel.Decoder, protocol.Decoder]
both = pytest.mark.parametrize("decoder", DECODERS, ids=["host", "guest"])


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def fed(decoder: Decoder, parts: list[bytes]) -> list[Frame]:
    return [frame for part in parts for frame in decoder.feed(part)]


@both
@given(frames=FRAMES, cuts=st.lists(st.integers(0, 5000), max_size=12))
def test_any_cut_gives_the_same_frames(
    decoder: Callable[[], Decoder], frames: list[Frame], cuts: list[int]
) -> None:
    data = b"".join(channel.encode(*frame) for frame in frames)
    assert fed(decoder(), pieces(data, cuts)) == frames


@both
@given(data=NOISE, cuts=st.lists(st.integers(0, 100), max_size=6))
def test_noise_gives_the_same_however_cut(
    decoder: Callable[[], Decoder], data: bytes, cuts: list[int]
) -> None:
    assert fed(decoder(), pieces(data, cuts)) == fed(decoder(), [data])


@both
def test_half_a_frame_is_overcome(decoder: Callable[[], Decoder]) -> None:
    whole = channel.encode(channel.STATUS, 1, b"x" * 40)
    reader = decoder()
    # What the lost half announced is taken from the next frame; the one after that is whole.
    frames = fed(reader, [whole[:20], whole, whole])
    assert frames[-1] == (channel.STATUS, 1, b"x" * 40)


@both
def test_frame_of_forbidden_size_is_skipped(decoder: Callable[[], Decoder]) -> None:
    size = channel.PAYLOAD_BYTES_MAX + 1
    bad = channel.HEADER.pack(channel.MAGIC, channel.STDOUT, 1, size)
    good = channel.encode(channel.EXIT, 2, b"0")
    assert fed(decoder(), [bad + good]) == [(channel.EXIT, 2, b"0")]


@both
@pytest.mark.parametrize("kind", [0, channel.RESULT + 1, 255])
def test_unknown_type_is_skipped(decoder: Callable[[], Decoder], kind: int) -> None:
    bad = channel.HEADER.pack(channel.MAGIC, kind, 1, 0)
    good = channel.encode(channel.EXIT, 2, b"0")
    assert fed(decoder(), [bad + good]) == [(channel.EXIT, 2, b"0")]


def test_hostile_bytes_do_not_grow_the_decoder() -> None:
    decoder = channel.Decoder()
    head = channel.HEADER.pack(channel.MAGIC, channel.STDOUT, 1, channel.PAYLOAD_BYTES_MAX)
    held = 0
    for _ in range(50):
        for part in (head, b"B" * 40_000, b"BLX1" * 5_000, b"\0" * 30_000):
            decoder.feed(part)
            held = max(held, len(decoder._buffer))
    assert held <= channel.HEADER.size + channel.PAYLOAD_BYTES_MAX


def test_guest_speaks_the_same_protocol() -> None:
    names = [name for name in vars(protocol) if name.isupper()]
    assert {name: getattr(protocol, name) for name in names if name != "HEADER"} == {
        name: getattr(channel, name) for name in names if name != "HEADER"
    }
    assert protocol.HEADER.format == channel.HEADER.format
    assert protocol.frame(protocol.EXEC, 9, b"x") == channel.encode(channel.EXEC, 9, b"x")
