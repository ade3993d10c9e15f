"""NumPy's archives: what is read, what is a model and what is data, and what damaged files are called."""

from __future__ import annotations

import io
import zipfile
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
from checkpoint_doctor.builtin.loaders.numpy.loader import loader
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.errors import NotACheckpoint, UnreadableCheckpoint
from checkpoint_doctor.layers import Kind
from checkpoint_doctor.results.report import Verdict
from checkpoint_doctor.sources import MemorySource
from checkpoint_doctor.testing import check_loader

RANDOM = np.random.default_rng(0)


def draw(*shape: int) -> NDArray[np.float32]:
    return RANDOM.normal(0, 0.1, shape).astype(np.float32)


def archive(*arrays: NDArray, compressed: bool = False, **named: NDArray) -> MemorySource:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, *arrays, **named)
    return MemorySource("model.npz", buffer.getvalue())


def open_arrays(*arrays: NDArray, **named: NDArray) -> Checkpoint:
    source = archive(*arrays, **named)
    assert loader.recognizes(source)
    return loader.open(source)


def array(content: bytes) -> MemorySource:
    return MemorySource("x.npy", content)


def header(text: str, version: int = 1, length: int | None = None) -> bytes:
    width = 2 if version == 1 else 4
    size = len(text) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + size.to_bytes(width, "little") + text.encode("latin1")


MODEL = {"fc1.weight": draw(4, 3), "fc1.bias": draw(4), "fc2.weight": draw(2, 4), "fc2.bias": draw(2)}


@pytest.mark.parametrize("compressed", [False, True])
def test_a_model_is_read_and_patched_as_numpy_reads_it(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "model.npz"
    (np.savez_compressed if compressed else np.savez)(path, **MODEL)
    checkpoint = check_loader(loader, path)
    with np.load(path) as expected:
        assert {name: tensor.array.tolist() for name, tensor in checkpoint.by_name.items()} == {
            name: expected[name].tolist() for name in expected.files
        }
    assert checkpoint.damage == ()


def test_what_is_compressed_is_not_planned_either(tmp_path: Path) -> None:
    outcomes = {}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "model.npz", **MODEL | {"fc1.bias": np.zeros(4, np.float32)})
        (result,) = fix([str(tmp_path / "model.npz")], FixOptions(dry_run=True))
        outcomes[save] = result.outcome, (result.error or "").partition(": ")[2]
    assert outcomes[np.savez] == (Outcome.PLANNED, "")
    assert outcomes[np.savez_compressed][0] is Outcome.FAILED
    assert outcomes[np.savez_compressed][1].endswith("fc1.bias.npy is compressed")


