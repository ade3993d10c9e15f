"""Flax's msgpack files: arrays, training states with optax's moments, and damaged bytes."""

from __future__ import annotations

import struct
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
from checkpoint_doctor.builtin.loaders.flax.loader import loader
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.errors import NotACheckpoint, UnreadableCheckpoint
from checkpoint_doctor.layers import Kind
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.sources import FileSource, MemorySource
from checkpoint_doctor.testing import check_loader, findings_of

RANDOM = np.random.default_rng(0)


def draw(*shape: int) -> NDArray[np.float32]:
    return RANDOM.normal(0, 0.1, shape).astype(np.float32)


def text(value: str) -> bytes:
    content = value.encode()
    return (bytes([0xA0 + len(content)]) if len(content) < 32 else b"\xd9" + bytes([len(content)])) + content


def extension(content: bytes, kind: int = 1) -> bytes:
    return b"\xc8" + struct.pack(">HB", len(content), kind) + content


def pack(value: Any) -> bytes:
    """Write a nested dictionary as Flax does."""
    if isinstance(value, dict):
        pieces = b"".join(text(key) + pack(each) for key, each in value.items())
        return b"\xde" + struct.pack(">H", len(value)) + pieces
    if isinstance(value, np.ndarray):
        shape = bytes([0x90 + value.ndim]) + b"".join(map(pack, value.shape))
        content = value.tobytes()
        return extension(b"\x93" + shape + text(value.dtype.name) + b"\xc5" + struct.pack(">H", len(content)) + content)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    return bytes([value]) if 0 <= value < 128 else b"\xd3" + struct.pack(">q", value)


def parameters(**changed: NDArray) -> dict[str, Any]:
    found = {
        "Conv_0": {"kernel": draw(3, 3, 3, 8), "bias": draw(8)},
        "BatchNorm_0": {"scale": 1 + draw(8), "bias": draw(8)},
        "Dense_0": {"kernel": draw(8, 16), "bias": draw(16)},
        "Dense_1": {"kernel": draw(16, 16), "bias": draw(16)},
        "Dense_2": {"kernel": draw(16, 16), "bias": draw(16)},
        "Dense_3": {"kernel": draw(16, 4), "bias": draw(4)},
    }
    for name, values in changed.items():
        module, _, leaf = name.rpartition("_")
        found[module][leaf] = values
    return found


def map_tree(tree: Any, scale: float) -> Any:
    if isinstance(tree, dict):
        return {key: map_tree(each, scale) for key, each in tree.items()}
    return (np.abs(tree) * scale + 1e-9).astype(np.float32)


def training_state(params: dict[str, Any]) -> dict[str, Any]:
    adam = {"count": np.array(40, np.int32), "mu": map_tree(params, 0.01), "nu": map_tree(params, 1e-3)}
    statistics = {"BatchNorm_0": {"mean": draw(8), "var": 1 + np.abs(draw(8))}}
    return {
        "step": 40,
        "params": params,
        "opt_state": {"0": {}, "1": {"0": adam, "1": {}}},
        "batch_stats": statistics,
        "rng": np.array([1, 2], np.uint32),
    }


def open_bytes(content: bytes) -> Checkpoint:
    source = MemorySource("model.msgpack", content)
    assert loader.recognizes(source)
    return loader.open(source)


def test_a_training_state_is_read_with_its_optimizer_joined_by_name(tmp_path: Path) -> None:
    path, params = tmp_path / "state.msgpack", parameters()
    path.write_bytes(pack(training_state(params)))
    found = check_loader(loader, path)
    for module, leaves in params.items():
        for leaf, values in leaves.items():
            assert np.array_equal(found.by_name[f"params/{module}/{leaf}"].array, values)
    assert (found.step, found.updates) == (40, 40)
    [optimizer] = found.optimizers
    assert (optimizer.name, optimizer.kind, optimizer.unmatched) == ("opt_state", "Adam", "")
    moments = found.moments["params/Dense_0/kernel"]
    assert moments.step == 40
    assert moments.second is not None
    assert np.array_equal(moments.second.array, map_tree(params, 1e-3)["Dense_0"]["kernel"])
    layers = {layer.name: (layer.kind, sorted(layer.tensors)) for layer in found.layers}
    assert layers["Conv_0"] == (Kind.KERNEL, ["bias", "weight"])
    assert layers["BatchNorm_0"] == (Kind.BATCH_NORM, ["bias", "running_mean", "running_var", "weight"])
    assert layers["Dense_0"] == (Kind.LINEAR, ["bias", "weight"])
    assert layers["rng"][0] is Kind.BUFFER


