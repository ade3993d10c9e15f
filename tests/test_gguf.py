"""GGUF files: what is read, and what a damaged header is called."""

from __future__ import annotations

import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hostile_bytes import many_damaged, read_or_refuse
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from checkpoint_doctor.acts.fix import FixOptions, Outcome, fix
from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.builtin.loaders.gguf.loader import loader
from checkpoint_doctor.builtin.loaders.gguf.types import NUMBERS, QUANTIZED
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.errors import NotACheckpoint, UnreadableCheckpoint
from checkpoint_doctor.layers import Kind
from checkpoint_doctor.sources import MemorySource
from checkpoint_doctor.testing import check_loader

RANDOM = np.random.default_rng(0)
TYPES = {"float32": 0, "float16": 1, "bfloat16": 30, "int8": 24, "int32": 26, "float64": 28}


def draw(*shape: int) -> NDArray[np.float32]:
    return RANDOM.normal(0, 0.1, shape).astype(np.float32)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def setting(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


ARCHITECTURE = setting("general.architecture", 8, text("llama"))
VOCABULARY = setting("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 3) + text("a") + text("b") + text("cd"))
COUNT = setting("llama.block_count", 4, struct.pack("<I", 1))


def entry(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, offset)


def write(tensors: dict[str, NDArray], *raw: tuple[str, tuple[int, ...], int, bytes], version: int = 3) -> bytes:
    pieces = [(name, each.shape, TYPES[each.dtype.name], each.tobytes()) for name, each in tensors.items()] + list(raw)
    header = b"GGUF" + struct.pack("<IQQ", version, len(pieces), 3) + ARCHITECTURE + VOCABULARY + COUNT
    content = b""
    for name, shape, kind, piece in pieces:
        content += bytes(-len(content) % 32)
        header += entry(name, shape, kind, len(content))
        content += piece
    return header + bytes(-len(header) % 32) + content


def block() -> dict[str, NDArray]:
    return {
        "token_embd.weight": draw(40, 16),
        "blk.0.attn_norm.weight": np.ones(16, np.float32) + draw(16),
        "blk.0.attn_q.weight": draw(16, 16),
        "blk.0.ffn_up.weight": draw(32, 16).astype(np.float16),
        "blk.0.ffn_down.weight": draw(16, 32).astype(ml_dtypes.bfloat16),
        "output_norm.weight": np.ones(16, np.float32) + draw(16),
        "output.weight": draw(40, 16),
    }


def open_bytes(content: bytes) -> Checkpoint:
    source = MemorySource("model.gguf", content)
    assert loader.recognizes(source)
    return loader.open(source)


def test_every_tensor_is_read_and_patched(tmp_path: Path) -> None:
    path, tensors = tmp_path / "model.gguf", block()
    path.write_bytes(write(tensors))
    checkpoint = check_loader(loader, path)
    assert {name: each.array.tolist() for name, each in checkpoint.by_name.items()} == {
        name: each.tolist() for name, each in tensors.items()
    }
    assert checkpoint.metadata == {"general.architecture": "llama", "llama.block_count": "1"}
    kinds = {layer.name: layer.kind for layer in checkpoint.layers}
    assert kinds["token_embd"] is Kind.EMBEDDING
    assert kinds["blk.0.attn_norm"] is Kind.RMS_NORM
    assert kinds["blk.0.ffn_up"] is Kind.LINEAR


def test_quantised_tensors_are_listed_with_their_shape_and_not_judged() -> None:
    found = open_bytes(write(block(), ("blk.1.ffn_up.weight", (4, 32), 8, bytes(4 * 34)), ("new", (7,), 99, b"")))
    assert [(each.what, each.why) for each in found.skipped] == [
        ("tensor blk.1.ffn_up.weight (4×32, Q8_0)", "quantised values are not judged"),
        ("tensor new (7, type 99)", "this type is not known"),
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (write(block())[:-1], r"truncated: [\d,]+ bytes expected, [\d,]+ found \(6 of 7 tensors are whole\)"),
        (write(block())[:100], "truncated: it ends at byte 100 inside its header"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0) + bytes(99), "asks for more than 5,001 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 40) + bytes(99), "asks for more than 1,000,0.. Python objects"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "version 9 of GGUF"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60), "a name in its header has"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + setting("a", 77, b""), "unknown type 77"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + setting("a", 9, struct.pack("<IQ", 9, 1) * 9), "nested too deeply"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + setting("a", 9, struct.pack("<IQ", 12, 1 << 60)), "truncated"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + entry("a", (1 << 40, 1 << 40), 0, 0), "too large"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + entry("a", (2,) * 9, 0, 0), "9 axes"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + entry("a", (33,), 8, 0), "packs 32 together"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + entry("a", (1,), 0, 0) * 2 + bytes(99), "appears twice"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + entry("a", (4,), 0, 0) + entry("b", (1,), 0, 8) + bytes(99),
            "begins at byte 104, inside a",
        ),
    ],
)
def test_damaged_headers_are_refused(content: bytes, says: str) -> None:
    with pytest.raises(UnreadableCheckpoint, match=says) as caught:
        open_bytes(content)
    assert not isinstance(caught.value, NotACheckpoint)


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_any_header_is_read_or_refused(content: bytes) -> None:
    read_or_refuse(loader, b"GGUF\3\0\0\0" + content)
    read_or_refuse(loader, b"GGUF" + struct.pack("<IQQ", 3, 2, 1) + content)