@pytest.mark.parametrize("type_", [">f4", "<f2", "<f8", "<i8", "|u1", "|b1", "<c8", ">i2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_type_and_order_has_the_values_that_numpy_loads(type_: str, order: str) -> None:
    values = np.asarray(np.arange(24).reshape(2, 3, 4) % 7, type_, order=order)  # type: ignore[call-overload]
    tensor = open_arrays(**MODEL, **{"extra.value": values}).by_name["extra.value"]
    assert tensor.array.tolist() == values.tolist()
    assert np.concatenate([block.copy() for block in tensor.values.blocks(5)]).tolist() == values.ravel().tolist()


def test_bfloat16_is_read_from_the_type_that_numpy_saves_it_as() -> None:
    values = draw(3, 2).astype(ml_dtypes.bfloat16)
    tensor = open_arrays(**MODEL, **{"extra.weight": values}).by_name["extra.weight"]
    assert tensor.dtype == "bfloat16"
    assert tensor.array.tolist() == values.tolist()


def test_arrays_of_objects_and_of_text_are_named_and_not_read() -> None:
    found = open_arrays(**MODEL, history=np.array([{"loss": 1}], object), classes=np.array(["cat", "dog"]))
    assert {each.what: each.why for each in found.skipped} == {
        "array history": "it holds Python objects, a pickle that NumPy would execute",
        "array classes": "elements of type <U3 are not numbers that are read",
    }
    assert set(found.by_name) == set(MODEL)


@pytest.mark.parametrize(
    ("arrays", "transposed"),
    [
        ({"W1": draw(6, 4), "b1": draw(4), "W2": draw(4, 4), "b2": draw(4)}, True),
        ({"W1": draw(4, 6), "b1": draw(4), "W2": draw(4, 4), "b2": draw(4)}, False),
        ({"fc6_W": draw(6, 4), "fc6_b": draw(4), "fc7_W": draw(4, 4), "fc7_b": draw(4)}, True),
        ({"hidden_weights": draw(6, 4), "hidden_biases": draw(4)}, True),
        ({f"arr_{place}": each for place, each in enumerate((draw(6, 4), draw(4), draw(4, 4), draw(4)))}, True),
        ({f"arr_{place}": each for place, each in enumerate((draw(4, 6), draw(4), draw(3, 4), draw(3)))}, False),
        ({"params/Dense_0/kernel": draw(6, 4), "params/Dense_0/bias": draw(4)}, True),
        ({"dense/kernel:0": draw(6, 4), "dense/bias:0": draw(4)}, True),
    ],
)
def test_layers_of_every_naming_are_found(arrays: dict[str, NDArray], transposed: bool) -> None:
    found = open_arrays(**arrays).layers
    assert [layer.kind for layer in found] == [Kind.LINEAR] * (len(arrays) // 2)
    assert {layer.transposed for layer in found} == {transposed}
    assert all(layer.bias is not None for layer in found)


@pytest.mark.parametrize(
    "arrays",
    [
        {"x_train": draw(60, 8, 8), "y_train": np.arange(60), "x_test": draw(6, 8, 8), "y_test": np.arange(6)},
        {"features": draw(60, 8), "labels": np.arange(60), "weight": draw(60)},
        {"obs": draw(60, 4), "actions": draw(60, 1), "rewards": draw(60), "weights": draw(60)},
        {"arr_0": draw(60, 8), "arr_1": draw(60), "arr_2": draw(6, 8), "arr_3": draw(6)},
        {"arr_0": draw(60, 8)},
        {"embedding": draw(60, 8), "ids": np.arange(60)},
        {"mu": draw(8), "sigma": draw(8, 8)},
        {"data": draw(9), "indices": np.arange(9), "indptr": np.arange(4), "shape": np.array([3, 3])},
        {"timesteps": np.arange(3), "results": draw(3, 5), "ep_lengths": np.ones((3, 5))},
    ],
)
def test_data_are_named_for_what_they_are(arrays: dict[str, NDArray]) -> None:
    source = archive(**arrays)
    assert loader.recognizes(source)
    with pytest.raises(NotACheckpoint, match="are not the parameters of a model"):
        loader.open(source)


def test_a_single_array_and_one_of_objects_are_named() -> None:
    for values, says in (
        (draw(60, 7), "single NumPy array"),
        (np.array({"w": 1}, object), "a pickle that NumPy would"),
    ):
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=True)
        source = array(buffer.getvalue())
        assert loader.recognizes(source)
        with pytest.raises(NotACheckpoint, match=says):
            loader.open(source)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (99, 99), }"), "is truncated"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }"), "not a tuple of sizes"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (9**9,), }"), "not a Python dictionary"),
        (header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**62}, 2), }}"), "too large axes"),
        (header("{'descr': '<f4', 'shape': ()}"), "exactly the keys"),
        (header("{'descr': '<f4', 'fortran_order': 3, 'shape': ()}"), "not a truth value"),
        (header("(" * 9_000), "not a Python dictionary"),
        (header("{" + "[" * 300), "not a Python dictionary"),
        (header("", 2, 1 << 31), "longer than"),
    ],
)
def test_damaged_headers_are_refused(content: bytes, says: str) -> None:
    with pytest.raises(UnreadableCheckpoint, match=says) as caught:
        loader.open(array(content))
    assert not isinstance(caught.value, NotACheckpoint)


