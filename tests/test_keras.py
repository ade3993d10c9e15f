"""Files of Keras: their tensors, names and layers, what is no model, and what damaged files are called."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_bytes import many_damaged, read_or_refuse
from numpy.typing import NDArray

from checkpoint_doctor.acts.fix import FixOptions, Outcome, fix
from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.builtin.loaders.keras.loader import loader
from checkpoint_doctor.builtin.loaders.keras.variables import name_variables
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.errors import NotACheckpoint, RepairFailed, UnreadableCheckpoint
from checkpoint_doctor.layers import Kind
from checkpoint_doctor.sources import FileSource, MemorySource
from checkpoint_doctor.testing import check_loader

RANDOM = np.random.default_rng(0)
SIGNATURE = b"\x89HDF\r\n\x1a\n"


def draw(*shape: int) -> NDArray[np.float32]:
    return RANDOM.normal(0, 0.1, shape).astype(np.float32)


def network() -> dict[str, list[NDArray]]:
    """The layers of a small model with their variables, by the groups of Keras 3."""
    return {
        "layers/conv2d": [draw(3, 3, 3, 8), draw(8)],
        "layers/batch_normalization": [1 + draw(8), draw(8), draw(8), 1 + np.abs(draw(8))],
        "layers/dense": [draw(8, 16), draw(16)],
        "layers/dense_1": [draw(16, 16), draw(16)],
        "layers/dense_2": [draw(16, 16), draw(16)],
        "layers/dense_3": [draw(16, 4), draw(4)],
    }


def write_hdf5(layers: dict[str, list[NDArray]], **options: Any) -> bytes:
    h5py = pytest.importorskip("h5py")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for path, variables in layers.items():
            group = file.create_group(f"{path}/vars")
            group.attrs["name"] = path.rpartition("/")[2]
            for place, values in enumerate(variables):
                group.create_dataset(str(place), data=values, **options if values.shape else {})
    return buffer.getvalue()


def write_keras(layers: dict[str, list[NDArray]], config: dict[str, Any] | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", json.dumps(config or {}))
        archive.writestr("model.weights.h5", write_hdf5(layers))
    return buffer.getvalue()


def open_bytes(content: bytes) -> Checkpoint:
    source = MemorySource("model.h5", content)
    assert loader.recognizes(source)
    return loader.open(source)


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}, {"chunks": True, "shuffle": True}])
def test_weights_are_read_under_the_names_that_keras_gives_them(tmp_path: Path, options: dict[str, Any]) -> None:
    path, layers = tmp_path / "model.weights.h5", network()
    path.write_bytes(write_hdf5({**layers, "optimizer": [np.array(7), np.array(0.25), draw(8, 16)]}, **options))
    found = check_loader(loader, path)
    names = ["conv2d/kernel", "conv2d/bias", "batch_normalization/gamma", "batch_normalization/beta"]
    names += ["batch_normalization/moving_mean", "batch_normalization/moving_variance", "dense/kernel", "dense/bias"]
    arrays = dict(zip(names, [each for variables in layers.values() for each in variables], strict=False))
    assert set(names) <= set(found.by_name)
    for name, values in arrays.items():
        assert np.array_equal(found.by_name[name].array, values), name
    assert (found.updates, found.hyperparameters) == (7, {"learning_rate": 0.25})
    assert [each.what for each in found.skipped] == ["the state of the optimizer (optimizer)"]
    kinds = {layer.name: layer.kind for layer in found.layers}
    assert kinds["conv2d"] is Kind.KERNEL
    assert kinds["batch_normalization"] is Kind.BATCH_NORM
    assert kinds["dense"] is Kind.LINEAR


def test_an_archive_is_read_with_its_version_and_its_checksums(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(write_keras(network()))
    found = check_loader(loader, path)
    assert found.versions == {"keras": "3.15.1"}
    assert found.damage == ()
    layers = network()
    content = bytearray(write_keras(layers))
    content[content.index(layers["layers/dense"][0].tobytes())] ^= 1
    assert any("CRC-32" in flaw.message for flaw in open_bytes(bytes(content)).damage)


def test_variables_by_name_are_read_as_keras_2_wrote_them() -> None:
    h5py = pytest.importorskip("h5py")
    buffer = io.BytesIO()
    kernel, bias = draw(8, 4), draw(4)
    with h5py.File(buffer, "w") as file:
        file.attrs["keras_version"] = "2.15.0"
        file["model_weights/dense/dense/kernel:0"] = kernel
        file["model_weights/dense/dense/bias:0"] = bias
        file["optimizer_weights/Adam/iteration:0"] = np.array(12)
        file["optimizer_weights/Adam/m/dense/kernel:0"] = kernel
    found = open_bytes(buffer.getvalue())
    assert {name: each.array.tolist() for name, each in found.by_name.items()} == {
        "dense/kernel": kernel.tolist(),
        "dense/bias": bias.tolist(),
    }
    assert found.updates == 12
    [layer] = found.layers
    assert (layer.kind, layer.transposed) == (Kind.LINEAR, True)


def test_layers_come_in_the_order_of_the_model_and_not_of_their_names(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    arrays = {"stem/kernel": draw(6, 16), "stem/bias": draw(16), "bn/gamma": draw(16), "bn/beta": draw(16)}
    path = tmp_path / "model.h5"
    for root in ("", "model_weights/"):
        with h5py.File(path, "w") as file:
            file.attrs["keras_version"] = "2.15.0"
            for name, values in arrays.items():
                file[f"{root}{name.partition('/')[0]}/{name}:0"] = values
            file[root or "/"].attrs["layer_names"] = ["stem", "bn"]
            file[f"{root}stem"].attrs["weight_names"] = [b"stem/kernel:0", b"stem/bias:0"]
            file[f"{root}bn"].attrs["weight_names"] = [b"bn/gamma:0", b"bn/beta:0"]
        assert [each.name for each in loader.open(FileSource(path)).tensors] == list(arrays)


def test_an_archive_has_its_layers_in_the_order_of_its_configuration() -> None:
    kinds = ["InputLayer", "Dense", "BatchNormalization", "Dense"]
    config = {"config": {"layers": [{"class_name": kind, "config": {}} for kind in kinds]}}
    layers = {
        "layers/dense": [draw(6, 16), draw(16)],
        "layers/batch_normalization": [1 + draw(16), draw(16), draw(16), 1 + np.abs(draw(16))],
        "layers/dense_1": [draw(16, 3), draw(3)],
    }
    found = open_bytes(write_keras(layers, config))
    assert [layer.name for layer in found.layers] == ["dense", "batch_normalization", "dense_1"]


def test_data_and_what_lies_in_other_files_is_not_read(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(4096))
    path = tmp_path / "model.weights.h5"
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = draw(8, 4)
        file.create_dataset("layers/dense/vars/1", (4,), "f4", external=[(str(secret), 0, 16)])
        file["layers/dense_1/vars"] = h5py.ExternalLink("other.h5", "/vars")
        file["layers/loop"] = file["layers"]
        file.create_dataset("layers/dense_2/vars/0", (1 << 20, 1 << 10), "f4")
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
        file.create_virtual_dataset("layers/dense_3/vars/0", layout)
    with pytest.raises(UnreadableCheckpoint, match="nested too deeply"):
        loader.open(FileSource(path))
    with h5py.File(path, "a") as file:
        del file["layers/loop"]
    found = loader.open(FileSource(path))
    assert list(found.by_name) == ["dense/kernel"]
    assert {each.why for each in found.skipped} == {"its values are in another file", "its values were never written"}


def test_hdf5_files_of_data_are_named() -> None:
    h5py = pytest.importorskip("h5py")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["observations"] = draw(10, 4)
        file["keras_like"] = draw(10)
    with pytest.raises(NotACheckpoint, match="HDF5 file of data"):
        open_bytes(buffer.getvalue())


def test_without_the_library_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UnreadableCheckpoint, match="the library h5py that reads it is not installed") as caught:
        open_bytes(SIGNATURE + bytes(100) + b"keras_version")
    assert caught.value.hint == "pip install 'checkpoint-doctor[keras]'"
    assert not isinstance(caught.value, NotACheckpoint)
    with pytest.raises(NotACheckpoint, match="HDF5 file of data"):
        open_bytes(SIGNATURE + bytes(100))


def test_compressed_variables_are_not_patched() -> None:
    found = open_bytes(write_hdf5({"layers/dense": [draw(8, 4), draw(4)]}, compression="gzip"))
    with pytest.raises(RepairFailed, match="dense/kernel cannot be changed in place: it is stored in chunks"):
        loader.patch(found, {found.by_name["dense/kernel"]: draw(8, 4)})


def test_damaged_files_are_read_or_refused() -> None:
    for sound in (write_hdf5(network()), write_hdf5(network(), compression="gzip"), write_keras(network())):
        for content in many_damaged(sound, 200):
            read_or_refuse(loader, content)


@pytest.mark.parametrize(
    ("key", "shapes", "names"),
    [
        ("dense", [(4, 3), (3,)], ["kernel", "bias"]),
        ("dense", [(4, 3)], ["kernel"]),
        ("embedding", [(9, 3)], ["embeddings"]),
        ("layer_normalization", [(3,), (3,)], ["gamma", "beta"]),
        ("batch_normalization", [(3,)] * 4, ["gamma", "beta", "moving_mean", "moving_variance"]),
        ("batch_normalization", [(3,)] * 2, ["moving_mean", "moving_variance"]),
        ("cell", [(4, 12), (3, 12), (12,)], ["kernel", "recurrent_kernel", "bias"]),
        ("cell", [(4, 12), (3, 12)], ["kernel", "recurrent_kernel"]),
        ("query_dense", [(32, 2, 8), (2, 8)], ["kernel", "bias"]),
        ("separable_conv2d", [(3, 3, 4, 1), (1, 1, 4, 8), (8,)], ["depthwise_kernel", "pointwise_kernel", "bias"]),
        ("normalization", [(3,), (3,), ()], ["mean", "variance", "count"]),
        ("rms_normalization", [(3,)], ["scale"]),
        ("my_layer", [(3,), (4,), (5,)], ["0", "1", "2"]),
    ],
)
def test_variables_are_named_as_the_layer_creates_them(
    key: str, shapes: list[tuple[int, ...]], names: list[str]
) -> None:
    assert name_variables(key, shapes) == names


def test_healthy_models_stay_silent_and_sick_tensors_are_found_and_fixed(tmp_path: Path) -> None:
    path, layers = tmp_path / "model.keras", network()
    path.write_bytes(write_keras(layers))
    assert scan([path]).checkpoints[0].findings == ()
    layers["layers/dense_1"][0][...] = 0
    layers["layers/dense_2"][0][3, 4] = np.nan
    layers["layers/batch_normalization"][0][2] = 0
    path.write_bytes(write_keras(layers))
    found = {each.tensor: each.code for each in scan([path]).checkpoints[0].findings}
    assert found == {
        "dense_1/kernel": "ZER001",
        "dense_2/kernel": "VAL001",
        "batch_normalization/gamma": "NRM001",
    }
    [result] = fix([path], FixOptions())
    assert result.outcome is Outcome.FIXED
    assert loader.open(FileSource(tmp_path / "model_FIXED.keras")).by_name["batch_normalization/gamma"].array[2] == 1


@pytest.fixture(scope="module")
def trained() -> Any:
    """A trained model with most kinds of layers, and Keras itself."""
    keras = pytest.importorskip("keras")
    layers = keras.layers
    keras.utils.set_random_seed(0)
    words = layers.Input((6,))
    hidden = layers.Embedding(50, 16)(words)
    hidden = layers.Bidirectional(layers.LSTM(8, return_sequences=True))(hidden)
    hidden = layers.LayerNormalization()(hidden + layers.MultiHeadAttention(2, 8)(hidden, hidden))
    hidden = layers.BatchNormalization()(layers.Conv1D(16, 3)(hidden))
    output = layers.Dense(1)(layers.Dense(16, activation="relu")(layers.GlobalAveragePooling1D()(hidden)))
    model = keras.Model(words, output)
    model.compile(keras.optimizers.AdamW(1e-2), "mse")
    generator = np.random.default_rng(0)
    model.fit(generator.integers(0, 50, (256, 6)), generator.normal(size=(256, 1)), epochs=3, verbose=0)
    return model


@pytest.mark.parametrize("ending", ["keras", "h5", "weights.h5"])
def test_every_variable_of_a_trained_model_is_read_as_keras_has_it(trained: Any, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"model.{ending}"
    (trained.save_weights if ending == "weights.h5" else trained.save)(path)
    found = loader.open(FileSource(path))
    expected = {each.path: each for each in trained.weights}
    assert set(found.by_name) == set(expected)
    for name, variable in expected.items():
        assert np.array_equal(found.by_name[name].array, np.asarray(variable.value.detach().numpy())), name
    [examination] = scan([path]).checkpoints
    assert [each.message for each in examination.findings] == []
