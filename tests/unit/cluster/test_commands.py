"""The bytes of commands: old logs stay readable, damaged ones are told apart."""

import msgspec
import pytest

from blixard.cluster.commands import BadCommand, decode_command, encode_command
from blixard.cluster.resources import Delete, PatchStatus, Put, Transaction

GOLDEN = {
    "put": (
        Put(
            kind="K",
            namespace="n",
            name="a",
            spec={"x": 1},
            labels={"l": "v"},
            uid="u",
            owner="o",
            expect=0,
        ),
        "0197a374786ea15205a26d65919aa3707574a14ba16ea16181a1780181a16ca176a175a16f008004c3",
    ),
    "status": (
        PatchStatus(
            kind="K",
            namespace="n",
            name="a",
            uid="u",
            status={"p": None},
            node_uid="m",
            node_epoch=2,
            run=3,
        ),
        "0197a374786ea15205a26d65919aa6737461747573a14ba16ea161a17581a170c0ffa16d020304c3",
    ),
    "delete": (
        Delete(kind="K", namespace="n", name="a", uid="u", expect=7),
        "0197a374786ea15205a26d659196a664656c657465a14ba16ea161a1750704c3",
    ),
}


def transaction(op):
    return Transaction(request_id="R", time_ms=5, actor="me", ops=(op,), term=4, partial=True)


@pytest.mark.parametrize("name", GOLDEN)
def test_bytes_of_a_command_never_change(name):
    op, golden = GOLDEN[name]
    assert encode_command(transaction(op)).hex() == golden
    assert decode_command(bytes.fromhex(golden)) == transaction(op)


@pytest.mark.parametrize(
    "value",
    [float("nan"), b"bytes", {1: 2}, msgspec.msgpack.Ext(3, b"x")],
    ids=["nan", "bytes", "number-key", "extension"],
)
def test_values_beyond_json_are_refused(value):
    data = encode_command(transaction(Put(kind="K", namespace="", name="a", spec={"x": value})))
    with pytest.raises(BadCommand):
        decode_command(data)


@pytest.mark.parametrize("depth", [40, 400, 5000])
def test_deep_nesting_is_one_and_the_same_error(depth):
    shallow = encode_command(transaction(Put(kind="K", namespace="", name="a", spec={"x": [1]})))
    deep = shallow.replace(b"\xa1x\x91\x01", b"\xa1x" + b"\x91" * depth + b"\x01")
    with pytest.raises(BadCommand, match="the bytes are no command"):
        decode_command(deep)


def test_unknown_version_is_refused():
    with pytest.raises(BadCommand, match="version"):
        decode_command(b"\x02")
