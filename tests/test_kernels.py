"""Kernels of Keras, Flax and TensorFlow: stored inputs first, and judged by their outputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers.layers import copies, network
from checkpoint_doctor.builtin.analyzers.values import extremes, zeros
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.layers import Kind
from checkpoint_doctor.testing import build_checkpoint, findings_of

RANDOM = np.random.default_rng(0)


def draw(*shape: int) -> NDArray[np.float32]:
    return RANDOM.normal(0, 0.1, shape).astype(np.float32)


def dense(kernel: NDArray[np.float32]) -> Checkpoint:
    tensors = {"body/kernel": kernel, "body/bias": draw(kernel.shape[-1]), "head/kernel": draw(kernel.shape[-1], 3)}
    return build_checkpoint({**tensors, "head/bias": draw(3)})


@pytest.mark.parametrize(
    ("tensors", "kind", "fan_in"),
    [
        ({"conv/kernel": (3, 3, 4, 8), "conv/bias": (8,)}, Kind.KERNEL, 36),
        ({"conv/kernel:0": (3, 3, 4, 8), "conv/bias:0": (8,)}, Kind.KERNEL, 36),
        ({"query/kernel": (32, 4, 8), "query/bias": (4, 8)}, Kind.KERNEL, 128),
        ({"dense/kernel": (16, 8), "dense/bias": (8,)}, Kind.LINEAR, 16),
        ({"square/kernel": (8, 8)}, Kind.LINEAR, 8),
        ({"conv.weight": (8, 4, 3, 3), "conv.bias": (8,)}, Kind.CONV, 36),
    ],
)
def test_kinds_and_fan_in_follow_the_layout(tensors: dict[str, tuple[int, ...]], kind: Kind, fan_in: int) -> None:
    checkpoint = build_checkpoint({name: draw(*shape) for name, shape in tensors.items()})
    [layer] = checkpoint.layers
    assert layer.kind is kind
    assert layer.transposed is (kind is not Kind.CONV)
    assert checkpoint.tensors[0].fan_in == fan_in


@pytest.mark.parametrize(
    "names",
    [
        ("gamma", "beta", "moving_mean", "moving_variance"),
        ("weight", "bias", "running_mean", "running_var"),
    ],
)
def test_norms_and_tables_of_keras_are_known(names: tuple[str, ...]) -> None:
    tensors = {f"batch_normalization/{name}": draw(8) for name in names}
    checkpoint = build_checkpoint({**tensors, "words/embeddings": draw(9, 8)})
    kinds = {layer.name: layer.kind for layer in checkpoint.layers}
    assert kinds == {"batch_normalization": Kind.BATCH_NORM, "words": Kind.EMBEDDING}


def test_units_without_incoming_weights_are_columns_of_a_kernel() -> None:
    kernel = draw(6, 8)
    kernel[:, 5] = 0
    [finding] = findings_of(network.disconnected_units, dense(kernel))
    assert (finding.evidence["units"], finding.evidence["layer_units"]) == ([5], 8)
    assert finding.evidence["side"] == "incoming"
    inputs = draw(6, 8)
    inputs[2] = 0  # an input of the model, and no unit
    assert findings_of(network.disconnected_units, dense(inputs)) == []


def test_equal_rows_of_a_kernel_are_inputs_and_no_copies() -> None:
    kernel = draw(6, 8)
    kernel[4] = kernel[1]
    assert findings_of(copies.duplicate_units, dense(kernel)) == []


def test_the_scale_of_a_kernel_is_that_of_its_outputs() -> None:
    wide = {"conv/kernel": 28 * draw(3, 3, 4, 512), "conv/bias": draw(512), "out/kernel": draw(512, 2)}
    assert findings_of(extremes.exploded_values, build_checkpoint(wide)) == []
    tall = {"conv.weight": wide["conv/kernel"], "out.weight": draw(2, 512)}
    assert [each.tensor for each in findings_of(extremes.exploded_values, build_checkpoint(tall))] == ["conv.weight"]


def draw_by_keras(*shape: int) -> NDArray[np.float64]:
    field = int(np.prod(shape[:-2]))
    limit = (6 / (field * (shape[-2] + shape[-1]))) ** 0.5
    return RANDOM.uniform(-limit, limit, shape)


def draw_by_flax(*shape: int) -> NDArray[np.float64]:
    drawn = RANDOM.normal(size=4 * int(np.prod(shape)))
    deviation = (shape[-1] / np.prod(shape)) ** 0.5 / 0.87962566
    return deviation * drawn[np.abs(drawn) < 2][: int(np.prod(shape))].reshape(shape)


@pytest.mark.parametrize("draw_initial", [draw_by_keras, draw_by_flax])
@pytest.mark.parametrize("shape", [(64, 32), (3, 3, 8, 16)])
def test_zero_biases_are_normal_beside_initial_draws_of_keras_and_flax(
    draw_initial: Callable[..., NDArray[np.float64]], shape: tuple[int, ...]
) -> None:
    def network(kernel: NDArray[np.float64]) -> Checkpoint:
        bias = np.zeros(shape[-1], np.float32)
        return build_checkpoint({"body/kernel": kernel.astype(np.float32), "body/bias": bias})

    initial = draw_initial(*shape)
    assert findings_of(zeros.zero_bias, network(initial)) == []
    assert len(findings_of(zeros.zero_bias, network(1.1 * initial))) == 1
    assert len(findings_of(zeros.zero_bias, network(initial + 0.05 * RANDOM.normal(size=shape)))) == 1