def test_an_array_that_claims_more_than_its_member_holds_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(
            "fc.weight.npy", header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }")
        )
    with pytest.raises(UnreadableCheckpoint, match="truncated"):
        loader.open(MemorySource("bomb.npz", buffer.getvalue()))


def test_what_deflates_a_thousandfold_is_not_inflated_without_bound() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("fc.weight.npy", bytes(200 << 20))
    with pytest.raises(UnreadableCheckpoint, match="decompression bomb"):
        loader.open(MemorySource("bomb.npz", buffer.getvalue()))


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_any_header_is_read_or_refused(content: bytes) -> None:
    read_or_refuse(loader, header("", 1, len(content)) + content)
    read_or_refuse(loader, b"\x93NUMPY" + content)


def test_damaged_archives_are_read_or_refused() -> None:
    for compressed in (False, True):
        source = archive(**MODEL, compressed=compressed)
        for content in many_damaged(source.read(0, source.size)):
            read_or_refuse(loader, content)


def test_a_flattened_training_state_of_jax_has_its_optimizer() -> None:
    kernel = draw(4, 3)
    found = open_arrays(
        **{
            "params/Dense_0/kernel": kernel,
            "params/Dense_0/bias": draw(3),
            "opt/0/mu/Dense_0/kernel": 0.1 * kernel,
            "opt/0/nu/Dense_0/kernel": kernel**2,
            "opt/0/count": np.array(9),
        }
    )
    assert set(found.by_name) == {"params/Dense_0/kernel", "params/Dense_0/bias"}
    assert found.moments["params/Dense_0/kernel"].step == 9
    assert [layer.kind for layer in found.layers] == [Kind.LINEAR]


@pytest.mark.parametrize("named", ["fc1.weight", "W1", "arr_0", "params/Dense_0/kernel"])
def test_a_zeroed_weight_and_a_nan_are_found_under_every_naming(tmp_path: Path, named: str) -> None:
    sizes = [(12, 16), (16, 16), (16, 16), (16, 5)]
    weights = [draw(*size) for size in sizes]
    weights[1][...] = 0
    weights[2][3, 4] = np.nan
    biases = [draw(size[-1]) for size in sizes]
    pairs = [each for pair in zip(weights, biases, strict=True) for each in pair]
    arrays = {
        "arr_0": {f"arr_{place}": each for place, each in enumerate(pairs)},
        "W1": {f"{'Wb'[place % 2]}{place // 2}": each for place, each in enumerate(pairs)},
        "fc1.weight": {f"fc{place // 2}.{('weight', 'bias')[place % 2]}": each.T for place, each in enumerate(pairs)},
        "params/Dense_0/kernel": {
            f"params/Dense_{place // 2}/{('kernel', 'bias')[place % 2]}": each for place, each in enumerate(pairs)
        },
    }[named]
    np.savez(tmp_path / "model.npz", **arrays)
    [examination] = scan([tmp_path / "model.npz"]).checkpoints
    codes = {finding.code: finding.tensor for finding in examination.findings}
    names = list(arrays)
    assert codes == {"ZER001": names[2], "VAL001": names[4]}


def test_a_search_passes_over_data_and_fix_repairs_a_model(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=draw(9, 9), y=draw(9))
    gain = np.ones(8, np.float32)
    gain[2] = 0
    model = {"0.weight": draw(8, 8), "0.bias": draw(8), "norm.weight": gain, "norm.bias": draw(8)}
    np.savez(tmp_path / "model.npz", **model)
    assert [Path(each.path).name for each in scan([tmp_path]).checkpoints] == ["model.npz"]
    assert scan([tmp_path / "data.npz"]).checkpoints[0].verdict is Verdict.UNREADABLE
    [result] = fix([tmp_path / "model.npz"], FixOptions())
    assert result.outcome is Outcome.FIXED
    with np.load(tmp_path / "model_FIXED.npz") as fixed:
        assert fixed["norm.weight"].tolist() == [1.0] * 8
        assert np.array_equal(fixed["0.weight"], model["0.weight"])