def test_several_training_states_keep_their_optimizers_apart() -> None:
    params = {"Dense_0": {"kernel": draw(4, 4)}}
    states = {name: training_state(params) for name in ("actor", "critic")}
    states["critic"]["target_params"] = params
    found = open_bytes(pack(states))
    assert [each.name for each in found.optimizers] == ["actor/opt_state", "critic/opt_state"]
    held = {moments.tensor for optimizer in found.optimizers for moments in optimizer.parameters}
    assert held == {"actor/params/Dense_0/kernel", "critic/params/Dense_0/kernel"}
    assert found.counters == {"actor/step": 40, "critic/step": 40}


def test_variables_of_nnx_are_known_without_their_wrapper() -> None:
    params = {"linear": {"kernel": {"value": draw(4, 3)}, "bias": {"value": draw(3)}}}
    mirrored = {"linear": {"kernel": {"value": draw(4, 3)}, "bias": {"value": draw(3)}}}
    found = open_bytes(pack({"params": params, "opt_state": {"mu": mirrored, "nu": mirrored, "count": 3}}))
    assert [layer.kind for layer in found.layers] == [Kind.LINEAR]
    assert set(found.moments) == {"params/linear/kernel/value", "params/linear/bias/value"}


def test_large_arrays_are_put_together_from_their_chunks() -> None:
    values = draw(5, 4)
    flat = values.ravel()
    chunked = {
        "__msgpack_chunked_array__": 1,
        "shape": {"0": 5, "1": 4},
        "chunks": {"0": flat[:9], "1": flat[9:15], "2": flat[15:]},
    }
    content = pack({"params": {"Dense_0": {"bias": draw(4), "kernel": chunked}}})
    tensor = open_bytes(content).by_name["params/Dense_0/kernel"]
    assert np.array_equal(tensor.array, values)
    for elements in (1, 4, 7, 100):
        assert np.array_equal(np.concatenate([each.copy() for each in tensor.values.blocks(elements)]), flat)
    chunked["shape"]["0"] = 6
    with pytest.raises(UnreadableCheckpoint, match=r"have 20 values, not those of \[6, 4\]"):
        open_bytes(pack({"params": {"Dense_0": {"bias": draw(4), "kernel": chunked}}}))


@pytest.mark.parametrize("kind", ["float16", "float64", "int8", "uint32", "bool", "complex64", "bfloat16"])
def test_every_type_is_read(kind: str) -> None:
    values = (draw(3, 2) * 100).astype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
    found = open_bytes(pack({"params": {"Dense_0": {"bias": draw(2), "extra": values}}}))
    assert found.by_name["params/Dense_0/extra"].array.tolist() == values.tolist()


def test_other_arrays_and_types_are_named() -> None:
    with pytest.raises(NotACheckpoint, match="not the parameters of a model"):
        open_bytes(pack({"images": draw(5, 4), "labels": np.arange(5)}))
    odd = b"\x93\x91\x02" + text("datetime64") + b"\xc4\x10" + bytes(16)
    content = b"\x82" + text("a") + b"\x82" + text("kernel") + pack(draw(2, 2)) + text("odd") + extension(odd)
    content += text("when") + extension(bytes(4), 77)
    assert [each.why for each in open_bytes(content).skipped] == [
        "elements of type datetime64 are not numbers that are read",
        "extensions of type 77 are not known",
    ]


