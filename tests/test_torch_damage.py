"""Damaged and foreign files: one sentence with a hint, whatever happened to them."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_files import CONTAINERS, network, opened, refused, saved

from checkpoint_doctor.builtin.loaders.torch.loader import loader
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import MemorySource

torch = pytest.importorskip("torch")
nn = torch.nn


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_file_cut_at_any_byte_is_refused_with_a_sentence(container: str) -> None:
    content = saved(
        {"first": torch.ones(3), "second": torch.ones(4)}, _use_new_zipfile_serialization=CONTAINERS[container]
    )
    for end in range(len(content) - 1):
        error = refused(content[:end])
        assert "model.pt" in error.message


def test_a_legacy_file_cut_in_a_storage_says_which_tensor_is_hit() -> None:
    content = saved({"layer.weight": torch.ones(3), "layer.bias": torch.ones(40)}, _use_new_zipfile_serialization=False)
    message = refused(content[:-1]).message
    assert "truncated" in message
    assert f"ends at byte {len(content) - 1:,}" in message
    assert f"end at byte {len(content):,}" in message
    assert "layer.weight" in message or "layer.bias" in message


def test_bytes_after_the_end_are_a_flaw() -> None:
    for container in (True, False):
        content = saved({"weight": torch.ones(3)}, _use_new_zipfile_serialization=container) + b"tail"
        [flaw] = opened(content).flaws
        assert "4 bytes" in flaw.message


def test_a_tensor_that_reaches_beyond_its_storage_is_refused_with_both_numbers() -> None:
    content = bytearray(saved({"weight": torch.ones(3)}, _use_new_zipfile_serialization=False))
    at = content.index(b"K\x00K\x03\x85")
    content[at + 3] = 9
    message = refused(bytes(content)).message
    assert "tensor weight should take bytes 0 to 36" in message
    assert "ends at byte 12" in message


def test_a_storage_whose_size_contradicts_the_archive_is_a_flaw() -> None:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved({"weight": torch.ones(3)}))) as original,
        zipfile.ZipFile(buffer, "w") as longer,
    ):
        for member in original.namelist():
            longer.writestr(member, original.read(member) + (b"\0" * 4 if member.endswith("data/0") else b""))
    [flaw] = opened(buffer.getvalue()).flaws
    assert (flaw.expected, flaw.found) == (12, 16)


def test_a_wrong_checksum_is_a_flaw() -> None:
    content = bytearray(saved({"weight": torch.full((3,), 7.25)}))
    at = content.index(struct.pack("<3f", 7.25, 7.25, 7.25))
    content[at] ^= 1
    [flaw] = opened(bytes(content)).flaws
    assert flaw.member.endswith("data/0")


@given(st.integers(0, 10**6), st.integers(1, 255), st.sampled_from(sorted(CONTAINERS)))
@settings(max_examples=150, deadline=None)
def test_a_flipped_byte_is_read_or_refused_but_never_crashes(position: int, flip: int, container: str) -> None:
    content = bytearray(SAMPLES[container])
    content[position % len(content)] ^= flip
    source = MemorySource("model.pt", bytes(content))
    if not loader.recognizes(source):
        return
    try:
        for tensor in loader.open(source).tensors:
            assert tensor.array.shape == tensor.shape
    except UnreadableCheckpoint:
        pass


SAMPLES = {
    name: saved(
        {"model": network().state_dict(), "optimizer": torch.optim.SGD(network().parameters(), 0.1).state_dict()},
        _use_new_zipfile_serialization=new,
    )
    for name, new in CONTAINERS.items()
}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, this is text\n",
        b"(this too)",
        b"columns,names\nand,rows\n",
        b"<!DOCTYPE html><html></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
        b'{"a": 1}',
        b"\x93NUMPY\x01\x00v\x00",
        b"\x89HDF\r\n\x1a\n",
        b"]." * 3,
        bytes(range(256)),
    ],
)
def test_other_files_are_not_recognised(content: bytes) -> None:
    if content != b"]." * 3:
        assert not loader.recognizes(MemorySource("model.pt", content))
    refused(content)


def test_a_text_pickle_with_a_damaged_escape_is_still_recognised() -> None:
    content = pickle.dumps({f"layer{number}": number for number in range(10)} | {"ü—": 1}, protocol=0)
    damaged = content.replace(b"\\u2014", b"\\u20\n4")
    assert damaged != content
    assert loader.recognizes(MemorySource("model.pkl", damaged))
    assert "a string ends inside an escape" in refused(damaged).message


def test_a_zip_of_something_else_is_not_recognised() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data", "{}")
        archive.writestr("policy.pth", saved({"weight": torch.ones(2)}))
    assert not loader.recognizes(MemorySource("agent.zip", buffer.getvalue()))
    assert (
        "without a data.pkl" in refused(buffer.getvalue()).message
        or "not a PyTorch file" in refused(buffer.getvalue()).message
    )


def test_a_checkpoint_without_tensors_says_what_is_in_it_instead() -> None:
    assert "epoch" in refused(saved({"epoch": 3})).message


@pytest.mark.parametrize("change", ["question marks", "replacement characters", "line ends"])
def test_a_file_damaged_by_a_text_copy_is_named(change: str) -> None:
    content = saved({"weight": torch.ones(3)}, _use_new_zipfile_serialization=False)
    damaged = {
        "question marks": bytes(byte if byte < 0x80 else 0x3F for byte in content),
        "replacement characters": content.decode("utf-8", "replace").encode(),
        "line ends": content.replace(b"\n", b"\r\n"),
    }[change]
    assert loader.recognizes(MemorySource("model.pt", damaged))
    assert "as text" in refused(damaged).message
