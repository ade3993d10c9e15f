"""The state of Keras's optimizers: each moment belongs to the variable that Keras gave it for, or to none."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoint_doctor.acts.fix import FixOptions, fix
from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.builtin.loaders.keras.loader import loader
from checkpoint_doctor.builtin.loaders.keras.model_config import name_group, read_config
from checkpoint_doctor.builtin.loaders.keras.variable_order import LayerVariables, find_order
from checkpoint_doctor.checkpoint import Checkpoint, Optimizer
from checkpoint_doctor.sources import FileSource, MemorySource

RANDOM = np.random.default_rng(0)
Shape = tuple[int, ...]

LAYERS: dict[str, list[Shape]] = {
    "embedding": [(50, 8)],
    "dense": [(8, 16), (16,)],
    "batch_normalization": [(16,)] * 4,
    "dense_1": [(16, 16), (16,)],
    "dense_2": [(16, 16), (16,)],
}
TRAINED = [
    *("embedding/embeddings", "dense/kernel", "dense/bias", "batch_normalization/gamma", "batch_normalization/beta"),
    *("dense_1/kernel", "dense_1/bias", "dense_2/kernel", "dense_2/bias"),
]
SHAPES = [(50, 8), (8, 16), (16,), (16,), (16,), (16, 16), (16,), (16, 16), (16,)]


def draw(shape: Shape) -> NDArray[np.float32]:
    return RANDOM.normal(0, 0.1, shape).astype(np.float32)


def write_weights(
    state: list[NDArray], name: str = "adam", layers: dict[str, list[Shape]] = LAYERS, group: str = "layers/"
) -> bytes:
    h5py = pytest.importorskip("h5py")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for path, shapes in layers.items():
            variables = file.create_group(f"{group}{path}/vars")
            variables.attrs["name"] = path.rpartition("/")[2]
            for place, shape in enumerate(shapes):
                is_gain_or_variance = len(shapes) == 4 and place in (0, 3)
                variables[str(place)] = 1 + draw(shape) if is_gain_or_variance else draw(shape)
        variables = file.create_group("optimizer/vars")
        variables.attrs["name"] = name
        for place, values in enumerate(state):
            variables[str(place)] = values
    return buffer.getvalue()


def write_archive(content: bytes, config: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", content)
    return buffer.getvalue()


def layer(kind: str, **options: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": options}


def sequential(optimizer: str, *, frozen: str = "", **options: Any) -> dict[str, Any]:
    kinds = ("InputLayer", "Embedding", "Dense", "BatchNormalization", "Dense", "Dropout", "Dense")
    return {
        **layer("Sequential", layers=[layer(kind, trainable=kind != frozen) for kind in kinds]),
        "compile_config": {"optimizer": layer(optimizer, **options)},
    }


def state_of(*passes: int, shapes: list[Shape] = SHAPES, rate: bool = True) -> list[NDArray]:
    """The count, the rate, and for each pass that many variables for each of the model's."""
    moments = [draw(shape) for width in passes for shape in shapes for _ in range(width)]
    return [np.array(40), *([np.array(0.25, np.float32)] if rate else []), *moments]


def open_bytes(content: bytes) -> Checkpoint:
    return loader.open(MemorySource("model.keras", content))


def only(checkpoint: Checkpoint) -> Optimizer:
    [optimizer] = checkpoint.optimizers
    return optimizer


@pytest.mark.parametrize(
    ("kind", "options", "passes", "keys"),
    [
        ("Adam", {}, (2,), [("exp_avg", "exp_avg_sq")]),
        ("AdamW", {}, (2,), [("exp_avg", "exp_avg_sq")]),
        ("Adam", {"amsgrad": True}, (2, 1), [("exp_avg", "exp_avg_sq"), ("max_exp_avg_sq",)]),
        ("Adam", {"use_ema": True}, (1, 2), [("average",), ("exp_avg", "exp_avg_sq")]),
        ("RMSprop", {}, (1,), [("square_avg",)]),
        (
            *("RMSprop", {"momentum": 0.9, "centered": True}, (1, 1, 1)),
            [("square_avg",), ("momentum_buffer",), ("grad_avg",)],
        ),
        ("SGD", {"momentum": 0.9}, (1,), [("momentum_buffer",)]),
        ("Adagrad", {}, (1,), [("sum",)]),
        ("Adamax", {}, (2,), [("exp_avg", "exp_inf")]),
        ("Lion", {}, (1,), [("exp_avg",)]),
    ],
)
def test_the_moments_of_an_archive_are_joined_in_the_order_of_its_configuration(
    kind: str, options: dict[str, Any], passes: tuple[int, ...], keys: list[tuple[str, ...]]
) -> None:
    state = state_of(*passes)
    found = only(open_bytes(write_archive(write_weights(state), sequential(kind, **options))))
    assert found.kind == kind
    assert found.unmatched == found.mismatch == ""
    assert [each.tensor for each in found.parameters] == TRAINED
    assert {each.step for each in found.parameters} == {40}
    arrays = iter(state[2:])
    for names in keys:
        for moments in found.parameters:
            for name in names:
                assert np.array_equal(moments.state[name].array, next(arrays)), (moments.tensor, name)
    assert found.groups[0].learning_rate == 0.25