KERNEL = b"\x81" + text("kernel")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pack(training_state(parameters()))[:-10], "truncated"),
        (pack(training_state(parameters())) + b"\0", "1 bytes follow its end"),
        (KERNEL + extension(b"\x93\x92\x02\x03" + text("float32") + b"\xc4\x10" + bytes(16)), "24 bytes, but has 16"),
        (KERNEL + extension(b"\x93\x91\xff" + text("float32") + b"\xc4\x00"), "not a list of sizes"),
        (KERNEL + extension(b"\x93\x91\x04" + text("float32") + b"\xc4\xf0" + bytes(16)), "do not end where the array"),
        (
            KERNEL + extension(b"\x93\x92" + 2 * (b"\xcf" + b"\x7f" * 8) + text("float32") + b"\xc4\x00"),
            "not a list of",
        ),
        (b"\x82" + text("a") + pack(draw(1)) + text("deep") + b"\x91" * 100 + b"\x00", "nested too deeply"),
        (b"\x82" + text("a") + pack(draw(1)) + text("b") + b"\xc1", "0xc1, which is not a type of msgpack"),
        (b"\x82" + text("a") + pack(draw(1)) + b"\x05\x05", "is not text"),
        (b"\x82" + text("a") + pack(draw(1)) + text("b") + b"\xdf\xff\xff\xff\xff", "truncated"),
        (b"\x82" + text("a") + pack(draw(1)) + text("b") + b"\xc6\xff\xff\xff\xff", "truncated"),
    ],
)
def test_damaged_files_are_refused(content: bytes, says: str) -> None:
    with pytest.raises(UnreadableCheckpoint, match=says) as caught:
        open_bytes(content)
    assert not isinstance(caught.value, NotACheckpoint)


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    beginning = b"\x82" + text("a") + pack(draw(2))
    read_or_refuse(loader, beginning + content)
    read_or_refuse(loader, beginning + text("b") + extension(content))


def test_damaged_states_are_read_or_refused() -> None:
    for content in many_damaged(pack(training_state(parameters()))):
        read_or_refuse(loader, content)


@pytest.mark.parametrize("is_whole", [False, True])
def test_healthy_models_stay_silent_and_sick_tensors_are_found_and_fixed(tmp_path: Path, is_whole: bool) -> None:
    path, gain, broken = tmp_path / "model.msgpack", np.ones(8, np.float32), draw(16, 16)
    save = training_state if is_whole else dict
    path.write_bytes(pack(save(parameters())))
    assert [each.message for each in scan([path]).checkpoints[0].findings] == []
    gain[2], broken[3, 4] = 0, np.nan
    sick = parameters(Dense_1_kernel=np.zeros((16, 16), np.float32), Dense_2_kernel=broken, BatchNorm_0_scale=gain)
    path.write_bytes(pack(save(sick)))
    findings = {(each.tensor or "").removeprefix("params/"): each.code for each in scan([path]).checkpoints[0].findings}
    expected = {"Dense_1/kernel": "ZER001", "Dense_2/kernel": "VAL001", "BatchNorm_0/scale": "NRM001"}
    assert expected.items() <= findings.items()
    [result] = fix([path], FixOptions())
    assert result.outcome is (Outcome.RELIEVED if is_whole else Outcome.FIXED)
    fixed = loader.open(FileSource(tmp_path / "model_FIXED.msgpack")).by_name
    assert next(each.array[2] for name, each in fixed.items() if name.endswith("BatchNorm_0/scale")) == 1


def cell(letters: str) -> dict[str, Any]:
    """The layers of ``flax.linen.LSTMCell`` (letters ``ifgo``) or ``GRUCell`` (``rzn``)."""
    found = {f"i{letter}": {"kernel": 3 * draw(6, 8)} for letter in letters}
    hidden = {f"h{letter}": {"kernel": 3 * draw(8, 8), "bias": draw(8)} for letter in letters}
    return {**found, **hidden}


def findings_of_cells(**cells: dict[str, Any]) -> list[tuple[str, object, str | None]]:
    checkpoint = open_bytes(pack({"params": {**cells, "Dense_0": {"kernel": draw(8, 3), "bias": draw(3)}}}))
    rules = [rule for rule in discover().rules if rule.family == "RNN"]
    found = [each for rule in rules for each in findings_of(rule, checkpoint)]
    return [(each.code, each.evidence["gate"], each.tensor) for each in found]


