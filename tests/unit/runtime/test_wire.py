from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc
from hypothesis import given
from hypothesis import strategies as st

from blixard.base.errors import BlixardError, Problem
from blixard.runtime import wire

PROTO = Path(__file__).parents[3] / "proto"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the message classes that the reference implementation makes of the contract."""
    out = tmp_path_factory.mktemp("proto") / "node.bin"
    arguments = ["", f"-I{PROTO}", f"--descriptor_set_out={out}", "blixard/v1/node.proto"]
    assert protoc.main(arguments) == 0
    files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(files.file[0])
    file = pool.FindFileByName("blixard/v1/node.proto")
    return {
        name: message_factory.GetMessageClass(descriptor)
        for name, descriptor in file.message_types_by_name.items()
    }


def test_batches_agree_with_reference(reference: dict[str, Any]) -> None:
    messages = [("raft", b""), ("gossip", b"x" * 300), ("raft", bytes(70_000))]
    batch = reference["MessageBatch"]()
    for channel, payload in messages:
        batch.messages.add(channel=channel, payload=payload)
    theirs = batch.SerializeToString()
    assert wire.decode_batch(theirs) == messages
    assert list(reference["MessageBatch"].FromString(wire.encode_batch(messages)).messages) == list(
        batch.messages
    )


def test_calls_and_answers_agree_with_reference(reference: dict[str, Any]) -> None:
    call = reference["CallRequest"](method="raft.snapshot", payload=b"abc")
    assert wire.encode_call("raft.snapshot", b"abc") == call.SerializeToString()
    answer = reference["CallAnswer"](payload=b"")
    assert wire.encode_answer(b"") == answer.SerializeToString()
    assert reference["CallAnswer"].FromString(wire.encode_answer(b"xy")).payload == b"xy"


def test_frames_agree_with_reference(reference: dict[str, Any]) -> None:
    opening = reference["StreamFrame"](opening={"method": "exec", "payload": b"p"})
    frame = wire.encode_frame("opening", wire.encode_call("exec", b"p"))
    assert frame == opening.SerializeToString()
    for kind in ("data", "error"):
        theirs = reference["StreamFrame"](**{kind: b""}).SerializeToString()
        assert wire.encode_frame(kind, b"") == theirs
        assert wire.decode_frame(theirs) == (kind, b"")


def test_fields_of_newer_versions_are_skipped() -> None:
    newer = b"\x98\x06\x05" + b"\xa5\x06abcd" + b"\xa1\x06abcdefgh" + b"\xaa\x06\x02hi"
    assert wire.decode_call(newer + wire.encode_call("echo", b"x")) == ("echo", b"x")


def test_errors_travel_whole() -> None:
    error = BlixardError(
        "INVALID",
        "two faults",
        hint="correct them",
        problems=(Problem(pointer="/spec", message="bad", accepted=("a", "b")),),
        details={"count": 2},
    )
    with pytest.raises(BlixardError) as caught:
        wire.decode_answer(wire.encode_refusal(error))
    found = caught.value
    assert (found.code, found.message, found.hint) == ("INVALID", "two faults", "correct them")
    assert (found.problems, found.details) == (error.problems, error.details)
    assert wire.decode_error(b"noise").code == "BAD_REQUEST"


@pytest.mark.parametrize(
    "data",
    [b"\x0a", b"\x0a\x05ab", b"\x0b", b"\xff" * 20, b"\x09abc", b"\x0a\xff\xff\xff\xff\xff\x01"],
)
def test_damaged_messages_are_refused(data: bytes) -> None:
    for decode in (wire.decode_batch, wire.decode_call, wire.decode_answer, wire.decode_frame):
        with pytest.raises(BlixardError) as caught:
            decode(data)
        assert caught.value.code == "BAD_REQUEST"


@pytest.mark.parametrize("name", ["", "x" * 129])
def test_unusable_method_names_are_refused(name: str) -> None:
    with pytest.raises(BlixardError):
        wire.decode_call(wire.encode_call(name, b"x"))


@given(st.binary(max_size=200))
def test_noise_never_raises_anything_else(data: bytes) -> None:
    for decode in (wire.decode_batch, wire.decode_call, wire.decode_answer, wire.decode_frame):
        try:
            decode(data)
        except BlixardError as caught:
            code = caught.code
            assert code in {"BAD_REQUEST", "INTERNAL"}


@given(st.lists(st.tuples(st.text("abc.-", min_size=1, max_size=9), st.binary(max_size=300))))
def test_batches_round_trip(messages: list[tuple[str, bytes]]) -> None:
    assert wire.decode_batch(wire.encode_batch(messages)) == messages
