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
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.testing import build_checkpoint, findings_of

RANDOM = np.random.default_rng(0)
RULES_OF_VALUES = [rule for rule in discover().rules if rule.family in ("NET", "VAL", "ZER")]


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


def test_equal_columns_of_a_kernel_are_copies_that_are_drawn_anew() -> None:
    kernel = draw(6, 8)
    kernel[:, 4] = kernel[:, 1]
    checkpoint = dense(kernel)
    [finding] = findings_of(copies.duplicate_units, checkpoint)
    assert finding.evidence == {"groups": [[1, 4]], "columns": 8}
    [repair] = finding.repairs
    changed = repair.renew(kernel, np.random.default_rng(0)) != kernel
    assert np.flatnonzero(changed.any(axis=0)).tolist() == [4]


TORCH = {"conv1": (16, 3, 3, 3), "conv2": (24, 16, 3, 3), "conv3": (20, 24, 3, 3), "head": (5, 20)}


def convolutions(kernel: NDArray[np.float32], bias: NDArray[np.float32], *, outputs_last: bool) -> Checkpoint:
    """Three convolutions and a head, the second one with these numbers, in the layout of PyTorch or of Keras."""
    random = np.random.default_rng(1)
    tensors = {}
    for name, shape in TORCH.items():
        weight = kernel if name == "conv2" else random.normal(0, 0.1, shape).astype(np.float32)
        if outputs_last:
            weight = np.ascontiguousarray(weight.transpose(2, 3, 1, 0) if weight.ndim > 2 else weight.T)
        tensors[f"{name}/kernel" if outputs_last else f"{name}.weight"] = weight
        live = random.normal(0, 0.1, shape[0]).astype(np.float32)
        tensors[f"{name}/bias" if outputs_last else f"{name}.bias"] = bias if name == "conv2" else live
    return build_checkpoint(tensors)


def leave(kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    """Change nothing."""


def cut_units(kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    kernel[[2, 5, 6]] = 0


def cut_inputs(kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    kernel[:, [1, 7]] = 0


def cut_positions(kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    kernel[:, :, 1] = 0


def copy_units(kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    kernel[[3, 9]] = kernel[0]


def clear(kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    kernel[...] = 0


def clear_bias(kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    bias[...] = 0


def flatten(kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    kernel[...] = np.outer(kernel[:, 0, 0, 0], kernel[0]).reshape(kernel.shape)


@pytest.mark.parametrize(
    ("sabotage", "codes"),
    [
        (leave, set()),
        (cut_units, {"NET002"}),
        (cut_inputs, {"NET002"}),
        (cut_positions, {"ZER002"}),
        (copy_units, {"NET004"}),
        (clear, {"ZER001"}),
        (clear_bias, {"ZER003"}),
        (flatten, {"NET005"}),
    ],
)
def test_a_convolution_has_the_findings_of_its_twin_in_the_layout_of_torch(
    sabotage: Callable[[NDArray[np.float32], NDArray[np.float32]], None], codes: set[str]
) -> None:
    random = np.random.default_rng(2)
    kernel = random.normal(0, 0.1, TORCH["conv2"]).astype(np.float32)
    bias = random.normal(0, 0.1, len(kernel)).astype(np.float32)
    sabotage(kernel, bias)
    by_layout = [
        [
            (each.code, each.severity, each.evidence.get("units", each.evidence.get("groups")))
            for rule in RULES_OF_VALUES
            for each in findings_of(rule, convolutions(kernel, bias, outputs_last=outputs_last))
        ]
        for outputs_last in (False, True)
    ]
    assert by_layout[0] == by_layout[1]
    assert {code for code, _, _ in by_layout[1]} == codes


@pytest.mark.parametrize(
    ("shapes", "axis"),
    [
        ({"conv/kernel": (3, 3, 4, 8), "conv/bias": (8,)}, 3),
        ({"conv/kernel": (3, 3, 4, 8)}, 3),
        ({"conv/kernel": (3, 4, 8), "conv/bias": (8,)}, 2),
        ({"query/kernel": (32, 4, 8)}, None),
        ({"query/kernel": (32, 4, 8), "query/bias": (4, 8)}, None),
        ({"up/kernel": (3, 3, 8, 4), "up/bias": (8,)}, None),
        ({"conv2d_transpose/kernel": (3, 3, 8, 8), "conv2d_transpose/bias": (8,)}, None),
        ({"dense/kernel": (4, 8), "dense/bias": (8,)}, 1),
        ({"conv.weight": (8, 4, 3, 3), "conv.bias": (8,)}, 0),
    ],
)
def test_the_axis_of_the_units_is_known_where_the_bias_or_the_number_of_axes_shows_it(
    shapes: dict[str, tuple[int, ...]], axis: int | None
) -> None:
    checkpoint = build_checkpoint({name: draw(*shape) for name, shape in shapes.items()})
    assert checkpoint.layers[0].unit_axis == axis


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