def test_damaged_files_are_read_or_refused() -> None:
    for content in many_damaged(write(block())):
        read_or_refuse(loader, content)


def test_healthy_models_stay_silent_and_sick_tensors_are_found_and_fixed(tmp_path: Path) -> None:
    path, tensors = tmp_path / "model.gguf", block()
    path.write_bytes(write(tensors))
    assert scan([path]).checkpoints[0].findings == ()
    tensors["blk.0.ffn_up.weight"][...] = 0
    tensors["blk.0.attn_q.weight"][3, 4] = np.nan
    tensors["blk.0.attn_norm.weight"][2] = 0
    path.write_bytes(write(tensors))
    found = {each.tensor: each.code for each in scan([path]).checkpoints[0].findings}
    assert found == {
        "blk.0.ffn_up.weight": "ZER001",
        "blk.0.attn_q.weight": "VAL001",
        "blk.0.attn_norm.weight": "NRM001",
    }
    [result] = fix([path], FixOptions())
    assert result.outcome is Outcome.FIXED
    fixed = loader.open(MemorySource("", (tmp_path / "model_FIXED.gguf").read_bytes()))
    assert fixed.by_name["blk.0.attn_norm.weight"].array[2] == 1


def test_every_type_has_the_size_that_the_library_gives_it() -> None:
    gguf = pytest.importorskip("gguf")
    sizes = {int(kind): (kind.name, *size) for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {kind: sizes[kind][0] for kind in NUMBERS} == {kind: name for kind, (name, _) in NUMBERS.items()}
    assert {kind: sizes[kind] for kind in QUANTIZED} == QUANTIZED


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
def test_files_of_the_library_are_read_as_it_reads_them(tmp_path: Path, kind: str) -> None:
    gguf = pytest.importorskip("gguf")
    path, quantized = str(tmp_path / "model.gguf"), gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list([f"token {place}" for place in range(1000)])
    writer.add_block_count(1)
    for name, values in (("token_embd.weight", draw(64, 64)), ("blk.0.ffn_up.weight", draw(96, 64))):
        writer.add_tensor(name, gguf.quants.quantize(values, quantized), raw_dtype=quantized)
    writer.add_tensor("output_norm.weight", draw(64))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found, expected = open_bytes(Path(path).read_bytes()), gguf.GGUFReader(path).tensors
    if kind.startswith("Q"):
        assert set(found.by_name) == {"output_norm.weight"}
        assert [each.what for each in found.skipped] == [
            f"tensor token_embd.weight (64×64, {kind})",
            f"tensor blk.0.ffn_up.weight (96×64, {kind})",
        ]
        return
    for tensor in expected:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        assert found.by_name[tensor.name].shape == shape
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        assert np.array_equal(found.by_name[tensor.name].array.astype(np.float32), values)
