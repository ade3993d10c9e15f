"""The checksum of bytes that somebody else is reading anyway."""

from __future__ import annotations

import threading
import zlib

from hypothesis import given
from hypothesis import strategies as st

from checkpoint_doctor.builtin.loaders._zip.crc import crc32
from checkpoint_doctor.builtin.loaders._zip.running_crc import SummedSection
from checkpoint_doctor.sources import MemorySource

CONTENT = bytes(range(256)) * 40


def section() -> SummedSection:
    return SummedSection("member", MemorySource("file", b"head" + CONTENT + b"tail"), 4, len(CONTENT))


@given(st.binary(max_size=5000), st.integers(0, 2**32 - 1))
def test_the_faster_library_computes_the_same(content, before):
    assert crc32(content, before) == zlib.crc32(content, before)
    assert crc32(memoryview(content)) == zlib.crc32(content)


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=12))
def test_reading_from_front_to_back_gives_the_crc(lengths):
    summed, offset = section(), 0
    for length in lengths:
        length = min(length, len(CONTENT) - offset)
        summed.read(offset, length)
        offset += length
    assert summed.crc.value == (zlib.crc32(CONTENT) if offset == len(CONTENT) else None)


@given(st.lists(st.tuples(st.integers(0, len(CONTENT) - 1), st.integers(0, 4000)), max_size=12))
def test_no_order_of_reads_gives_a_wrong_crc(reads):
    summed = section()
    for offset, length in reads:
        summed.read(offset, min(length, len(CONTENT) - offset))
        assert summed.crc.value in (None, zlib.crc32(CONTENT))


def test_threads_that_read_the_same_bytes_never_give_a_wrong_crc():
    for _ in range(20):
        summed = section()

        def read_all(summed: SummedSection = summed) -> None:
            for offset in range(0, len(CONTENT), 512):
                summed.read(offset, 512)

        threads = [threading.Thread(target=read_all) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert summed.crc.value in (None, zlib.crc32(CONTENT))
