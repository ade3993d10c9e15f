"""The safetensors loader against the library itself, and against headers that lie."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint_doctor.builtin.loaders.safetensors.loader import loader
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import FileSource, MemorySource

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
    torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64,
]  # fmt: skip


def build(header: dict | bytes, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def open_bytes(content: bytes) -> Checkpoint:
    source = MemorySource("model.safetensors", content)
    assert loader.recognizes(source)
    return loader.open(source)


def refusal(content: bytes) -> str:
    with pytest.raises(UnreadableCheckpoint) as caught:
        open_bytes(content)
    assert caught.value.hint
    return caught.value.message


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_is_read_to_the_bit_as_the_library_does(dtype: torch.dtype) -> None:
    values = (torch.arange(24).reshape(2, 3, 4) % 2).to(dtype)
    content = safetensors.torch.save({"weight": values, "empty": torch.empty((0, 4), dtype=dtype)})
    checkpoint = open_bytes(content)
    assert checkpoint.format == "safetensors"
    tensor = checkpoint.by_name["weight"]
    assert (tensor.dtype, tensor.shape) == (str(dtype).removeprefix("torch."), (2, 3, 4))
    assert tensor.array.tobytes() == bits(values)
    assert checkpoint.by_name["empty"].array.shape == (0, 4)
    assert not checkpoint.damage
    assert not checkpoint.skipped


@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=6),
    metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_any_file_of_the_library_is_read_whole(shapes: list[list[int]], metadata: dict[str, str]) -> None:
    tensors = {f"layer.{number}": torch.randn(shape) for number, shape in enumerate(shapes)}
    checkpoint = open_bytes(safetensors.torch.save(tensors, metadata or None))
    assert set(checkpoint.by_name) == set(tensors)
    for name, values in tensors.items():
        np.testing.assert_array_equal(checkpoint.by_name[name].array, values.numpy())
    assert checkpoint.metadata == metadata
    assert not checkpoint.damage


def test_the_published_file_equals_what_the_library_reads(corpus: Path) -> None:
    for path in corpus.rglob("*.safetensors"):
        expected = safetensors.torch.load_file(path)
        checkpoint = loader.open(FileSource(path))
        assert set(checkpoint.by_name) == set(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(checkpoint.by_name[name].array, values.numpy())


def test_types_that_share_bytes_are_skipped_with_the_reason() -> None:
    header = {"a": entry("F4", [4], 0, 2), "b": entry("F32", [1], 2, 6), "c": entry("F6_E2M3", [4], 6, 9)}
    checkpoint = open_bytes(build({**header, "d": entry("Q7", [3], 9, 12)}, bytes(12)))
    assert list(checkpoint.by_name) == ["b"]
    assert [(each.what, each.why) for each in checkpoint.skipped] == [
        ("tensor a", "elements of type F4 are not read"),
        ("tensor c", "elements of type F6_E2M3 are not read"),
        ("tensor d", "elements of type Q7 are not read"),
    ]


GOOD = build({"a": entry("F32", [2], 0, 8), "b": entry("F32", [3], 8, 20)}, bytes(20))


def test_missing_bytes_are_counted() -> None:
    message = refusal(GOOD[:-5])
    assert f"{len(GOOD):,} bytes expected, {len(GOOD) - 5:,} found" in message
    assert "5 are missing; 1 of 2 tensors are whole" in message


def test_surplus_bytes_and_holes_are_flaws() -> None:
    (flaw,) = open_bytes(GOOD + b"more").damage
    assert (flaw.expected, flaw.found) == (len(GOOD), len(GOOD) + 4)
    hole = build({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 12, 16)}, bytes(16))
    (flaw,) = open_bytes(hole).damage
    assert "8 bytes before b belong to no tensor" in flaw.message


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, "inside a, which ends"),
        ({"a": entry("F32", [3], 0, 8)}, "takes 12 bytes, but its data_offsets span 8"),
        ({"a": entry("F32", [2], 8, 0)}, "not a range of bytes"),
        ({"a": entry("F32", [-2], 0, 8)}, "not a list of sizes"),
        ({"a": entry("F32", [1] * 99, 0, 4)}, "the shape of tensor a has too many"),
        ({"a": entry("F32", [0, 2**62, 2**62], 0, 0)}, "the shape of tensor a has too many"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "not a range of bytes"),
        ({"a": {"shape": [2], "data_offsets": [0, 8]}}, "has no dtype"),
        ({"a": 5}, "the entry of tensor a is not an object"),
        ({"__metadata__": {"step": 5}}, "__metadata__"),
        (b'{"a": {"dtype": "F32"', "not valid JSON"),
        (b'{"a": 1, "a": 2}', "'a' appears twice"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"\xff": 1}', "not valid UTF-8"),
        (b'{"\\ud800": 1}', "half a character"),
        (b'{"a":' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_contradictory_header_is_refused_with_the_reason(header: dict | bytes, words: str) -> None:
    assert words in refusal(build(header, bytes(12)))


def test_a_header_longer_than_the_file_or_the_format_allows_is_refused_with_both_numbers() -> None:
    assert f"{8 + 500:,} bytes expected, 21 found" in refusal((500).to_bytes(8, "little") + b'{"a"      }  ')
    assert "100,000,000" in refusal((2**31).to_bytes(8, "little") + b'{"a"      }  ')


@given(cut=st.integers(9, len(GOOD) - 1))
@settings(max_examples=60, deadline=None)
def test_truncated_anywhere_it_is_refused(cut: int) -> None:
    refusal(GOOD[:cut])


@given(place=st.integers(0, len(GOOD) - 1), value=st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_one_changed_byte_never_crashes(place: int, value: int) -> None:
    content = bytearray(GOOD)
    content[place] = value
    source = MemorySource("model.safetensors", bytes(content))
    if loader.recognizes(source):
        with contextlib.suppress(UnreadableCheckpoint):
            for tensor in loader.open(source).tensors:
                tensor.statistics  # noqa: B018


def write_shards(folder: Path, shards: dict[str, dict[str, torch.Tensor]]) -> dict[str, str]:
    for shard, tensors in shards.items():
        safetensors.torch.save_file(tensors, folder / shard, {"format": "pt"})
    return {name: shard for shard, tensors in shards.items() for name in tensors}


def open_index(folder: Path, weight_map: object) -> Checkpoint:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 24}, "weight_map": weight_map}))
    source = FileSource(path)
    assert loader.recognizes(source)
    return loader.open(source)


SHARDS = {
    "model-00001-of-00002.safetensors": {"a": torch.ones(2), "b": torch.zeros(1)},
    "model-00002-of-00002.safetensors": {"c": torch.full((3,), 2.0)},
}


def test_an_index_opens_all_its_shards_as_one_model(tmp_path: Path) -> None:
    checkpoint = open_index(tmp_path, write_shards(tmp_path, SHARDS))
    assert {name: tensor.array.tolist() for name, tensor in checkpoint.by_name.items()} == {
        "a": [1, 1], "b": [0], "c": [2, 2, 2],
    }  # fmt: skip
    assert checkpoint.metadata == {"format": "pt", "total_size": "24"}
    assert not checkpoint.damage
    assert not checkpoint.skipped


def test_a_missing_shard_is_a_flaw_and_the_others_are_read(tmp_path: Path) -> None:
    weight_map = write_shards(tmp_path, SHARDS)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    checkpoint = open_index(tmp_path, weight_map)
    assert set(checkpoint.by_name) == {"a", "b"}
    (flaw,) = checkpoint.damage
    assert flaw.member == "model-00002-of-00002.safetensors"
    assert "its 1 tensor cannot be examined" in flaw.message


def test_an_index_and_its_shards_that_disagree(tmp_path: Path) -> None:
    weight_map = write_shards(tmp_path, SHARDS)
    del weight_map["a"]
    weight_map["nowhere"] = "model-00002-of-00002.safetensors"
    checkpoint = open_index(tmp_path, weight_map)
    assert set(checkpoint.by_name) == {"b", "c"}
    assert [flaw.member for flaw in checkpoint.damage] == ["nowhere"]
    assert "tensor a" in checkpoint.skipped[0].what


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", ""])
def test_a_shard_outside_the_folder_is_refused(tmp_path: Path, shard: str) -> None:
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "secret.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(UnreadableCheckpoint, match="not a file name in its own folder"):
        open_index(folder, {"a": shard})


def test_an_index_of_other_shards_or_of_nothing_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model-1.bin")
    with pytest.raises(UnreadableCheckpoint, match="not a safetensors file"):
        open_index(tmp_path, {"a": "pytorch_model-1.bin"})
    with pytest.raises(UnreadableCheckpoint, match="without tensors"):
        open_index(tmp_path, {})
    with pytest.raises(UnreadableCheckpoint, match="does not map"):
        open_index(tmp_path, {"a": 3})


def test_other_formats_are_not_recognized() -> None:
    for content in (b"", b"{}", b'{"a": 1}', b"PK\x03\x04" + bytes(30), b"\x80\x02}q\x00.", b"x" * 100, bytes(100)):
        assert not loader.recognizes(MemorySource("file", content))
