"""How far from an initial draw a weight may be to count as one: every tolerance from both sides."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers._zeros.initial_draws import (
    has_initial_norms_and_biases,
    is_drawn_by_default,
    is_drawn_by_kernel_default,
    is_drawn_by_transformers,
    is_drawn_orthogonally,
    is_drawn_uniformly,
    shows_training,
)
from checkpoint_doctor.checkpoint import Layer
from checkpoint_doctor.testing import build_checkpoint

ROWS, COLUMNS = SHAPE = (48, 96)
DRAWS = ROWS * COLUMNS


def layer(weight: NDArray, bias: Any = 0.5) -> Layer:
    tensors = {"net.0.weight": weight} | ({} if bias is None else {"net.0.bias": np.resize(bias, weight.shape[0])})
    return build_checkpoint(tensors).layers[0]


def looks_drawn(weight: NDArray) -> bool | None:
    trained = shows_training(layer(weight))
    return None if trained is None else not trained


def standardised(values: NDArray) -> NDArray:
    scaled: NDArray = (values - values.mean()) / values.std()
    return scaled


def normal(*shape: int) -> NDArray:
    """Draws of exactly a mean of 0 and a deviation of 1."""
    return standardised(np.random.default_rng(0).normal(size=shape or SHAPE))


def even(*shape: int) -> NDArray:
    """Numbers from −1 to 1 in even distances and random order."""
    shape = shape or SHAPE
    return np.random.default_rng(0).permutation(np.linspace(-1, 1, int(np.prod(shape)))).reshape(shape)


def solve(make: Callable[[float], NDArray], measure: Callable[[NDArray], float], wanted: float, to: float) -> NDArray:
    """Return what has the wanted measure, which grows from 0 to this parameter."""
    low, high = 0.0, to
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if measure(make(middle)) < wanted else (low, middle)
    return make(high)


# Normal draws


USUAL = {
    "1": 1.0,
    "0.02": 0.02,
    "0.01": 0.01,
    "Kaiming": sqrt(2 / COLUMNS),
    "Kaiming by outputs": sqrt(2 / ROWS),
    "Xavier": sqrt(2 / (ROWS + COLUMNS)),
    "LeCun": sqrt(1 / COLUMNS),
}


@pytest.mark.parametrize("deviation", USUAL.values(), ids=USUAL)
def test_usual_deviations(deviation: float) -> None:
    tolerance = 4 / sqrt(2 * DRAWS)
    for change in (-1, 1):
        assert looks_drawn(normal() * deviation * (1 + 0.97 * change * tolerance)) is True
        assert looks_drawn(normal() * deviation * (1 + 1.03 * change * tolerance)) is False


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_mean_of_normal_draws(sign: int) -> None:
    tolerance = sign * 4 / sqrt(DRAWS)
    assert looks_drawn(0.02 * (normal() + 0.97 * tolerance)) is True
    assert looks_drawn(0.02 * (normal() + 1.03 * tolerance)) is False


def kurtosis(values: NDArray) -> float:
    return float((standardised(values) ** 4).mean())


def test_the_kurtosis_of_normal_draws() -> None:
    tolerance, draws = 4 * sqrt(24 / DRAWS), normal()

    def heavier(power: float) -> NDArray:
        return standardised(np.sign(draws) * np.abs(draws) ** (1 + power))

    def lighter(power: float) -> NDArray:
        return standardised(np.sign(draws) * np.abs(draws) ** (1 - power))

    for times, expected in ((0.995, True), (1.005, False)):
        assert looks_drawn(0.02 * solve(heavier, kurtosis, 3 + times * tolerance, 1.0)) is expected
        assert (
            looks_drawn(0.02 * solve(lighter, lambda values: -kurtosis(values), -3 + times * tolerance, 0.9))
            is expected
        )


def strength(values: NDArray) -> float:
    """The largest singular value, as a share of the one that is expected."""
    return float(np.linalg.norm(standardised(values), 2)) / (sqrt(ROWS) + sqrt(COLUMNS))


def test_the_largest_singular_value_of_normal_draws() -> None:
    draws = normal()
    left, values, right = np.linalg.svd(draws, full_matrices=False)
    signs = np.outer(np.resize([1, -1], ROWS), np.resize([1, 1, -1, -1], COLUMNS))

    def stronger(size: float) -> NDArray:
        return standardised(draws + size * signs)

    def flatter(power: float) -> NDArray:
        return standardised((left * values ** (1 - power)) @ right)

    for distance, expected in ((0.155, True), (0.165, False)):
        assert looks_drawn(0.02 * solve(stronger, strength, 1 + distance, 1.0)) is expected
        weaker = solve(flatter, lambda each: -strength(each), distance - 1, 0.9)
        assert looks_drawn(0.02 * weaker) is expected


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1, 400), False), ((2, 400), True), ((400, 1), False), ((8, 2048), True), ((8, 2049), False), ((2049, 8), False)],
)
def test_shapes_of_normal_draws(shape: tuple[int, int], expected: bool) -> None:
    assert looks_drawn(0.02 * normal(*shape)) is expected


def test_convolutions_count_their_field() -> None:
    weight = normal(32, 16, 3, 3)
    assert looks_drawn(weight * sqrt(2 / (16 * 9))) is True
    assert looks_drawn(weight * sqrt(2 / (32 * 9))) is True
    assert looks_drawn(weight * sqrt(2 / 16)) is False
    assert looks_drawn(even(32, 16, 3, 3) / sqrt(16 * 9)) is True
    assert looks_drawn(even(32, 16, 3, 3) / sqrt(16)) is False


# Uniform draws


LIMITS = {name: sqrt(3) * deviation for name, deviation in list(USUAL.items())[3:]} | {"PyTorch": 1 / sqrt(COLUMNS)}


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
def test_usual_limits(limit: float) -> None:
    least = 10 / DRAWS
    for change, expected in ((-0.95 * least, True), (-1.05 * least, False), (0.95e-5, True), (1.05e-5, False)):
        assert looks_drawn(even() * limit * (1 + change)) is expected


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_mean_of_uniform_draws(sign: int) -> None:
    tolerance, draws = 4 * sqrt(1 / 3 / DRAWS), even()

    def shifted(size: float) -> NDArray:
        moved: NDArray = sign * (draws + size * (1 - draws**2))
        return moved

    for times, expected in ((0.995, True), (1.005, False)):
        weight = solve(shifted, lambda values: sign * float(values.mean()), times * tolerance, 0.5)
        assert looks_drawn(weight / sqrt(COLUMNS)) is expected


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_variance_of_uniform_draws(sign: int) -> None:
    tolerance, draws = 4 * sqrt(4 / 45 / DRAWS), even()

    def powered(change: float) -> NDArray:
        bent: NDArray = np.sign(draws) * np.abs(draws) ** (1 - sign * change)
        return bent

    for times, expected in ((0.995, True), (1.005, False)):
        wanted = sign / 3 + times * tolerance
        weight = solve(powered, lambda values: sign * float(values.var()), wanted, 0.5)
        assert looks_drawn(weight / sqrt(COLUMNS)) is expected


def test_a_recurrent_layer_is_drawn_by_its_hidden_size() -> None:
    weights = {"weight_ih_l0": even(64, 5), "weight_hh_l0": even(64, 16), "bias_ih_l0": np.full(64, 0.1)}
    for limit, expected in ((1 / sqrt(16), False), (1 / sqrt(8), True)):
        scaled = {f"lstm.{role}": each * (limit if each.ndim > 1 else 1) for role, each in weights.items()}
        assert shows_training(build_checkpoint(scaled).layers[0]) is expected


# What does not tell


def test_a_small_weight_does_not_tell() -> None:
    assert looks_drawn(even(1, 127) / sqrt(127)) is None
    assert looks_drawn(even(1, 128) / sqrt(128)) is True
    assert looks_drawn(np.zeros((4, 4))) is True


@pytest.mark.parametrize(
    ("weight", "bias", "expected"),
    [
        (normal(), 0.0, False),
        (normal(), None, False),
        (3 * normal(), None, True),
        (normal(4, 4), None, None),
        (np.full((48, 96), np.nan), 0.5, None),
        (np.ones((48, 96), np.int64), 0.5, None),
    ],
)
def test_when_values_tell_of_training(weight: NDArray, bias: float | None, expected: bool | None) -> None:
    assert shows_training(layer(weight, bias)) is expected


def norm(gain: Any) -> Layer:
    roles = {"weight": gain, "bias": 0.5, "running_mean": 0.1, "running_var": 0.5}
    return build_checkpoint({f"norm.{role}": np.resize(np.asarray(each), 8) for role, each in roles.items()}).layers[0]


def test_a_norm_was_trained_where_its_gains_differ() -> None:
    assert shows_training(norm([1.0, 1.5])) is True
    assert shows_training(norm(0.5)) is False


# By one library


@pytest.mark.parametrize(
    ("weight", "bias", "expected"),
    [
        (even() / sqrt(COLUMNS), 1 / sqrt(COLUMNS), True),
        (even() / sqrt(COLUMNS), (1 + 0.95e-5) / sqrt(COLUMNS), True),
        (even() / sqrt(COLUMNS), (1 + 1.05e-5) / sqrt(COLUMNS), False),
        (even() / sqrt(COLUMNS), 0.0, False),
        (even() / sqrt(COLUMNS), None, False),
        (1.1 * even() / sqrt(COLUMNS), 0.1, False),
        (even(1, 127) / sqrt(127), 0.05, False),
        (even(1, 128) / sqrt(128), 0.05, True),
        (even(32, 4, 3, 3) / 6, 0.1, True),
    ],
)
def test_draws_of_pytorch(weight: NDArray, bias: float | None, expected: bool) -> None:
    assert is_drawn_by_default(layer(weight, bias)) is expected


def kernel(weight: NDArray, name: str = "kernel") -> Layer:
    return build_checkpoint({f"dense.{name}": weight, "dense.bias": np.ones(weight.shape[-1])}).layers[0]


GLOROT, LECUN = sqrt(6 / (ROWS + COLUMNS)), sqrt(1 / ROWS)
CUT = 2 * LECUN / 0.87962566


def cut_off(power: float = 0.0, shift: float = 0.0) -> NDArray:
    """Numbers within ±1 in even steps of a normal distribution that is cut off at two deviations."""
    from statistics import NormalDist

    normal = NormalDist()
    shares = np.linspace(normal.cdf(-2), normal.cdf(2), DRAWS)
    values = np.array([normal.inv_cdf(each) for each in shares]) / 2
    values = np.sign(values) * np.abs(values) ** (1 + power)
    values = values + shift * (1 - values**2)
    return np.random.default_rng(0).permutation(values).reshape(SHAPE)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (kernel(even() * GLOROT), True),
        (kernel(even() * GLOROT * 1.02), False),
        (kernel(even() * GLOROT, "weight"), False),
        (kernel(cut_off() * CUT), True),
        (kernel(cut_off() * CUT * (1 - 0.95 * 44 / DRAWS)), True),
        (kernel(cut_off() * CUT * (1 - 1.05 * 44 / DRAWS)), False),
        (kernel(cut_off() * CUT * (1 + 1.05e-5)), False),
        (kernel(cut_off() * CUT / sqrt(2)), False),
        (kernel(cut_off()[:, :2] * CUT), False),
        (kernel(np.full(SHAPE, np.nan)), False),
        (kernel(even(3, 3, 16, 32) * sqrt(6 / (9 * 48))), True),
        (kernel(even(3, 3, 16, 32) * sqrt(6 / 48)), False),
        (kernel(even(8, 15) * sqrt(6 / 23)), False),
        (kernel(even(8, 16) * sqrt(6 / 24)), True),
    ],
)
def test_draws_of_keras_and_flax(layer: Layer, expected: bool) -> None:
    assert is_drawn_by_kernel_default(layer) is expected


@pytest.mark.parametrize(("times", "expected"), [(0.99, True), (1.01, False)])
def test_mean_and_variance_of_draws_of_flax(times: float, expected: bool) -> None:
    mean = times * 4 * LECUN / sqrt(DRAWS)
    weight = solve(lambda size: cut_off(shift=size) * CUT, lambda values: float(values.mean()), mean, 0.5)
    assert is_drawn_by_kernel_default(kernel(weight)) is expected
    variance = 1 - times * 4 * sqrt(1.37) / sqrt(DRAWS)
    weight = solve(
        lambda size: cut_off(power=size) * CUT, lambda values: -float(values.var()) / LECUN**2, -variance, 0.5
    )
    assert is_drawn_by_kernel_default(kernel(weight)) is expected


def test_a_layer_without_a_matrix_is_no_draw() -> None:
    assert not is_drawn_by_default(build_checkpoint({"net.0.bias": np.ones(8)}).layers[0])
    assert not is_drawn_by_transformers(build_checkpoint({"net.0.bias": np.ones(8)}).layers[0])


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (0.02 * normal(7, 9), False),
        (0.02 * normal(8, 8), True),
        (0.02 * normal() * (1 + 3.9 / sqrt(2 * DRAWS)), True),
        (0.02 * normal() * (1 + 4.1 / sqrt(2 * DRAWS)), False),
        (0.02 * normal() * (1 - 3.9 / sqrt(2 * DRAWS)), True),
        (0.02 * normal() * (1 - 4.1 / sqrt(2 * DRAWS)), False),
        (0.02 * (normal() + 3.9 / sqrt(DRAWS)), True),
        (0.02 * (normal() + 4.1 / sqrt(DRAWS)), False),
        (0.02 * (normal() - 4.1 / sqrt(DRAWS)), False),
        (np.full(SHAPE, np.nan), False),
    ],
)
def test_draws_of_transformers(weight: NDArray, expected: bool) -> None:
    assert is_drawn_by_transformers(layer(weight)) is expected


def rotation(rows: int, columns: int) -> NDArray:
    side = np.linalg.qr(np.random.default_rng(0).normal(size=(max(rows, columns), min(rows, columns))))[0]
    return side if rows >= columns else side.T


def turned(error: float, rows: int = 20, columns: int = 30) -> NDArray:
    """An orthogonal matrix whose last two rows have this product."""
    matrix = rotation(rows, columns)
    matrix[-1] += error * matrix[-2]
    return matrix


@pytest.mark.parametrize(
    ("matrices", "expected"),
    [
        ([rotation(20, 30)], True),
        ([rotation(30, 20)], True),
        ([3 * rotation(20, 30)], True),
        ([rotation(2, 30)], True),
        ([rotation(20, 30)[:1]], False),
        ([turned(0.95e-5)], True),
        ([turned(1.05e-5)], False),
        ([turned(0.95e-5).astype(np.float32)], True),
        ([rotation(20, 30) * np.linspace(1, 1.01, 20)[:, np.newaxis]], False),
        ([rotation(30, 20) * np.linspace(1, 1.01, 20)], False),
        ([rotation(20, 30), normal()], False),
        ([rotation(20, 30), normal()[:1]], True),  # a single row is always orthogonal
        ([np.zeros((20, 30))], False),
        ([turned(1.9e-3).astype(np.float16)], True),
        ([turned(4e-3).astype(np.float16)], False),
        ([np.ones((20, 30), np.int64)], False),
    ],
)
def test_orthogonal_matrices(matrices: list[NDArray], expected: bool) -> None:
    tensors = {f"net.{number}.weight": each for number, each in enumerate(matrices)}
    assert is_drawn_orthogonally(build_checkpoint(tensors)) is expected


def test_a_file_without_layers_was_not_drawn() -> None:
    assert not is_drawn_orthogonally(build_checkpoint({"norm.weight": np.ones(8)}))


def gains(mean: float = 0.5, variance: float = 1 / 12, *, least: float = 0.0, largest: float = 1.0) -> NDArray:
    """A hundred and two numbers of this mean and variance, with these limits."""
    values = standardised(np.linspace(-1, 1, 100)) * sqrt(variance) + mean
    ends: NDArray = np.clip(values, 0, 1)
    return np.concatenate([ends, [least, largest]])


def batch_norm(gain: NDArray, bias: float = 0.0) -> Layer:
    roles = {"weight": gain, "bias": bias, "running_mean": 0.1, "running_var": 0.5}
    return build_checkpoint({f"norm.{role}": np.resize(each, gain.size) for role, each in roles.items()}).layers[0]


@pytest.mark.parametrize(
    ("gain", "bias", "expected"),
    [
        (gains(), 0.0, True),
        (gains(), 0.1, False),
        (gains(least=-0.001), 0.0, False),
        (gains(largest=1.001), 0.0, False),
        (gains(0.60, 0.05), 0.0, True),
        (gains(0.63, 0.05), 0.0, False),
        (gains(0.40, 0.05), 0.0, True),
        (gains(0.37, 0.05), 0.0, False),
        (gains(variance=0.054), 0.0, True),
        (gains(variance=0.045), 0.0, False),
    ],
)
def test_gains_of_old_pytorch(gain: NDArray, bias: float, expected: bool) -> None:
    each = batch_norm(gain, bias)
    assert each.weight
    assert is_drawn_uniformly(each, each.weight) is expected


def test_gains_that_are_not_finite_were_not_drawn() -> None:
    each = batch_norm(np.full(100, np.nan))
    assert each.weight
    assert not is_drawn_uniformly(each, each.weight)


def network(**changed: Any) -> dict[str, NDArray]:
    """Two linear layers and two norms of a network that was never trained, but for what is changed."""
    tensors = {
        "net.0.weight": 3 * normal(16, 16), "net.0.bias": np.zeros(16),
        "norm1.weight": np.ones(16), "norm1.bias": np.zeros(16),
        "net.2.weight": 3 * normal(16, 16), "norm2.weight": np.full(16, 0.5), "norm2.bias": np.zeros(16),
    }  # fmt: skip
    return {**tensors, **{name.replace("_", "."): each for name, each in changed.items()}}


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        (network(), True),
        (network(net_0_bias=np.ones(16)), False),
        (network(net_0_weight=even(16, 16) / 4), False),  # PyTorch's default, which draws biases
        (network(norm2_weight=np.linspace(0.5, 1, 16)), False),
        (network(norm2_weight=np.ones(4), norm2_bias=np.zeros(4)), True),
        (network(norm2_weight=np.ones(3), norm2_bias=np.zeros(3)), False),
        (network(norm3_weight=np.ones(16)), True),
        ({name: each for name, each in network().items() if "norm2" not in name}, False),
        ({name: each for name, each in network().items() if "norm" not in name}, False),
    ],
)
def test_norms_and_biases_as_they_begin(tensors: dict[str, NDArray], expected: bool) -> None:
    assert has_initial_norms_and_biases(build_checkpoint(tensors)) is expected


@pytest.mark.parametrize(
    ("dtype", "error", "expected"),
    [("float16", 2.1e-3, False), ("float32", 1.05e-5, False), ("float32", 0.9e-5, True)],
)
def test_orthogonal_matrices_of_each_type(dtype: str, error: float, expected: bool) -> None:
    """The last two of four unit vectors, which every type holds exactly, have this product."""
    matrix = np.eye(4, 6)
    matrix[3, 2] = error
    assert is_drawn_orthogonally(build_checkpoint({"net.0.weight": matrix.astype(dtype)})) is expected


def test_a_layer_of_a_vector_is_no_matrix() -> None:
    assert is_drawn_orthogonally(build_checkpoint({"net.0.weight": rotation(20, 30), "net.2.weight": np.ones(9)}))
