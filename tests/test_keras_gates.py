"""The gates of recurrent layers of Keras: side by side in columns, and those of a GRU in an order of their own."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_keras_optimizers import layer, write_archive

from checkpoint_doctor.acts.fix import FixOptions, fix
from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.builtin.analyzers.layers import network
from checkpoint_doctor.builtin.loaders.keras.loader import loader
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.layers import KERAS_GATES, Kind, gate_slices
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.results.findings import Finding
from checkpoint_doctor.sources import MemorySource
from checkpoint_doctor.testing import findings_of

RULES = [rule for rule in discover().rules if rule.family == "RNN"]
UNITS, INPUTS = 8, 6
RANDOM = np.random.default_rng(0)


def draw(*shape: int) -> NDArray[np.float32]:
    return RANDOM.normal(0, 0.3, shape).astype(np.float32)


def cell(blocks: int, bias: tuple[int, ...]) -> list[NDArray]:
    return [draw(INPUTS, blocks * UNITS), draw(UNITS, blocks * UNITS), draw(*bias, blocks * UNITS)]


def open_model(lstm: list[NDArray], gru: list[NDArray], untrained: dict[str, slice] | None = None) -> Checkpoint:
    """A model with both, trained by Adam; some columns of some of their kernels received no gradient."""
    h5py = pytest.importorskip("h5py")
    variables = {"lstm": lstm, "gru": gru, "dense": [draw(UNITS, 3), draw(3)]}
    state: list[NDArray] = [np.array(900), np.array(1e-3, np.float32)]
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, arrays in variables.items():
            group = file.create_group(f"layers/{name}/cell/vars" if name != "dense" else "layers/dense/vars")
            group.attrs["name"] = f"{name}_cell" if name != "dense" else name
            file.require_group(f"layers/{name}/vars").attrs["name"] = name
            for place, values in enumerate(arrays):
                group[str(place)] = values
                moments = np.stack([draw(*values.shape), np.abs(draw(*values.shape)) + 1e-3])
                if place < 2 and name in (untrained or {}):
                    moments[..., (untrained or {})[name]] = 0
                state += [*moments]
        own = file.create_group("optimizer/vars")
        own.attrs["name"] = "adam"
        for place, values in enumerate(state):
            own[str(place)] = values
    config = layer("Sequential", layers=[layer("InputLayer"), layer("LSTM"), layer("GRU"), layer("Dense")])
    config["compile_config"] = {"optimizer": layer("Adam", learning_rate=1e-3)}
    return loader.open(MemorySource("model.keras", write_archive(buffer.getvalue(), config)))


def findings(checkpoint: Checkpoint) -> list[Finding]:
    return [each for rule in RULES for each in findings_of(rule, checkpoint)]


def test_healthy_cells_stay_silent() -> None:
    assert findings(open_model(cell(4, ()), cell(3, (2,)))) == []
    assert findings(open_model(cell(4, ()), cell(3, ()))) == []
    assert findings(open_model(cell(4, ())[:2], cell(3, (2,))[:2])) == [], "without biases"


def zero(kernels: list[NDArray], block: int) -> None:
    for each in kernels[:2]:
        each[:, block * UNITS : (block + 1) * UNITS] = 0


def saturate(kernels: list[NDArray], block: int) -> None:
    kernels[2][..., block * UNITS : (block + 1) * UNITS] = 20


def close(kernels: list[NDArray], block: int) -> None:
    kernels[2][..., block * UNITS : (block + 1) * UNITS] = 0


def explode(kernels: list[NDArray], block: int) -> None:
    kernels[1][:, block * UNITS : (block + 1) * UNITS] *= 1000


@pytest.mark.parametrize(
    ("code", "sabotage", "kind", "block", "gate", "tensor"),
    [
        ("RNN001", close, Kind.LSTM, 1, "forget", "lstm/lstm_cell/bias"),
        ("RNN003", saturate, Kind.LSTM, 0, "input", "lstm/lstm_cell/bias"),
        ("RNN003", saturate, Kind.LSTM, 3, "output", "lstm/lstm_cell/bias"),
        ("RNN003", saturate, Kind.GRU, 0, "update", "gru/gru_cell/bias"),
        ("RNN003", saturate, Kind.GRU, 1, "reset", "gru/gru_cell/bias"),
        ("RNN004", zero, Kind.LSTM, 2, "cell", "lstm/lstm_cell/recurrent_kernel"),
        ("RNN004", zero, Kind.GRU, 2, "new", "gru/gru_cell/recurrent_kernel"),
        ("RNN005", explode, Kind.LSTM, 1, "forget", "lstm/lstm_cell/recurrent_kernel"),
        ("RNN005", explode, Kind.GRU, 0, "update", "gru/gru_cell/recurrent_kernel"),
    ],
)
def test_a_sick_gate_is_named(
    code: str, sabotage: Callable[[list[NDArray], int], None], kind: Kind, block: int, gate: str, tensor: str
) -> None:
    lstm, gru = cell(4, ()), cell(3, (2,))
    sabotage(lstm if kind is Kind.LSTM else gru, block)
    [found] = findings(open_model(lstm, gru))
    assert (found.code, found.evidence["gate"], found.tensor) == (code, gate, tensor)


def test_biases_of_zero_are_those_of_gates() -> None:
    lstm, gru = cell(4, ()), cell(3, (2,))
    gru[2][:] = 0
    [found] = findings(open_model(lstm, gru))
    assert (found.code, found.tensor) == ("RNN002", "gru/gru_cell/bias")
    assert found.evidence["gates"] == ["update", "reset", "new"]


@pytest.mark.parametrize(("scale", "codes"), [(1, []), (1.3, ["RNN002"])])
def test_biases_of_zero_are_normal_beside_initial_draws_of_keras(scale: float, codes: list[str]) -> None:
    h5py = pytest.importorskip("h5py")
    _, recurrent, bias = cell(3, (2,))
    kernel = RANDOM.uniform(-1, 1, (INPUTS, 3 * UNITS)) * scale * (6 / (INPUTS + 3 * UNITS)) ** 0.5
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["keras_version"] = "2.15.0"
        for name, values in {"kernel": kernel, "recurrent_kernel": recurrent, "bias": 0 * bias}.items():
            file[f"gru/gru_cell/{name}:0"] = values.astype(np.float32)
        file["dense/dense/kernel:0"], file["dense/dense/bias:0"] = draw(UNITS, 3), draw(3)
    found = findings(loader.open(MemorySource("model.h5", buffer.getvalue())))
    assert [each.code for each in found] == codes


@pytest.mark.parametrize(("place", "side", "units"), [(0, "outgoing", [2]), (1, "outgoing", [2])])
def test_inputs_and_states_that_are_not_read_are_rows_of_the_kernels(place: int, side: str, units: list[int]) -> None:
    lstm = cell(4, ())
    lstm[place][2] = 0
    [found] = findings_of(network.disconnected_units, open_model(lstm, cell(3, (2,))))
    assert (found.evidence["side"], found.evidence["units"]) == (side, units)
    assert found.evidence["layer_units"] == (INPUTS, UNITS)[place]


def test_the_bias_of_a_forget_gate_is_repaired_in_its_own_block(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path, lstm = tmp_path / "model.h5", cell(4, ())
    forget = slice(UNITS, 2 * UNITS)
    for values in (0, 1):
        lstm[2][forget] = values
        with h5py.File(path if values == 0 else tmp_path / "wanted.h5", "w", libver="latest") as file:
            file.attrs["keras_version"] = "2.15.0"
            for name, array in zip(("kernel", "recurrent_kernel", "bias"), lstm, strict=True):
                file[f"model_weights/lstm/lstm/lstm_cell/{name}:0"] = array
    fix([path], FixOptions())
    with h5py.File(tmp_path / "model_FIXED.h5") as found, h5py.File(tmp_path / "wanted.h5") as wanted:
        group = "model_weights/lstm/lstm/lstm_cell"
        assert all(np.array_equal(found[group][name], wanted[group][name]) for name in wanted[group])
    old, new = path.read_bytes(), (tmp_path / "model_FIXED.h5").read_bytes()
    changed = [place for place, (one, other) in enumerate(zip(old, new, strict=True)) if one != other]
    assert changed[-1] - changed[0] < 4 * UNITS


@pytest.mark.parametrize(
    ("shapes", "kinds"),
    [
        ({"kernel": (3, 16), "recurrent_kernel": (4, 16), "bias": (16,)}, [Kind.LSTM]),
        ({"kernel": (3, 12), "recurrent_kernel": (4, 12), "bias": (2, 12)}, [Kind.GRU]),
        ({"kernel": (3, 4), "recurrent_kernel": (4, 4)}, [Kind.RNN]),
        ({"kernel": (3, 8), "recurrent_kernel": (4, 8)}, [Kind.LINEAR, Kind.LINEAR]),
        ({"kernel": (3, 16), "recurrent_kernel": (4, 16), "bias": (32,)}, [Kind.PARAMETER, Kind.LSTM]),
        ({"kernel": (3, 3, 2, 16), "recurrent_kernel": (3, 3, 4, 16), "bias": (16,)}, [Kind.KERNEL, Kind.KERNEL]),
        ({"kernel": (3, 16), "bias": (16,)}, [Kind.LINEAR]),
    ],
)
def test_the_shapes_of_its_variables_show_what_a_cell_is(shapes: dict[str, tuple[int, ...]], kinds: list[Kind]) -> None:
    h5py = pytest.importorskip("h5py")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["keras_version"] = "2.15.0"
        for name, shape in shapes.items():
            file[f"rnn/my_rnn_cell/{name}:0"] = draw(*shape)
    layers = loader.open(MemorySource("model.h5", buffer.getvalue())).layers
    assert sorted(layer.kind.value for layer in layers) == sorted(kind.value for kind in kinds)


def test_a_gate_that_was_never_trained_is_named_by_the_columns_of_its_moments() -> None:
    untrained = {"gru": slice(UNITS, 2 * UNITS)}
    [found] = findings(open_model(cell(4, ()), cell(3, (2,)), untrained))
    assert found.code == "RNN004"
    assert found.message.startswith("the reset gate was never trained while others were: its columns")
    assert found.evidence["columns"] == [UNITS, 2 * UNITS]


def build(keras: Any) -> Any:
    layers = keras.layers
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            *(layers.Input((12, INPUTS)), layers.LSTM(16, return_sequences=True)),
            *(layers.Bidirectional(layers.LSTM(8, use_bias=False, return_sequences=True)), layers.GRU(16)),
            *(layers.Dense(16, activation="relu"), layers.Dense(1)),
        ]
    )


@pytest.mark.parametrize("ending", ["keras", "h5", "weights.h5"])
def test_a_trained_model_of_keras_is_well_until_a_gate_is_overwritten(ending: str, tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    model, path = build(keras), tmp_path / f"model.{ending}"
    save = model.save_weights if ending == "weights.h5" else model.save
    model.compile(keras.optimizers.Adam(3e-3), "mse")
    generator = np.random.default_rng(0)
    series = generator.normal(size=(256, 12, INPUTS)).astype(np.float32)
    model.fit(series, series.sum(axis=(1, 2), keepdims=True)[:, 0] / 8, epochs=25, verbose=0)
    save(path)
    assert [each.message for each in scan([path]).checkpoints[0].findings if each.severity > 0] == []
    lstm, gru = model.layers[0], model.layers[2]
    bias = np.array(lstm.get_weights()[2])
    bias[gate_slices(Kind.LSTM, bias.size, KERAS_GATES)["forget"]] = 0
    lstm.set_weights([*lstm.get_weights()[:2], bias])
    rows = np.array(gru.get_weights()[2])
    rows[:, gate_slices(Kind.GRU, rows.shape[1], KERAS_GATES)["update"]] = 20
    gru.set_weights([*gru.get_weights()[:2], rows])
    # With its update gate open, a GRU keeps the state of zero that it began with: so this is the update gate.
    output = keras.Model(model.inputs, gru.output).predict(series[:4], verbose=0)
    assert np.abs(output).max() < 1e-6
    save(path)
    found = {(each.code, each.evidence.get("gate")) for each in scan([path]).checkpoints[0].findings}
    assert {("RNN001", "forget"), ("RNN003", "update")} <= found


def test_a_new_lstm_of_keras_has_the_bias_of_its_forget_gate_at_one() -> None:
    keras = pytest.importorskip("keras")
    cell = keras.layers.LSTM(8)
    cell.build((1, 4, 3))
    bias = cell.get_weights()[2]
    assert np.flatnonzero(bias == 1).tolist() == list(range(32))[gate_slices(Kind.LSTM, 32, KERAS_GATES)["forget"]]