@pytest.mark.parametrize(
    ("letter", "gate", "kind"),
    [
        *(("i", "input", "ifgo"), ("f", "forget", "ifgo"), ("o", "output", "ifgo")),
        *(("r", "reset", "rzn"), ("z", "update", "rzn")),
    ],
)
def test_the_gates_of_cells_are_judged_together(letter: str, gate: str, kind: str) -> None:
    assert findings_of_cells(rnn=cell(kind)) == []
    closed, dead, large = cell(kind), cell(kind), cell(kind)
    closed[f"h{letter}"]["bias"][:] = -20
    assert findings_of_cells(rnn=closed) == [("RNN003", gate, f"params/rnn/h{letter}/bias")]
    for source in "ih":
        dead[f"{source}{letter}"]["kernel"][:] = 0
    assert findings_of_cells(rnn=dead) == [("RNN004", gate, f"params/rnn/h{letter}/kernel")]
    large[f"h{letter}"]["kernel"][:] *= 1000
    assert findings_of_cells(rnn=large) == [("RNN005", gate, f"params/rnn/h{letter}/kernel")]


def test_layers_that_only_have_a_name_of_a_gate_are_no_cells() -> None:
    other = cell("ifgo")
    other["hi"]["bias"][:] = -20
    del other["ho"]
    assert findings_of_cells(rnn=other) == []
    assert findings_of_cells(hi={"kernel": 1000 * draw(8, 8), "bias": 100 + draw(8)}) == []


@pytest.fixture(scope="module")
def trained() -> Any:
    """The training state of a small network of Flax, after 30 updates."""
    pytest.importorskip("flax")
    optax = pytest.importorskip("optax")
    import jax
    import jax.numpy as jnp
    from flax import linen
    from flax.training import train_state

    class Network(linen.Module):
        @linen.compact
        def __call__(self, images: Any) -> Any:
            hidden = linen.BatchNorm(use_running_average=False)(linen.Conv(8, (3, 3))(images))
            hidden = linen.LayerNorm()(linen.relu(hidden).reshape(images.shape[0], -1, 8))
            hidden = hidden + linen.SelfAttention(2)(hidden)
            return linen.Dense(4)(linen.relu(linen.Dense(16)(hidden.mean(1))))

    class State(train_state.TrainState):
        batch_stats: Any = None

    network, random = Network(), np.random.default_rng(0)
    variables = network.init(jax.random.PRNGKey(0), jnp.ones((1, 4, 4, 3)))
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(3e-3))
    state = State.create(
        apply_fn=network.apply, params=variables["params"], tx=adam, batch_stats=variables["batch_stats"]
    )

    @jax.jit
    def update(state: Any, images: Any, labels: Any) -> Any:
        def loss(params: Any) -> Any:
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits, changed = network.apply(variables, images, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), changed

        (_, changed), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        return state.apply_gradients(grads=gradients, batch_stats=changed["batch_stats"])

    for _ in range(30):
        images = random.normal(size=(32, 4, 4, 3)).astype(np.float32)
        state = update(state, images, np.abs(images.sum((1, 2, 3))).astype(int) % 4)
    return state


@pytest.mark.parametrize("what", ["state", "params"])
def test_every_array_is_read_as_flax_has_it(trained: Any, tmp_path: Path, what: str) -> None:
    from flax import serialization, traverse_util

    path, saved = tmp_path / "model.msgpack", trained if what == "state" else trained.params
    path.write_bytes(serialization.to_bytes(saved))
    found = loader.open(FileSource(path))
    arrays = traverse_util.flatten_dict(serialization.to_state_dict(saved), sep="/")
    for name, values in arrays.items():
        if name != "step" and not name.startswith("opt_state"):
            assert np.array_equal(found.by_name[name].array, np.asarray(values)), name
    if what == "state":
        for name in (each for each in arrays if each.startswith("params/")):
            second = found.moments[name].second
            assert second is not None
            record = arrays[f"opt_state/1/0/nu/{name.removeprefix('params/')}"]
            assert np.array_equal(second.array, np.asarray(record))
    assert [each.message for each in scan([path]).checkpoints[0].findings] == []
