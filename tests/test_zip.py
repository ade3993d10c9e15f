"""The zip directory reader against Python's zipfile, and against archives that lie."""

from __future__ import annotations

import contextlib
import io
import struct
import time
import zipfile
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint_doctor.builtin.loaders._zip.archive import is_zip, open_archive
from checkpoint_doctor.builtin.loaders._zip.member import check_crc
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import MemorySource
from checkpoint_doctor.sources.budget import INFLATED

CONTENTS = {"data": b"some settings", "policy.pth": bytes(range(256)) * 20, "empty": b"", "ümlaut": b"text"}


def build(contents=CONTENTS, method=zipfile.ZIP_STORED, comment=b"", force_zip64=False) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in contents.items():
            with archive.open(name, "w", force_zip64=force_zip64) as member:
                member.write(content)
        archive.comment = comment
    return buffer.getvalue()


def stream(contents=CONTENTS) -> bytes:
    """Write to something that cannot seek, so that sizes and CRC follow the bytes as data descriptors."""

    class Pipe(io.RawIOBase):
        def __init__(self):
            self.content = bytearray()

        def writable(self):
            return True

        def write(self, content):
            self.content += content
            return len(content)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:
        for name, content in contents.items():
            with archive.open(name, "w") as member:
                member.write(content)
    return bytes(pipe.content)


def source(content: bytes) -> MemorySource:
    return MemorySource("model.zip", content)


def read_all(content: bytes) -> dict[str, bytes]:
    return {name: each.source.read(0, each.source.size) for name, each in open_archive(source(content)).members.items()}


@pytest.mark.parametrize(
    "content",
    [build(), build(method=zipfile.ZIP_DEFLATED), build(comment=b"a comment"), build(force_zip64=True), stream()],
    ids=["stored", "deflated", "comment", "zip64", "descriptors"],
)
def test_members_equal_what_zipfile_reads(content: bytes) -> None:
    archive = open_archive(source(content))
    assert read_all(content) == CONTENTS
    assert not archive.flaws
    assert all(check_crc(member) is None for member in archive.members.values())


def test_offsets_point_at_the_bytes_the_local_header_and_the_central_entry() -> None:
    content = build()
    for name, member in open_archive(source(content)).members.items():
        assert content[member.data_offset : member.data_offset + member.size] == CONTENTS[name]
        assert content[member.header_offset :].startswith(b"PK\x03\x04")
        assert content[member.central_offset :].startswith(b"PK\x01\x02")
        assert struct.unpack_from("<I", content, member.central_offset + 16) == (zlib.crc32(CONTENTS[name]),)


def test_directories_are_no_members() -> None:
    assert list(read_all(build({"folder/": b"", "folder/file": b"x"}))) == ["folder/file"]


def test_bytes_before_and_after_the_archive_are_flaws_and_the_members_are_read() -> None:
    content = b"#!prefix" + build() + b"trailing"
    archive = open_archive(source(content))
    assert read_all(content) == CONTENTS
    messages = [flaw.message for flaw in archive.flaws]
    assert any("8 bytes come before" in message for message in messages)
    assert any("8 bytes follow" in message for message in messages)


def test_a_changed_byte_is_found_by_its_crc() -> None:
    content = bytearray(build())
    content[open_archive(source(bytes(content))).members["policy.pth"].data_offset + 100] ^= 1
    archive = open_archive(source(bytes(content)))
    flaws = {name: check_crc(member, block=64) for name, member in archive.members.items()}
    assert [name for name, flaw in flaws.items() if flaw] == ["policy.pth"]
    recorded = f"{zlib.crc32(CONTENTS['policy.pth']):08x}"
    assert recorded in flaws["policy.pth"].message


def test_a_crc_that_was_never_computed_is_no_damage() -> None:
    content = bytearray(build({"data": b"text"}))
    member = open_archive(source(bytes(content))).members["data"]
    content[member.central_offset + 16 : member.central_offset + 20] = bytes(4)
    content[member.header_offset + 14 : member.header_offset + 18] = bytes(4)
    assert check_crc(open_archive(source(bytes(content))).members["data"]) is None


def test_a_local_header_that_contradicts_the_directory_is_a_flaw() -> None:
    content = bytearray(build())
    member = open_archive(source(bytes(content))).members["policy.pth"]
    struct.pack_into("<I", content, member.header_offset + 14, 12345)  # CRC
    struct.pack_into("<I", content, member.header_offset + 22, 77)  # size
    flaws = open_archive(source(bytes(content))).flaws
    assert {flaw.member for flaw in flaws} == {"policy.pth"}
    assert {flaw.found for flaw in flaws} == {12345, 77}


def test_two_members_of_one_name_are_a_flaw_and_the_later_counts() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data", "first")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("data", "second")
    assert read_all(buffer.getvalue()) == {"data": b"second"}
    assert [flaw.member for flaw in open_archive(source(buffer.getvalue())).flaws] == ["data"]


@pytest.mark.parametrize("name", ["../escape", "/absolute", "C:\\windows", "a/../../b"])
def test_a_name_that_leaves_the_archive_is_a_flaw(name: str) -> None:
    flaws = open_archive(source(build({name: b"x"}))).flaws
    assert any("leave the folder" in flaw.message for flaw in flaws)


