import asyncio
import errno
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raft_harness import MemoryDisk

from blixard.base.errors import BlixardError
from blixard.consensus.log import (
    GROUP,
    HEAD,
    HEADER_BYTES,
    Log,
    decode_record,
    encode_record,
    has_record_after,
)

LIMIT = 1 << 16
FIRST = "log/000000000001.log"


def new_log(disk: MemoryDisk, segment_bytes: int = 1 << 20) -> Log:
    return Log(disk, "log", segment_bytes=segment_bytes, record_bytes=LIMIT)


async def fill(disk: MemoryDisk, payloads: list[bytes], segment_bytes: int = 1 << 20) -> list[int]:
    """Write and sync each payload; returns the offsets where records end."""
    log = new_log(disk, segment_bytes)
    await log.start_segment(b"state")
    ends = [log.segments[-1].size]
    for index, payload in enumerate(payloads):
        if log.full:
            await log.start_segment(b"state")
        log.write(payload, index + 1)
        await log.sync()
        ends.append(log.segments[-1].size)
        assert log.size == sum(segment.size for segment in log.segments)
    log.close()
    return ends


def opened(disk: MemoryDisk) -> list[bytes]:
    found = asyncio.run(new_log(disk).open())
    return [record.payload for record in found.records if record.kind == GROUP]


payload_lists = st.lists(st.binary(min_size=0, max_size=60), min_size=1, max_size=6)


@given(payload_lists)
@settings(max_examples=40, deadline=None)
def test_truncation_anywhere_keeps_what_ended_before(payloads: list[bytes]) -> None:
    disk = MemoryDisk()
    ends = asyncio.run(fill(disk, payloads))
    whole = bytes(disk.names[FIRST].data)
    for size in range(ends[0], len(whole) + 1):
        disk.names[FIRST].data = bytearray(whole[:size])
        kept = sum(1 for end in ends[1:] if end <= size)
        assert opened(disk) == payloads[:kept]
        assert len(disk.names[FIRST].data) == ends[kept]


@given(payload_lists, st.data())
@settings(max_examples=60, deadline=None)
def test_flipped_byte_before_the_tail_is_named(payloads: list[bytes], data: st.DataObject) -> None:
    disk = MemoryDisk()
    ends = asyncio.run(fill(disk, payloads))
    place = data.draw(st.integers(0, ends[-2] - 1))
    disk.names[FIRST].data[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BlixardError) as caught:
        opened(disk)
    assert caught.value.code == "LOG_CORRUPT"
    start = max([0, *[end for end in ends if end <= place]])
    assert caught.value.details == {"file": FIRST, "offset": start}