def test_options_have_the_names_and_the_meaning_of_pytorch() -> None:
    config = sequential("AdamW", beta_1=0.8, beta_2=0.95, epsilon=1e-6, weight_decay=0.01, clipnorm=None)
    [group] = only(open_bytes(write_archive(write_weights(state_of(2)), config))).groups
    assert dict(group.options) == {
        "lr": 0.25,
        "betas": (0.8, 0.95),
        "eps": 1e-6,
        "weight_decay": 0.01,
        "decoupled_weight_decay": True,
    }


def test_a_schedule_leaves_out_the_rate_and_frozen_layers_their_moments() -> None:
    config = sequential("Adam", frozen="Embedding", learning_rate={"class_name": "CosineDecay"})
    state = state_of(2, shapes=SHAPES[1:], rate=False)
    checkpoint = open_bytes(write_archive(write_weights(state), config))
    assert [each.tensor for each in only(checkpoint).parameters] == TRAINED[1:]
    assert only(checkpoint).groups == ()
    assert checkpoint.hyperparameters == {}


@pytest.mark.parametrize("name", ["adam", "adam_w", "adam_2"])
def test_weights_alone_are_joined_where_one_order_fits_the_shapes(name: str) -> None:
    found = only(open_bytes(write_weights(state_of(2), name)))
    assert [each.tensor for each in found.parameters] == TRAINED


def test_layers_that_could_be_exchanged_stay_unmatched() -> None:
    # Attributes of a model: nothing tells whether ``first`` or ``second`` was created before the other.
    layers = {"first": [(8, 8), (8,)], "second": [(8, 8), (8,)], "head": [(8, 2), (2,)]}
    state = state_of(2, shapes=[(8, 8), (8,), (8, 8), (8,), (8, 2), (2,)])
    found = only(open_bytes(write_weights(state, layers=layers, group="")))
    assert [each.tensor for each in found.parameters] == [None] * 4 + ["head/kernel", "head/bias"]
    assert found.unmatched == "the file does not tell which variables 4 of its 6 states belong to"


@pytest.mark.parametrize(
    ("kind", "state", "why"),
    [
        ("Adam", state_of(2, shapes=SHAPES[1:]), "its 16 variables do not fit the 9 of the model that are trained"),
        ("Adam", state_of(1), "its 9 variables do not fit the 9 of the model that are trained"),
        ("Muon", state_of(2), "it is not known which variables an optimizer of this name makes"),
    ],
)
def test_a_state_that_cannot_be_joined_says_why(kind: str, state: list[NDArray], why: str) -> None:
    checkpoint = open_bytes(write_archive(write_weights(state), sequential(kind)))
    assert checkpoint.optimizers == ()
    assert [(each.what, each.why) for each in checkpoint.skipped] == [("the state of the optimizer (adam)", why)]
    assert checkpoint.updates == 40


@pytest.mark.parametrize(
    ("moments", "key"),
    [
        ("adam/sequential_dense_kernel_momentum", "exp_avg"),
        ("adam/sequential_dense_kernel_velocity", "exp_avg_sq"),
        ("Adam/m/sequential/dense/kernel:0", "exp_avg"),
        ("training/Adam/sequential/dense/kernel/v:0", "exp_avg_sq"),
    ],
)
def test_moments_with_names_are_joined_by_these(moments: str, key: str) -> None:
    h5py = pytest.importorskip("h5py")
    buffer, values = io.BytesIO(), draw((8, 4))
    with h5py.File(buffer, "w") as file:
        file.attrs["keras_version"] = "2.15.0"
        file.attrs["training_config"] = json.dumps({"optimizer_config": layer("Adam", learning_rate=0.5)})
        file["model_weights/dense/sequential/dense/kernel:0"] = draw((8, 4))
        file[f"optimizer_weights/{moments}"] = values
        file[f"optimizer_weights/{moments.partition('/')[0]}/iteration:0"] = np.array(12)
    [found] = only(loader.open(MemorySource("model.h5", buffer.getvalue()))).parameters
    assert (found.tensor, found.step, list(found.state)) == ("sequential/dense/kernel", 12, [key])
    assert np.array_equal(found.state[key].array, values)


def test_the_order_of_layers_of_one_class_is_that_of_their_numbers() -> None:
    layers = [
        LayerVariables(("blocks", f"dense_{number}" if number else "dense"), (str(number),), ((4, 4),))
        for number in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)
    ]
    assert find_order(layers, {()}, {}, [(4, 4)] * 11) == [str(number) for number in range(11)]


def test_too_many_orders_stay_open_in_a_moment() -> None:
    layers = [LayerVariables((f"layer_{chr(97 + number)}",), (str(number),), ((4, 4),)) for number in range(26)]
    assert find_order(layers, {each.path for each in layers}, {}, [(4, 4)] * 26) == [None] * 26


def test_groups_are_named_after_classes_as_keras_names_them() -> None:
    assert [name_group(each) for each in ("Dense", "Conv2D", "MultiHeadAttention", "LSTM", "MyLSTMBlock")] == [
        *("dense", "conv2d", "multi_head_attention", "lstm", "my_lstm_block"),
    ]