def test_overlapping_members_are_a_flaw() -> None:
    content = bytearray(build({"a": b"x" * 50, "b": b"y" * 50}))
    second = open_archive(source(bytes(content))).members["b"]
    struct.pack_into("<I", content, second.central_offset + 42, 0)  # begins where the first does
    assert any("overlaps" in flaw.message for flaw in open_archive(source(bytes(content))).flaws)


def test_an_encrypted_member_is_refused_when_it_is_asked_for() -> None:
    content = bytearray(build())
    member = open_archive(source(bytes(content))).members["data"]
    content[member.central_offset + 8] |= 1
    content[member.header_offset + 6] |= 1
    with pytest.raises(UnreadableCheckpoint, match="encrypted"):
        open_archive(source(bytes(content))).members["data"].source  # noqa: B018


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_named(method: int) -> None:
    with pytest.raises(UnreadableCheckpoint, match=r"compressed with (bzip2|LZMA)"):
        open_archive(source(build(method=method))).members["data"].source  # noqa: B018


def test_a_member_that_inflates_to_more_than_declared_is_refused() -> None:
    content = bytearray(build({"data": b"z" * 5000}, zipfile.ZIP_DEFLATED))
    member = open_archive(source(bytes(content))).members["data"]
    for offset in (member.central_offset + 24, member.header_offset + 22):
        struct.pack_into("<I", content, offset, 100)
    with pytest.raises(UnreadableCheckpoint, match="inflates to more than 100 bytes, but 100 are expected"):
        open_archive(source(bytes(content))).members["data"].source  # noqa: B018


def test_zip_bombs_are_refused_before_they_grow() -> None:
    half = 3 * INFLATED.free // 4
    content = build({"a": bytes(half), "b": bytes(half)}, zipfile.ZIP_DEFLATED)
    assert 2 * half > INFLATED.of(len(content))
    archive = open_archive(source(content))
    assert archive.members["a"].source.size == half
    with pytest.raises(UnreadableCheckpoint, match="bomb"):
        archive.members["b"].source  # noqa: B018


def test_an_archive_cut_inside_a_member_names_the_last_whole_one() -> None:
    content = build()
    cut = open_archive(source(content)).members["policy.pth"].data_offset + 1000
    with pytest.raises(UnreadableCheckpoint) as caught:
        open_archive(source(content[:cut]))
    assert f"{cut:,}" in caught.value.message
    assert "breaks off in member policy.pth" in caught.value.message
    assert "last whole member is data" in caught.value.message


def test_a_cut_archive_with_data_descriptors_names_the_last_whole_member() -> None:
    content = stream()
    cut = open_archive(source(content)).members["policy.pth"].data_offset + 1000
    with pytest.raises(UnreadableCheckpoint, match="last whole member is data"):
        open_archive(source(content[:cut]))


def test_the_end_of_an_archive_inside_is_not_taken_for_the_end_of_a_cut_one() -> None:
    for inner in (build(), stream(), build(force_zip64=True)):
        content = build({"data": b"settings", "policy.pth": inner, "more": b"z" * 200})
        member = open_archive(source(content)).members["policy.pth"]
        for cut in (member.data_offset + member.size, member.data_offset + member.size + 50):
            with pytest.raises(UnreadableCheckpoint, match=r"last whole member is policy\.pth"):
                open_archive(source(content[:cut]))


@given(cut=st.integers(0, len(build()) - 1))
@settings(max_examples=250, deadline=None)
def test_a_truncated_archive_is_always_refused_in_one_sentence(cut: int) -> None:
    with pytest.raises(UnreadableCheckpoint) as caught:
        open_archive(source(build()[:cut]))
    assert "\n" not in caught.value.message
    assert caught.value.hint


SEEDS = [build(), build(method=zipfile.ZIP_DEFLATED), build(force_zip64=True), stream(), build(comment=b"c" * 9)]


@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
)
@settings(max_examples=250, deadline=None)
def test_flipped_bytes_are_read_or_refused_but_never_crash(seed: bytes, changes: list[tuple[float, int]]) -> None:
    content = bytearray(seed)
    for place, value in changes:
        content[int(place * len(content))] = value
    with contextlib.suppress(UnreadableCheckpoint):
        for member in open_archive(source(bytes(content))).members.values():
            member.source.read(0, member.source.size)
            check_crc(member)


@given(content=st.binary(max_size=300))
@settings(max_examples=250, deadline=None)
def test_arbitrary_bytes_never_crash(content: bytes) -> None:
    for each in (content, b"PK\x03\x04" + content, content + build({})):
        if is_zip(source(each)):
            with contextlib.suppress(UnreadableCheckpoint):
                open_archive(source(each))


def test_signatures_repeated_without_end_are_not_searched_forever() -> None:
    started = time.perf_counter()
    header = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 8, 0, 0, 0, 0, 0, 0, 1, 0) + b"a"
    for content in (header + b"PK\x07\x08" * 2_000_000, b"PK\x05\x06" * 500_000, header[:8] + b"\0" * 22 + b"b" * 9):
        with pytest.raises(UnreadableCheckpoint):
            open_archive(source(content))
    assert time.perf_counter() - started < 5