@given(payload_lists, st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_garbage_after_the_end_is_cut_off(payloads: list[bytes], garbage: bytes) -> None:
    disk = MemoryDisk()
    asyncio.run(fill(disk, payloads))
    disk.names[FIRST].data += garbage
    assert opened(disk) == payloads
    assert opened(disk) == payloads


@given(payload_lists, st.data())
@settings(max_examples=60, deadline=None)
def test_torn_last_write_with_holes_is_cut_off(payloads: list[bytes], data: st.DataObject) -> None:
    disk = MemoryDisk()
    ends = asyncio.run(fill(disk, payloads))
    content = disk.names[FIRST].data
    place = data.draw(st.integers(ends[-2], ends[-1] - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    assert opened(disk) == payloads[:-1]


def test_writing_goes_on_after_a_cut() -> None:
    async def scenario() -> None:
        disk = MemoryDisk()
        await fill(disk, [b"a", b"b"])
        disk.names[FIRST].data += b"torn"
        log = new_log(disk)
        found = await log.open()
        assert found.cut_bytes == 4
        log.write(b"c", 3)
        await log.sync()
        again = await new_log(disk).open()
        assert [r.payload for r in again.records if r.kind == GROUP] == [b"a", b"b", b"c"]

    asyncio.run(scenario())


def test_segments_are_chained_and_removed_oldest_first() -> None:
    async def scenario() -> None:
        disk = MemoryDisk()
        await fill(disk, [b"x" * 50] * 20, segment_bytes=200)
        log = new_log(disk, 200)
        found = await log.open()
        assert sum(r.kind == GROUP for r in found.records) == 20
        assert len(log.segments) > 5
        assert log.size == sum(segment.size for segment in log.segments)
        first_left = log.segments[3].number
        assert await log.remove_before(log.segments[2].last_index) == 3
        assert log.size == sum(segment.size for segment in log.segments)
        again = new_log(disk, 200)
        await again.open()
        assert again.segments[0].number == first_left

    asyncio.run(scenario())


def test_missing_segment_is_named() -> None:
    disk = MemoryDisk()
    asyncio.run(fill(disk, [b"x" * 50] * 10, segment_bytes=200))
    disk.unlink("log/000000000002.log")
    with pytest.raises(BlixardError) as caught:
        opened(disk)
    assert caught.value.details["file"] == "log/000000000002.log"


def test_segment_of_another_log_is_refused() -> None:
    disk, other = MemoryDisk(), MemoryDisk()
    asyncio.run(fill(disk, [b"x" * 50] * 10, segment_bytes=200))
    asyncio.run(fill(other, [b"y" * 50] * 10, segment_bytes=200))
    second = "log/000000000002.log"
    disk.names[second] = other.names[second]
    with pytest.raises(BlixardError) as caught:
        opened(disk)
    assert caught.value.details["file"] == second


def test_damage_in_an_older_segment_is_corruption() -> None:
    disk = MemoryDisk()
    asyncio.run(fill(disk, [b"x" * 50] * 10, segment_bytes=200))
    content = disk.names[FIRST].data
    content[-1] ^= 1
    with pytest.raises(BlixardError) as caught:
        opened(disk)
    assert caught.value.details["file"] == FIRST


def test_segment_cut_short_at_its_birth_is_dropped() -> None:
    async def scenario() -> None:
        disk = MemoryDisk()
        await fill(disk, [b"a", b"b"])
        disk.open("log/000000000002.log", create=True).pwrite(0, b"BxR1half")
        log = new_log(disk)
        found = await log.open()
        assert [r.payload for r in found.records if r.kind == GROUP] == [b"a", b"b"]
        log.write(b"c", 3)
        await log.start_segment(b"state")
        assert [s.number for s in log.segments] == [1, 2]

    asyncio.run(scenario())


def test_log_without_a_valid_head_is_refused() -> None:
    disk = MemoryDisk()
    disk.open(FIRST, create=True).pwrite(0, b"BxR1half")
    with pytest.raises(BlixardError) as caught:
        opened(disk)
    assert caught.value.code == "LOG_CORRUPT"


def test_huge_length_is_refused_before_it_is_read() -> None:
    record, _ = encode_record(0, GROUP, 1, b"x" * 100)
    assert decode_record(record, 0, 100) is not None
    assert decode_record(record, 0, 99) is None


def test_record_found_behind_garbage() -> None:
    record, _ = encode_record(crc32(b"before"), HEAD, 0, b"state")
    assert has_record_after(b"BxR1" * 5 + record, 0, LIMIT)
    assert not has_record_after(b"BxR1" * 5 + record[:-1], 0, LIMIT)
    assert len(record) > HEADER_BYTES


def test_failed_write_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        disk = MemoryDisk()
        await fill(disk, [b"a"])
        log = new_log(disk)
        await log.open()
        disk.capacity = disk.used() + 20
        with pytest.raises(OSError) as caught:
            log.write(b"b" * 100, 2)
        assert caught.value.errno == errno.ENOSPC
        disk.capacity = 1 << 40
        log.write(b"c", 2)
        await log.sync()
        assert [r.payload for r in (await new_log(disk).open()).records][1:] == [b"a", b"c"]

    asyncio.run(scenario())


def test_failed_sync_is_final() -> None:
    async def scenario() -> None:
        disk = MemoryDisk()
        await fill(disk, [b"a"])
        log = new_log(disk)
        await log.open()
        log.write(b"b", 2)
        disk.sync_error = True
        with pytest.raises(BlixardError) as caught:
            await log.sync()
        assert caught.value.code == "DISK_FAILED"

    asyncio.run(scenario())