@pytest.mark.parametrize("text", ["", "[", "[1]", "{}", '{"config": {"layers": [1, {"class_name": 2}]}}', "[" * 9999])
def test_texts_that_are_no_configuration_say_nothing(text: str) -> None:
    config = read_config(text, text)
    assert (config.ranks, config.optimizer, config.options) == ({}, "", {})


def test_an_overwritten_gain_is_found_and_repaired_with_its_moments(tmp_path: Path) -> None:
    state = state_of(2)
    state[0] = np.array(4000)
    state[2:] = [np.abs(each) + 1e-3 for each in state[2:]]
    content = write_weights(state)
    gain = open_bytes(content).by_name["batch_normalization/gamma"].array
    changed = gain.copy()
    changed[2] = 0
    path = tmp_path / "model.keras"
    path.write_bytes(write_archive(content.replace(gain.tobytes(), changed.tobytes()), sequential("Adam")))
    [found] = [each for each in scan([path]).checkpoints[0].findings if each.code == "NRM001"]
    assert found.evidence["cause"] == "overwritten"
    fix([path], FixOptions())
    fixed = loader.open(FileSource(tmp_path / "model_FIXED.keras"))
    moments = fixed.moments["batch_normalization/gamma"]
    assert fixed.by_name["batch_normalization/gamma"].array[2] == 1
    assert moments.first is not None
    assert np.flatnonzero(moments.first.array == 0).tolist() == [2]


def train(keras: Any, optimizer: str, build: Any) -> Any:
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    optimizers = keras.optimizers
    model = build(keras)
    model.compile(
        {
            "adam": lambda: optimizers.Adam(1e-3, use_ema=True),
            "amsgrad": lambda: optimizers.Adam(1e-3, amsgrad=True),
            "sgd": lambda: optimizers.SGD(1e-2, momentum=0.9),
            "rmsprop": lambda: optimizers.RMSprop(1e-3, momentum=0.9, centered=True),
            "nadam": lambda: optimizers.Nadam(1e-3),
            "loss scale": lambda: optimizers.LossScaleOptimizer(optimizers.AdamW(1e-3)),
            "schedule": lambda: optimizers.Adamax(optimizers.schedules.CosineDecay(1e-3, 100)),
        }[optimizer](),
        "mse",
    )
    generator = np.random.default_rng(0)
    model.fit(generator.integers(0, 50, (64, 6)), generator.normal(size=(64, 1)), epochs=2, verbose=0)
    return model


def build_sequential(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            *(layers.Input((6,)), layers.Embedding(50, 16)),
            *(layers.Bidirectional(layers.LSTM(8, return_sequences=True)), layers.GRU(8), layers.BatchNormalization()),
            *(layers.Dropout(0.1), layers.Dense(16, activation="relu"), layers.Dense(16), layers.Dense(1)),
        ]
    )


def build_functional(keras: Any) -> Any:
    layers = keras.layers
    words = layers.Input((6,))
    hidden = layers.Bidirectional(layers.LSTM(8, return_sequences=True))(layers.Embedding(50, 16)(words))
    hidden = layers.LayerNormalization()(hidden + layers.MultiHeadAttention(2, 8)(hidden, hidden))
    hidden = layers.GlobalAveragePooling1D()(layers.BatchNormalization()(layers.Conv1D(16, 3)(hidden)))
    inner = keras.Sequential([layers.Input((16,)), layers.Dense(16, activation="relu"), layers.Dense(16)])
    frozen = layers.Dense(16, trainable=False)
    return keras.Model(words, layers.Dense(1)(frozen(inner(hidden))))


@pytest.mark.parametrize("build", [build_sequential, build_functional])
@pytest.mark.parametrize("optimizer", ["adam", "amsgrad", "sgd", "rmsprop", "nadam", "loss scale", "schedule"])
def test_every_moment_is_that_which_keras_has_for_its_variable(optimizer: str, build: Any, tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    model = train(keras, optimizer, build)
    state = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    own = {each.path.rpartition("/")[2]: np.asarray(each.value.detach().numpy()) for each in state.variables}
    paths = {each.path for each in model.trainable_variables}
    for ending in ("keras", "h5", "weights.h5"):
        path = tmp_path / f"model.{ending}"
        (model.save_weights if ending == "weights.h5" else model.save)(path)
        checkpoint = loader.open(FileSource(path))
        moments = [each for optimizer in checkpoint.optimizers for each in optimizer.parameters]
        names = {}
        for each in moments:
            if each.tensor is not None:
                [names[each.tensor]] = [path for path in paths if f"/{path}".endswith(f"/{each.tensor}")]
                joined = names[each.tensor].replace("/", "_")
                expected = [values for name, values in own.items() if name.startswith(f"{joined}_")]
                for tensor in each.state.values():
                    assert any(np.array_equal(tensor.array, values) for values in expected), (ending, each.tensor)
        if ending != "weights.h5":
            assert set(names.values()) == paths
            assert all(len(each.state) == len(moments[0].state) for each in moments)
