"""ONNX models: weights in every form of storage, the layers they belong to, and damaged messages."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hostile_bytes import many_damaged, read_or_refuse
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from checkpoint_doctor.acts.fix import FixOptions, Outcome, fix
from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.builtin.loaders.onnx.loader import loader
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.errors import NotACheckpoint, UnreadableCheckpoint
from checkpoint_doctor.layers import Kind
from checkpoint_doctor.sources import FileSource, MemorySource
from checkpoint_doctor.testing import check_loader

RANDOM = np.random.default_rng(0)
TYPES = {"float32": 1, "int8": 3, "int64": 7, "float16": 10, "float64": 11, "uint64": 13, "bfloat16": 16}


def draw(*shape: int) -> NDArray[np.float32]:
    return RANDOM.normal(0, 0.1, shape).astype(np.float32)


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(name: str, values: NDArray, content: bytes | None = None) -> bytes:
    dims = b"".join(field(1, size) for size in values.shape)
    content = field(9, values.tobytes()) if content is None else content
    return dims + field(2, TYPES[values.dtype.name]) + content + field(8, name)


def node(operator: str, inputs: list[str], outputs: list[str], name: str = "", attribute: bytes = b"") -> bytes:
    texts = b"".join(field(1, each) for each in inputs) + b"".join(field(2, each) for each in outputs)
    return texts + field(3, name) + field(4, operator) + (field(5, attribute) if attribute else b"")


def model(tensors: list[bytes], nodes: list[bytes] | None = None) -> bytes:
    graph = b"".join(field(1, each) for each in nodes or []) + field(2, "graph")
    graph += b"".join(field(5, each) for each in tensors)
    return field(1, 8) + field(2, "writer") + field(3, "1.0") + field(7, graph) + field(8, field(2, 17))


def open_bytes(content: bytes) -> Checkpoint:
    source = MemorySource("model.onnx", content)
    assert loader.recognizes(source)
    return loader.open(source)


def network(**changed: NDArray) -> bytes:
    arrays = {
        "onnx::MatMul_7": draw(8, 16),
        "body.bias": draw(16),
        "norm.weight": np.ones(16, np.float32) + draw(16),
        "norm.bias": draw(16),
        "onnx::MatMul_8": draw(16, 16),
        "mid.bias": draw(16),
        "head.weight": draw(4, 16),
        "head.bias": draw(4),
        "onnx::Reshape_9": np.array([0, -1], np.int64),
        **changed,
    }
    nodes = [
        node("MatMul", ["x", "onnx::MatMul_7"], ["a"], "/body/MatMul"),
        node("Add", ["body.bias", "a"], ["b"], "/body/Add"),
        node("LayerNormalization", ["b", "norm.weight", "norm.bias"], ["c"], "/norm/LayerNormalization"),
        node("MatMul", ["c", "onnx::MatMul_8"], ["d"], "/mid/MatMul"),
        node("Add", ["mid.bias", "d"], ["e"], "/mid/Add"),
        node("Gemm", ["e", "head.weight", "head.bias"], ["f"], "/head/Gemm", field(1, "transB") + field(3, 1)),
        node("Reshape", ["f", "onnx::Reshape_9"], ["y"]),
    ]
    return model([tensor(name, values) for name, values in arrays.items()], nodes)


def test_initializers_are_read_and_patched_and_their_layers_are_known_from_the_graph(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(network())
    checkpoint = check_loader(loader, path)
    assert checkpoint.metadata == {"producer": "writer 1.0"}
    layers = {layer.name: (layer.kind, layer.transposed, sorted(layer.tensors)) for layer in checkpoint.layers}
    assert layers == {
        "body": (Kind.LINEAR, True, ["bias", "weight"]),
        "norm": (Kind.LAYER_NORM, False, ["bias", "weight"]),
        "mid": (Kind.LINEAR, True, ["bias", "weight"]),
        "head": (Kind.LINEAR, False, ["bias", "weight"]),
        "onnx::Reshape_9": (Kind.BUFFER, False, ["value"]),
    }


@pytest.mark.parametrize(
    ("values", "content"),
    [
        (draw(3, 2), None),
        (draw(3, 2).astype(np.float16), None),
        (draw(3, 2).astype(ml_dtypes.bfloat16), None),
        (np.arange(6, dtype=np.int8).reshape(3, 2), None),
        (floats := draw(3, 2), field(4, floats.tobytes())),
        (floats, b"".join(varint(4 << 3 | 5) + struct.pack("<f", each) for each in floats.ravel())),
        (doubles := draw(3).astype(np.float64), field(10, doubles[:1].tobytes()) + field(10, doubles[1:].tobytes())),
        (
            halves := draw(5).astype(np.float16),
            field(5, b"".join(varint(int(each)) for each in halves.view(np.uint16))),
        ),
        (np.array([-3, 0, 99], np.int8), field(5, b"".join(map(varint, (-3, 0, 99))))),
        (np.array([-(2**62), 5], np.int64), field(7, varint(-(2**62))) + field(7, 5)),
        (np.array([2**64 - 1], np.uint64), field(11, varint(2**64 - 1))),
        (np.zeros((0, 4), np.float32), b""),
    ],
)
def test_every_form_of_storage_has_its_values(values: NDArray, content: bytes | None) -> None:
    [found] = open_bytes(model([tensor("a.weight", values, content)])).tensors
    assert (found.shape, found.array.dtype) == (values.shape, values.dtype)
    assert found.array.tolist() == values.tolist()
    assert found.statistics.count == values.size


def external(name: str, values: NDArray, location: str, **places: int) -> bytes:
    texts = {"location": location, **{key: str(value) for key, value in places.items()}}
    pairs = b"".join(field(13, field(1, key) + field(2, value)) for key, value in texts.items())
    return tensor(name, values, pairs + field(14, 1))


def test_numbers_in_a_file_beside_it_are_read_and_named_where_it_is_missing(tmp_path: Path) -> None:
    path, first, second = tmp_path / "model.onnx", draw(4, 3), draw(4)
    path.write_bytes(
        model(
            [
                external("fc.weight", first, "model.data", offset=8, length=48),
                external("fc.bias", second, "gone.data"),
            ]
        )
    )
    (tmp_path / "model.data").write_bytes(bytes(8) + first.tobytes())
    found = loader.open(FileSource(path))
    assert {name: each.array.tolist() for name, each in found.by_name.items()} == {"fc.weight": first.tolist()}
    assert [each.member for each in found.flaws] == ["gone.data"]
    assert "its 1 tensor cannot be examined" in found.flaws[0].message
    (tmp_path / "model.data").write_bytes(first.tobytes())
    with pytest.raises(UnreadableCheckpoint, match=r"model\.data is truncated"):
        loader.open(FileSource(path))
    (tmp_path / "model.data").unlink()
    with pytest.raises(UnreadableCheckpoint, match=r"model\.data"):
        loader.open(FileSource(path))


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/b", ""])
def test_no_file_outside_its_folder_is_opened(tmp_path: Path, location: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model([external("fc.weight", draw(2), location)]))
    with pytest.raises(UnreadableCheckpoint, match="not a file name in its own folder"):
        loader.open(FileSource(path))


def test_types_that_are_not_read_and_sparse_tensors_are_listed() -> None:
    packed = field(1, 4) + field(2, 22) + field(8, "packed") + field(9, bytes(2))
    texts = field(1, 1) + field(2, 8) + field(8, "classes") + field(6, "cat")
    content = model([tensor("a.weight", draw(2, 2)), packed, texts])
    assert [(each.what, each.why) for each in open_bytes(content).skipped] == [
        ("tensor packed", "elements of type 22 of ONNX are not read"),
        ("tensor classes", "elements of text are not read"),
    ]
    sparse = field(1, 8) + field(7, field(2, "g") + field(5, tensor("a", draw(1))) + field(15, b""))
    assert [each.what for each in open_bytes(sparse).skipped] == ["1 sparse tensor"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (network()[:-40], "is damaged: the field at byte .* reaches"),
        (network()[:300], "is damaged: the field at byte .* reaches"),
        (model([tensor("a", draw(2, 2), field(9, bytes(7)))]), r"takes 16 bytes, but 7 are stored"),
        (model([tensor("a", draw(2, 2), b"")]), r"takes 16 bytes, but 0 are stored"),
        (model([field(1, 2**40) * 2 + field(2, 1) + field(8, "a")]), "is too large"),
        (model([field(1, -1) + field(2, 1) + field(8, "a")]), "is too large"),
        (model([tensor("a", np.zeros(1, np.int8), field(5, b"\x80"))]), "are cut off"),
        (model([tensor("a", np.zeros(1, np.int8), field(5, b"\x80" * 10 + b"\1"))]), "longer than 64 bits"),
        (model([field(8, bytes(70_000))]), "is too long"),
        (model([b"\x0b"]), "has the wire type 3"),
    ],
)
def test_damaged_messages_are_refused(content: bytes, says: str) -> None:
    with pytest.raises(UnreadableCheckpoint, match=says) as caught:
        open_bytes(content)
    assert not isinstance(caught.value, NotACheckpoint)


def test_a_graph_without_weights_is_no_checkpoint() -> None:
    with pytest.raises(NotACheckpoint, match="without weights"):
        open_bytes(model([], [node("Relu", ["x"], ["y"])]))


@pytest.mark.parametrize(
    "content",
    [
        b"\x08\x0e" + bytes(30),
        b"\x08\x0e:\xff\xff\xff\xff\x0f" + bytes(30),
        b"\x08\x0e\x12\x03abc" + b"\xde\xad",
        b"\x08\x01\x12\x80\x01" + bytes(50),
        b"\x08\x96\x01\x12\x07testing",
    ],
)
def test_other_messages_are_not_recognized(content: bytes) -> None:
    assert not loader.recognizes(MemorySource("file", content))


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_any_message_is_read_or_refused(content: bytes) -> None:
    read_or_refuse(loader, b"\x08\x08" + content)
    read_or_refuse(loader, b"\x08\x08" + field(7, content))
    read_or_refuse(loader, model([content]))


def test_damaged_files_are_read_or_refused() -> None:
    for content in many_damaged(network()):
        read_or_refuse(loader, content)


def test_layers_that_share_their_bias_are_told_apart_by_their_weights() -> None:
    arrays = {"0.weight": draw(8, 8), "1.weight": draw(8, 8), "bias": draw(8)}
    flag = field(1, "transB") + field(3, 1)
    nodes = [node("Gemm", [f"x{place}", f"{place}.weight", "bias"], [], attribute=flag) for place in range(2)]
    layers = open_bytes(model([tensor(*each) for each in arrays.items()], nodes)).layers
    assert {layer.name: sorted(layer.tensors) for layer in layers} == {"0": ["bias", "weight"], "1": ["weight"]}


def test_products_of_one_module_are_layers_of_their_own() -> None:
    arrays = {
        "onnx::MatMul_1": draw(8, 16),
        "onnx::MatMul_2": draw(16, 8),
        "norm.weight": draw(8),
        "norm.bias": draw(8),
    }
    nodes = [
        node("MatMul", ["x", "onnx::MatMul_1"], ["y"], "/mlp/MatMul"),
        node("MatMul", ["y", "onnx::MatMul_2"], ["z"], "/mlp/MatMul_1"),
        node("LayerNormalization", ["z", "norm.weight", "norm.bias"], ["a"], "/norm/LayerNormalization"),
    ]
    layers = open_bytes(model([tensor(*each) for each in arrays.items()], nodes)).layers
    assert [(layer.name, layer.kind) for layer in layers] == [
        ("mlp", Kind.LINEAR),
        ("mlp.onnx_MatMul_2", Kind.LINEAR),
        ("norm", Kind.LAYER_NORM),
    ]


def test_the_axes_of_a_kernel_that_no_node_reads_are_not_known() -> None:
    [layer] = open_bytes(model([tensor("conv/kernel", draw(2, 1, 1, 15))])).layers
    assert (layer.kind, layer.name) == (Kind.PARAMETER, "conv/kernel.value")


def test_healthy_models_stay_silent_and_sick_tensors_are_found_and_fixed(tmp_path: Path) -> None:
    path, gain, broken = tmp_path / "model.onnx", np.ones(16, np.float32), draw(4, 16)
    path.write_bytes(network())
    assert scan([path]).checkpoints[0].findings == ()
    gain[3], broken[1, 2] = 0, np.nan
    sick: dict[str, Any] = {
        "onnx::MatMul_8": np.zeros((16, 16), np.float32),
        "norm.weight": gain,
        "head.weight": broken,
    }
    path.write_bytes(network(**sick))
    found = {each.tensor: each.code for each in scan([path]).checkpoints[0].findings}
    assert found == {"onnx::MatMul_8": "ZER001", "norm.weight": "NRM001", "head.weight": "VAL001"}
    [result] = fix([path], FixOptions())
    assert result.outcome is Outcome.FIXED
    assert loader.open(FileSource(tmp_path / "model_FIXED.onnx")).by_name["norm.weight"].array[3] == 1


@pytest.mark.parametrize("kind", ["float32", "float16", "int64", "bfloat16", "raw"])
def test_models_of_the_library_are_read_as_it_reads_them(kind: str) -> None:
    onnx = pytest.importorskip("onnx")
    values = draw(4, 3) if kind == "raw" else (draw(4, 3) * 100).astype(kind)
    if kind == "raw":
        proto = onnx.numpy_helper.from_array(values, "fc.weight")
    else:
        proto = onnx.helper.make_tensor("fc.weight", TYPES[kind], values.shape, values.ravel())
    gemm = onnx.helper.make_node("Gemm", ["x", "fc.weight"], ["y"], transB=1)
    graph = onnx.helper.make_graph([gemm], "g", [], [], [proto])
    [found] = open_bytes(onnx.helper.make_model(graph).SerializeToString()).tensors
    assert np.array_equal(found.array, onnx.numpy_helper.to_array(proto))
    assert found.array.dtype == values.dtype


def test_what_torch_exports_is_read_with_its_layers() -> None:
    onnx = pytest.importorskip("onnx")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    body = [torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.ConvTranspose2d(8, 4, 2)]
    network = torch.nn.Sequential(*body, torch.nn.Flatten(2), torch.nn.Linear(49, 6), torch.nn.LayerNorm(6))
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network.eval(), torch.randn(1, 3, 8, 8), buffer, dynamo=False)
    found = open_bytes(buffer.getvalue())
    proto = onnx.load_from_string(buffer.getvalue())
    for each in proto.graph.initializer:
        assert np.array_equal(found.by_name[each.name].array, onnx.numpy_helper.to_array(each))
    kinds = sorted(layer.kind.value for layer in found.layers)
    assert kinds == ["conv", "conv", "layer_norm", "linear"]
    assert all(each.statistics.nonfinite == 0 for each in found.tensors)
