"""Every limit of every rule, from both sides: just below it the rule is calm, just at or above it speaks up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers.gradients import live
from checkpoint_doctor.builtin.analyzers.layers import (
    copies,
    inputs,
    network,
    norm_gains,
    norm_statistics,
    recurrent,
    unused_rows,
)
from checkpoint_doctor.builtin.analyzers.layers import dormant_units as silence
from checkpoint_doctor.builtin.analyzers.optimizer import (
    gradient_norms,
    gradients,
    initial_values,
    optimizer,
    second_moments,
    step_sizes,
)
from checkpoint_doctor.builtin.analyzers.resuming import resuming, schedules
from checkpoint_doctor.builtin.analyzers.settings import optimizer_settings, policy
from checkpoint_doctor.builtin.analyzers.values import constants, extremes, weight_scale, zeros
from checkpoint_doctor.checkpoint import Checkpoint, Content, Part
from checkpoint_doctor.checkpoint.gradients import Gradients
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.testing import build_checkpoint, findings_of

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
Weights = dict[str, NDArray]


def draw(*shape: int, seed: int = 0) -> NDArray:
    """Weights between 0.02 and 1 of either sign: no zeros, no giants, no rows alike, of no special distribution."""
    random = np.random.default_rng(seed)
    return (random.uniform(0.02, 1, size=shape) * random.choice([-1, 1], size=shape)).astype(np.float32)


def same(shape: tuple[int, ...], magnitude: float) -> NDArray:
    """Entries of one magnitude and both signs."""
    return (np.sign(draw(*shape)) * magnitude).astype(np.float32)


def with_entries(array: NDArray, *entries: float) -> NDArray:
    """The array with its first entries replaced."""
    new = array.copy()
    new.reshape(-1)[: len(entries)] = entries
    return new


def with_zeros(count: int, *shape: int, seed: int = 0) -> NDArray:
    """A matrix with zeros on its diagonals, so that no row and no column is zero throughout."""
    matrix = draw(*shape, seed=seed)
    for number in range(count):
        row = number % shape[0]
        matrix[row, (row + number // shape[0]) % shape[1]] = 0
    return matrix


def with_zero_rows(count: int, *shape: int, seed: int = 0) -> NDArray:
    """A matrix with zero rows at its beginning."""
    matrix = draw(*shape, seed=seed)
    matrix[:count] = 0
    return matrix


def with_small(count: int, magnitude: float) -> NDArray:
    """300 weights of either sign with a median magnitude of 1, so many of which have this one."""
    small, middle, large = np.full(count, magnitude), np.linspace(0.5, 0.999, 150 - count), np.linspace(1.001, 2, 150)
    weights: NDArray = np.concatenate([small, middle, large]) * np.resize([1, -1], 300)
    return weights


def on_grid(levels: int, count: int) -> NDArray:
    """So many weights of either sign with so many distinct magnitudes, evenly from 0.06 to 1."""
    signs = np.where(np.arange(count) // levels % 2, -1, 1)
    return np.resize(np.linspace(0.06, 1, levels), count) * signs


def sparse(weights: NDArray) -> Weights:
    """A layer of 20 columns in which a quarter of the places is zero at random, and these weights are in the others."""
    size = -(-weights.size * 4 // 3 // 20) * 20
    matrix = np.zeros(size)
    matrix[np.sort(np.random.default_rng(0).permutation(size)[: weights.size])] = weights
    return stack(matrix.reshape(-1, 20))


def stack(*matrices: NDArray) -> Weights:
    """A network of linear layers."""
    return {f"net.{2 * number}.weight": matrix for number, matrix in enumerate(matrices)}


def with_biases(layers: int, zero: int) -> Weights:
    """A network of layers, the first so many of which have a bias of zeros."""
    return {
        name: array
        for number in range(layers)
        for name, array in {
            f"net.{2 * number}.weight": draw(8, 8, seed=number),
            f"net.{2 * number}.bias": np.zeros(8, np.float32) if number < zero else draw(8, seed=number),
        }.items()
    }


def layer_norm(gain: NDArray) -> Weights:
    return {"norm.weight": gain.astype(np.float32), "norm.bias": np.full(gain.size, 0.5, np.float32)}


def batch_norms(*zeros: int, bias: float = 0.5, size: int = 10, last: float = 1.5) -> Weights:
    """Batch norms with so many zero gains each, the others 1.5 but for the last."""
    return {
        name: np.asarray(array, np.float32)
        for number, count in enumerate(zeros)
        for name, array in {
            f"stage{number}.bn.weight": [0.0] * count + [1.5] * (size - count - 1) + [last],
            f"stage{number}.bn.bias": [bias] * size,
            f"stage{number}.bn.running_mean": [0.5] * size,
            f"stage{number}.bn.running_var": [0.5] * size,
        }.items()
    }


def rms_norms(*means: float) -> Weights:
    """RMS norms of four gains, one of which is zero and the others this number and twice this number."""
    return {
        f"model.layers.{number}.input_layernorm.weight": np.array([0, mean, 2 * mean, mean], np.float32)
        for number, mean in enumerate(means)
    } | {f"model.layers.{number}.mlp.up_proj.weight": draw(4, 4, seed=number) for number in range(len(means))}


def untouched_statistics(gain: NDArray, batches: int = 0) -> Weights:
    """A batch norm whose running statistics are those of the start, under a gain and a bias of zeros."""
    size = gain.size
    return {
        "bn.weight": gain.astype(np.float32),
        "bn.bias": np.zeros(size, np.float32),
        "bn.running_mean": np.zeros(size, np.float32),
        "bn.running_var": np.ones(size, np.float32),
        "bn.num_batches_tracked": np.array(batches),
    }


def with_mean(mean: float) -> NDArray:
    """A hundred numbers from 0 to 1 with this mean and about the variance of a uniform draw."""
    spread: NDArray = np.linspace(0, 1, 100) ** (1 / mean - 1)
    return spread + (mean - spread.mean()) * 4 * spread * (1 - spread) / (4 * spread * (1 - spread)).mean()


def near_dcgan(mean: float, deviation: float = 0.02) -> NDArray:
    """A hundred gains of exactly this mean and deviation."""
    normal = np.random.default_rng(0).normal(size=100)
    gain: NDArray = mean + deviation * (normal - normal.mean()) / normal.std()
    return gain


def lstm(
    *, recurrent_scale: float | None = None, nilpotent: float | None = None, bias: tuple[float, ...] = ()
) -> Weights:
    """An LSTM of eight units; its forget gate has this multiple of the identity, this entry alone, or these biases."""
    weights = {
        "lstm.weight_ih_l0": draw(32, 5),
        "lstm.weight_hh_l0": draw(32, 8, seed=1),
        "lstm.bias_ih_l0": draw(32, seed=2),
        "lstm.bias_hh_l0": np.full(32, 0.25, np.float32),
    }
    if recurrent_scale is not None:
        weights["lstm.weight_hh_l0"][8:16] = recurrent_scale * np.eye(8)
    if nilpotent is not None:
        weights["lstm.weight_hh_l0"][8:16] = nilpotent * np.eye(8, k=7)
    for unit, value in enumerate(bias):
        weights["lstm.bias_ih_l0"][8 + unit] = value - 0.25
    return weights


def diagonal(*entries: float, size: int = 20) -> NDArray:
    """A square matrix with these singular values."""
    matrix = np.zeros((size, size), np.float32)
    matrix[range(len(entries)), range(len(entries))] = entries
    return matrix


def rank_one(*shape: int) -> NDArray:
    return np.outer(draw(shape[0]), draw(shape[1], seed=1)).astype(np.float32)


def repeated_row(columns: int, kind: Any) -> NDArray:
    matrix = draw(64, columns).astype(kind)
    matrix[0] = matrix[1] = np.linspace(0.25, 0.75, columns).astype(kind)
    unique: NDArray = np.concatenate([matrix[:2], np.unique(matrix[2:], axis=0)])
    return unique


def embedding(*rows: int) -> Weights:
    table = draw(50, 8)
    table[list(rows)] = 0
    return {"embedding.weight": table}


def near_transformers(deviation: float, mean: float, shape: tuple[int, int] = (64, 64)) -> Weights:
    """A layer with a zero bias whose weight has exactly this deviation and mean."""
    normal = np.random.default_rng(0).normal(size=shape)
    weight = deviation * (normal - normal.mean()) / normal.std() + mean
    return {"net.0.weight": weight, "net.0.bias": np.zeros(shape[0]), "net.2.weight": draw(8, shape[0])}


def near_orthogonal(deviation: float) -> Weights:
    """A layer with a zero bias whose last two rows are orthogonal but for this."""
    weight = np.eye(12)
    weight[-1, -2] = deviation
    return {"net.0.weight": weight, "net.0.bias": np.zeros(12)}


def small_head(largest: float) -> Weights:
    """A network whose output layer has a zero bias beside weights of at most this."""
    weight = np.sign(draw(3, 8).astype(np.float64)) * largest
    return stack(draw(8, 4)) | {"action_net.weight": weight, "action_net.bias": np.zeros(3)}


def trained(
    weights: Weights,
    ratios: Mapping[str, NDArray] | None = None,
    *,
    step: int = 1000,
    second: Mapping[str, NDArray] | None = None,
    **options: Any,
) -> Checkpoint:
    """A checkpoint whose Adam has second moments of 1 (or those given), and first moments by their ratio to the root.

    A ratio has one number a row, or the tensor's shape; a second moment that is given has the tensor's shape.
    """
    state = {}
    for name, array in weights.items():
        squares = np.ones(array.shape) if second is None or name not in second else second[name]
        rows = np.ones(array.shape[0]) if ratios is None or name not in ratios else ratios[name]
        first = np.sqrt(squares) * (rows if rows.ndim > 1 else rows.reshape(-1, *[1] * (array.ndim - 1)))
        state[name] = {"step": step, "exp_avg": first, "exp_avg_sq": squares}
    return build_checkpoint(weights, optimizer=state, updates=step, **options)


def with_silent(
    count: int,
    units: int = 20,
    *,
    ratio: float = 1e-6,
    live: float = 1.0,
    step: int = 1000,
    never: bool = False,
    dead: bool = False,
) -> Checkpoint:
    """Two layers; of the first so many units have a first moment that has sunk to this share of the root.

    They are saturated, or dead: then the weights that read them have such a first moment too.
    """
    weights = stack(draw(units, 6), draw(4, units))
    ratios = np.full(units, live)
    ratios[:count] = ratio
    squares = np.ones((units, 6))
    if never:
        squares[:count] = 0
    read = np.tile(ratios if dead else np.ones(units), (4, 1))
    return trained(weights, {"net.0.weight": ratios, "net.2.weight": read}, second={"net.0.weight": squares}, step=step)


def with_inputs(size: float, dormant: int = 0, ratio: float = 1e-6) -> Checkpoint:
    """Two layers whose inputs have this size; so many of the first one's 20 units have this ratio of moments."""
    weights = {f"net.{place}.{role}": draw(*shape) for place, role, shape in (
        (0, "weight", (20, 6)), (0, "bias", (20,)), (2, "weight", (4, 20)), (2, "bias", (4,)),
    )}  # fmt: skip
    ratios = np.ones(20)
    ratios[:dormant] = ratio
    uneven = np.linspace(0.99, 1.01, 20)[:, np.newaxis] ** np.arange(6)
    squares = size**2 * uneven / uneven.mean(axis=0)
    return trained(weights, {"net.0.weight": ratios, "net.0.bias": ratios}, second={"net.0.weight": squares})


def with_untrained_branch(steps: int) -> Checkpoint:
    weights = stack(draw(4, 4), draw(4, 4))
    return trained(weights, second={"net.0.weight": np.zeros((4, 4))}, step=steps)


def without_gradient(steps: int) -> Checkpoint:
    return trained(stack(draw(4, 4)), second={"net.0.weight": np.zeros((4, 4))}, step=steps)


def with_step(ratio: float, steps: int = 1000) -> Checkpoint:
    """A matrix of ones that Adam's next step changes by this share."""
    rate = ratio * (1 - 0.9**steps) / (1 - 0.999**steps) ** 0.5
    return trained(
        stack(same((4, 4), 1.0)), step=steps, optimizer_options={"lr": rate, "betas": (0.9, 0.999), "eps": 0.0}
    )


def with_initial_gains(steps: int) -> Checkpoint:
    """A norm under gradients whose gain and bias are the initial ones, at a learning rate of 0."""
    weights = {"norm.weight": np.ones(8, np.float32), "norm.bias": np.zeros(8, np.float32)}
    return trained(weights, step=steps, optimizer_options={"lr": 0.0, "betas": (0.9, 0.999), "eps": 1e-8})


def with_gradient_norm(norm: float) -> Checkpoint:
    """An optimizer whose clipped gradients had this norm on average; the clip is at 0.5."""
    squares = np.full((4, 4), norm**2 * (1 - 0.999**1000) / 16)
    weights = stack(draw(4, 4))
    return trained(weights, second={"net.0.weight": squares}, hyperparameters={"max_grad_norm": 0.5})


def with_gradients_below_epsilon(count: int) -> Checkpoint:
    """A hundred gradients, so many of which are a thousandth of the optimizer's ε."""
    squares = np.ones(100)
    squares[:count] = 1e-22
    return trained(stack(draw(10, 10)), second={"net.0.weight": squares.reshape(10, 10)})


def with_entropy_coefficient(value: float) -> Checkpoint:
    return build_checkpoint({**stack(draw(4, 4)), "log_ent_coef": np.log([value])})


def with_target(cosine: float) -> Weights:
    """A critic and its target network, whose weights have this cosine."""
    online, other = draw(8, 8).astype(np.float64), draw(8, 8, seed=1).astype(np.float64)
    other -= online * (online * other).sum() / (online * online).sum()
    other *= np.linalg.norm(online) / np.linalg.norm(other)
    target = cosine * online + np.sqrt(1 - cosine**2) * other
    return {"critic.qf0.0.weight": online, "critic_target.qf0.0.weight": target}


def on_coarse_grid(steps: float) -> NDArray:
    """A matrix of multiples of 0.01 whose RMS is this many steps."""
    multiples = np.round(draw(16, 16).astype(np.float64) * 1000)
    magnitudes = np.round(np.abs(multiples) * steps / np.sqrt(np.square(multiples).mean()))
    return (np.sign(multiples) * magnitudes * 0.01).astype(np.float32)


def with_unused_rows(count: int, rows: int, *, ratio: float = 0.0, name: str = "embedding.weight") -> Checkpoint:
    """A table or a head, so many of whose rows have a second moment of this share of the others', as a root."""
    weights = {"net.0.weight": draw(6, 5), name: draw(rows, 6)}
    squares = np.ones((rows, 6))
    squares[rows - count :] = ratio**2
    return trained(weights, second={name: squares})


def with_unused_states(count: int) -> Checkpoint:
    """An LSTM of eight units, so many of whose hidden states no gate reads."""
    squares = np.ones((32, 8))
    squares[:, :count] = 0
    return trained(lstm(), second={"lstm.weight_hh_l0": squares})


def smaller_than_its_step(share: float) -> Checkpoint:
    """A matrix whose RMS is this share of its last update, beside one of ordinary size."""
    step = 0.01 * (1 - 0.999**1000) ** 0.5 / (1 - 0.9**1000)
    options = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 0.0}
    return trained(stack(same((8, 8), share * step), draw(4, 8)), optimizer_options=options)


def initial(*shape: int) -> NDArray:
    """A weight that is evenly spread within ±1/√fan_in."""
    limit = shape[1] ** -0.5
    values: NDArray = np.random.default_rng(0).permutation(np.linspace(-limit, limit, shape[0] * shape[1]))
    return values.reshape(shape).astype(np.float32)


def with_initial_target(updates: int) -> Checkpoint:
    """A target network as initialised, whose online network has grown by half."""
    target = initial(64, 64)
    online = {"critic.qf0.0.weight": 1.5 * target}
    state = {name: {"step": updates, "exp_avg": each, "exp_avg_sq": each**2} for name, each in online.items()}
    return build_checkpoint({**online, "critic_target.qf0.0.weight": target}, optimizer=state)


def with_small_gradients(step: float, epsilon: float = 1e-8) -> Checkpoint:
    """Gradients so far below ε that Adam's steps are this share of the learning rate."""
    correction = 1 - 0.999**1000
    ratio = step / correction**0.5 * (1 - 0.9**1000)
    squares = np.full((8, 8), (ratio * epsilon / (1 - step)) ** 2 * correction)
    options = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": epsilon}
    return trained(stack(draw(8, 8)), second={"net.0.weight": squares}, optimizer_options=options)


def with_lost_squares(count: int) -> Checkpoint:
    """A hundred first moments in float16, so many of which have a second moment of zero."""
    squares = np.ones(100, np.float16)
    squares[:count] = 0
    state = {"step": 300, "exp_avg": np.ones((10, 10), np.float16), "exp_avg_sq": squares.reshape(10, 10)}
    return build_checkpoint(stack(draw(10, 10)), optimizer={"net.0.weight": state})


def with_bias_gradient(norm: float) -> Checkpoint:
    """A layer under whose bias gradients have this norm, and a million times that under its weight."""
    squares = np.full(4, norm**2 * (1 - 0.999**1000) / 4)
    second = {"net.0.bias": squares, "net.0.weight": np.full((4, 4), 1e12 * squares[0])}
    return trained(stack(draw(4, 4)) | {"net.0.bias": draw(4)}, second=second)


def with_initial_weight(outside: int, steps: int = 1000) -> Checkpoint:
    """A weight as initialised beside one of which so many entries have left the initial interval."""
    return trained(stack(initial(16, 16), with_entries(initial(16, 16), *[0.5] * outside)), step=steps)


def with_options(kind: str | None = None, **options: Any) -> Checkpoint:
    """An optimizer with these settings; one of an agent where no kind is given."""
    settings = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, **options}
    if kind == "SGD":
        del settings["betas"]
    agent = {"format": "sb3", "algorithm": "PPO"} if kind is None else {"optimizer_kind": kind}
    return trained(stack(draw(8, 8)), optimizer_options=settings, **agent)


def with_schedule(rate: float) -> Checkpoint:
    """An exponential schedule that has lowered the learning rate from 1 to this."""
    fields = {"gamma": 0.9, "base_lrs": [1.0], "last_epoch": 1000, "_step_count": 1001, "_last_lr": [rate]}
    options = {"lr": rate, "betas": (0.9, 0.999), "eps": 1e-8}
    parts = [Part("scheduler", Content.SCHEDULER, fields)]
    return trained(stack(draw(8, 8)), optimizer_options=options, parts=parts)


def with_counter(count: int) -> Checkpoint:
    """An optimizer of ten updates in a file that counts so many steps."""
    return trained(stack(draw(8, 8)), step=10, counters={"step": count})


def while_training(step: int = 1000, **shown: Any) -> Checkpoint:
    """A layer with 100 inputs in a training loop that shows this of its gradients."""
    gradients = Gradients("optimizer", steps=step, **shown)
    return replace(trained(stack(draw(8, 100)), step=step), gradients=(gradients,))


def with_loss_scale(scale: float) -> Checkpoint:
    parts = [Part("scaler", Content.LOSS_SCALER, {"scale": scale, "growth_factor": 2.0})]
    return build_checkpoint(stack(draw(8, 8)), parts=parts)


@dataclass(frozen=True)
class Edge:
    """A limit from both sides."""

    rule: Rule
    calm: Weights | Checkpoint
    """Just on the side where the rule is silent or of the lower severity."""
    loud: Weights | Checkpoint
    severity: Severity
    """On the loud side."""
    lower: Severity | None = None
    """On the calm side; ``None`` for silence."""
    option: str = ""
    """The option that sets the limit; empty for a limit that cannot be set."""
    moved: Any = None
    """Value of the option with which the loud side is as calm as the other."""


EDGES: Mapping[str, Edge] = {
    # Values
    "gain": Edge(
        extremes.exploded_values, stack(same((4, 10_000), 2)), stack(same((4, 10_000), 2.001)), WARNING,
        option="gain", moved=201,
    ),
    "wide": Edge(
        extremes.exploded_values, stack(same((16, 225), 4)), stack(same((16, 226), 4)), WARNING,
        option="wide", moved=60.5,
    ),
    "wide beyond what code scales": Edge(
        extremes.exploded_values, stack(same((16, 900), 3)), stack(same((16, 900), 3.01)), WARNING
    ),
    "largest weight": Edge(
        extremes.exploded_values,
        stack(with_entries(draw(16, 16), 100)), stack(with_entries(draw(16, 16), 100.01)), WARNING,
        option="weight", moved=101,
    ),
    "largest bias": Edge(
        extremes.exploded_values,
        stack(draw(8, 8)) | {"net.0.bias": with_entries(draw(8), 1000)},
        stack(draw(8, 8)) | {"net.0.bias": with_entries(draw(8), 1000.1)},
        WARNING, option="vector", moved=1001,
    ),
    "certainly too large": Edge(
        extremes.exploded_values,
        stack(draw(8, 8)) | {"net.0.bias": with_entries(draw(8), 1e6)},
        stack(draw(8, 8)) | {"net.0.bias": with_entries(draw(8), 1e6 + 1)},
        ERROR, WARNING, option="certain", moved=1e7,
    ),
    "spike": Edge(
        extremes.value_spike,
        stack(with_entries(same((8, 8), 1), 10)), stack(with_entries(same((8, 8), 1), 10.01)), WARNING,
        option="ratio", moved=11,
    ),
    "spike in a small tensor": Edge(
        extremes.value_spike,
        stack(with_entries(same((31, 1), 1), 30)), stack(with_entries(same((32, 1), 1), 30)), WARNING,
        option="smallest", moved=33,
    ),
    "one spike in 10,000 values": Edge(
        extremes.value_spike,
        stack(with_entries(same((7, 2857), 1), 30, 30)), stack(with_entries(same((8, 2500), 1), 30, 30)), WARNING,
    ),
    "near the end of float16": Edge(
        extremes.near_overflow,
        {"scale": np.array([1, 59_968], np.float16)}, {"scale": np.array([1, 60_000], np.float16)}, WARNING,
        option="limit", moved=60_032,
    ),
    "constant of three entries": Edge(
        constants.constant_tensor, stack(np.full((3, 1), 0.5)), stack(np.full((2, 2), 0.5)), WARNING
    ),
    "vanished beside its fan-in": Edge(
        weight_scale.vanished_values,
        stack(same((8, 40_000), 0.51e-8), draw(4, 8)), stack(same((8, 40_000), 0.49e-8), draw(4, 8)), WARNING,
        option="gain", moved=0.97e-6,
    ),
    "vanished": Edge(
        weight_scale.vanished_values,
        stack(same((8, 8), 1.01e-8), draw(4, 8)), stack(same((8, 8), 0.99e-8), draw(4, 8)), WARNING,
        option="rms", moved=0.98e-8,
    ),
    "all but one vanished": Edge(
        weight_scale.vanished_values,
        stack(same((8, 8), 1e-9), draw(4, 8)), stack(same((8, 8), 1e-9), same((4, 8), 1e-9)), ERROR, WARNING,
    ),
    "smaller than its last step": Edge(
        weight_scale.vanished_values, smaller_than_its_step(0.0101), smaller_than_its_step(0.0099), WARNING,
        option="steps", moved=0.0098,
    ),
    "steps of a grid": Edge(
        weight_scale.gridded_values, stack(on_coarse_grid(257), draw(8, 16)),
        stack(on_coarse_grid(255), draw(8, 16)), NOTE,
        option="steps", moved=254,
    ),
    "a small matrix on a grid": Edge(
        weight_scale.gridded_values,
        stack(on_coarse_grid(50)[:7, :9], draw(8, 16)), stack(on_coarse_grid(50)[:8, :8], draw(8, 16)), NOTE,
        option="smallest", moved=65,
    ),
    "all but one on a grid": Edge(
        weight_scale.gridded_values,
        stack(on_coarse_grid(50), draw(8, 16)), stack(on_coarse_grid(50), on_coarse_grid(40)), WARNING, NOTE
    ),
    # Zeros
    "scattered zeros": Edge(
        zeros.partial_zeros, stack(with_zeros(9, 10, 10)), stack(with_zeros(10, 10, 10)), WARNING,
        option="warning", moved=0.11,
    ),
    "many scattered zeros": Edge(
        zeros.partial_zeros,
        trained(stack(with_zeros(29, 10, 10))), trained(stack(with_zeros(30, 10, 10))), ERROR, WARNING,
        option="error", moved=0.31,
    ),
    "scattered zeros in a small matrix": Edge(
        zeros.partial_zeros, stack(with_zeros(3, 3, 5)), stack(with_zeros(3, 4, 4)), WARNING
    ),
    "pruned: half of the layers": Edge(
        zeros.partial_zeros,
        stack(*[with_zeros(15, 10, 10)] * 3, *[draw(10, 10)] * 3),
        stack(*[with_zeros(15, 10, 10)] * 3, *[draw(10, 10)] * 4),
        WARNING, NOTE,
    ),
    "pruned: two layers": Edge(
        zeros.partial_zeros, stack(*[with_zeros(15, 10, 10)] * 2), stack(with_zeros(15, 10, 10)), WARNING, NOTE
    ),
    "pruned: a share that is noticeable": Edge(
        zeros.partial_zeros,
        stack(with_zeros(15, 10, 10), with_zeros(5, 10, 10)), stack(with_zeros(15, 10, 10), with_zeros(4, 10, 10)),
        WARNING, NOTE,
    ),
    "pruned: layers of 64 weights": Edge(
        zeros.partial_zeros,
        stack(with_zeros(15, 10, 10), with_zeros(15, 8, 8)), stack(with_zeros(15, 10, 10), with_zeros(15, 9, 7)),
        WARNING, NOTE,
    ),
    "few small weights": Edge(
        zeros.partial_zeros, sparse(with_small(18, 0.24)), sparse(with_small(19, 0.24)), WARNING, NOTE
    ),
    "weights below a quarter of the median": Edge(
        zeros.partial_zeros, sparse(with_small(19, 0.251)), sparse(with_small(19, 0.249)), WARNING, NOTE
    ),
    "many tiny weights": Edge(
        zeros.partial_zeros, sparse(with_small(31, 0.04)), sparse(with_small(30, 0.04)), WARNING, NOTE
    ),
    "weights below a twentieth of the median": Edge(
        zeros.partial_zeros, sparse(with_small(31, 0.0499)), sparse(with_small(31, 0.0501)), WARNING, NOTE
    ),
    "weights on a grid": Edge(
        zeros.partial_zeros, sparse(on_grid(16, 300)), sparse(on_grid(17, 300)), WARNING, NOTE
    ),
    "weights enough to show a grid": Edge(
        zeros.partial_zeros, sparse(on_grid(4, 64)), sparse(on_grid(4, 63)), WARNING, NOTE
    ),
    "weights of one sign": Edge(
        zeros.partial_zeros,
        sparse(np.abs(with_small(20, 0.1))), sparse(with_entries(np.abs(with_small(20, 0.1)), -0.1)), WARNING, NOTE,
    ),
    "zero biases: more than half": Edge(
        zeros.bias_collapse, build_checkpoint(with_biases(8, 4)), build_checkpoint(with_biases(8, 5)), WARNING,
        option="share", moved=0.65,
    ),
    "zero biases: three": Edge(
        zeros.bias_collapse, build_checkpoint(with_biases(2, 2)), build_checkpoint(with_biases(3, 3)), WARNING,
        option="fewest", moved=4,
    ),
    "deviation of transformers' weights": Edge(
        zeros.zero_bias, near_transformers(0.02088, 0), near_transformers(0.02089, 0), WARNING
    ),
    "mean of transformers' weights": Edge(
        zeros.zero_bias, near_transformers(0.02, 0.00124), near_transformers(0.02, 0.00126), WARNING
    ),
    "size of transformers' weights": Edge(
        zeros.zero_bias, near_transformers(0.02, 0, (64, 1)), near_transformers(0.02, 0, (63, 1)), WARNING
    ),
    "orthogonal weights": Edge(zeros.zero_bias, near_orthogonal(9.9e-6), near_orthogonal(1.01e-5), NOTE),
    "weights of an output layer": Edge(zeros.zero_bias, small_head(0.003), small_head(0.0031), WARNING),
    # Norms
    "zero gains": Edge(
        norm_gains.norm_gain_zeros,
        trained(layer_norm(np.array([0.0] * 29 + [1.5] * 71))), trained(layer_norm(np.array([0.0] * 30 + [1.5] * 70))),
        ERROR, WARNING, option="error", moved=0.31,
    ),
    "gains that lead down to zero": Edge(
        norm_gains.norm_gain_zeros, batch_norms(2, last=0.0749), batch_norms(2, last=0.0751), WARNING, NOTE
    ),
    "dead channels": Edge(
        norm_gains.norm_gain_zeros, batch_norms(2, bias=0.00099), batch_norms(2, bias=0.00101), WARNING, NOTE
    ),
    "many dead channels": Edge(
        norm_gains.norm_gain_zeros, batch_norms(29, bias=0, size=100), batch_norms(30, bias=0, size=100),
        WARNING, NOTE,
    ),
    "slimmed: more than half of the norms": Edge(
        norm_gains.norm_gain_zeros, batch_norms(2, 2, 2, 0, 0), batch_norms(2, 2, 0, 0), WARNING, NOTE
    ),
    "slimmed: other layers do not matter": Edge(
        norm_gains.norm_gain_zeros,
        batch_norms(2, 2, 0) | stack(*[draw(8, 8)] * 4), batch_norms(2, 0, 0) | stack(*[draw(8, 8)] * 4), WARNING, NOTE,
    ),
    "slimmed: three norms": Edge(
        norm_gains.norm_gain_zeros, batch_norms(2, 2, 2), batch_norms(2, 2), WARNING, NOTE
    ),
    "zero-centred gains": Edge(
        norm_gains.norm_gain_zeros, rms_norms(-0.49), rms_norms(-0.51), WARNING
    ),
    "zero-centred gains of both signs": Edge(
        norm_gains.norm_gain_zeros, rms_norms(-0.1), rms_norms(0.1), WARNING
    ),
    "a norm of zeros beside zero-centred ones": Edge(
        norm_gains.norm_gain_zeros, rms_norms(0, -0.1), rms_norms(0, -0.1, -0.51), WARNING
    ),
    "largest gain": Edge(
        norm_gains.norm_gain_drift,
        layer_norm(np.array([20, *[1] * 9])), layer_norm(np.array([20.01, *[1] * 9])), NOTE,
        option="largest", moved=21,
    ),
    "negative gains": Edge(
        norm_gains.norm_gain_drift,
        layer_norm(np.array([-1] * 7 + [1] * 25)), layer_norm(np.array([-1] * 8 + [1] * 24)), NOTE,
        option="flipped", moved=0.26,
    ),
    "negative gains of a small norm": Edge(
        norm_gains.norm_gain_drift,
        layer_norm(np.array([-1] * 2 + [1] * 5)), layer_norm(np.array([-1] * 2 + [1] * 6)), NOTE,
    ),
    "mean of a uniform draw": Edge(
        norm_statistics.norm_statistics,
        untouched_statistics(with_mean(0.5 + 0.1150)), untouched_statistics(with_mean(0.5 + 0.1162)), WARNING,
    ),
    "variance of a uniform draw": Edge(
        norm_statistics.norm_statistics,
        untouched_statistics(0.5 + 0.80 * np.linspace(-0.5, 0.5, 100)),
        untouched_statistics(0.5 + 0.79 * np.linspace(-0.5, 0.5, 100)), WARNING,
    ),
    "mean of DCGAN's gains": Edge(
        norm_statistics.norm_statistics,
        untouched_statistics(near_dcgan(1.0199)), untouched_statistics(near_dcgan(1.0201)), WARNING,
    ),
    "deviation of DCGAN's gains": Edge(
        norm_statistics.norm_statistics,
        untouched_statistics(near_dcgan(1, 0.02565)), untouched_statistics(near_dcgan(1, 0.02567)), WARNING,
    ),
    "batches that moved nothing": Edge(
        norm_statistics.norm_statistics,
        untouched_statistics(np.ones(8)), untouched_statistics(np.ones(8), batches=1), WARNING,
    ),
    # Policies
    "smallest deviation": Edge(
        policy.log_std_range, {"log_std": np.array([-10, 0])}, {"log_std": np.array([-10.001, 0])}, WARNING,
        option="smallest", moved=-10.01,
    ),
    "largest deviation": Edge(
        policy.log_std_range, {"log_std": np.array([1.5, 0])}, {"log_std": np.array([1.501, 0])}, WARNING,
        option="largest", moved=1.51,
    ),
    "smallest entropy coefficient": Edge(
        policy.entropy_coefficient, with_entropy_coefficient(1.0001e-6), with_entropy_coefficient(0.99e-6), WARNING,
        option="smallest", moved=0.98e-6,
    ),
    "largest entropy coefficient": Edge(
        policy.entropy_coefficient, with_entropy_coefficient(9.9999), with_entropy_coefficient(10.01), WARNING,
        option="largest", moved=10.02,
    ),
    "unrelated target network": Edge(
        policy.target_network, with_target(0.201), with_target(0.199), ERROR, option="unrelated", moved=0.198
    ),
    "updates until a target should have followed": Edge(
        policy.target_network, with_initial_target(99), with_initial_target(100), WARNING,
        option="least_updates", moved=101,
    ),
    # Gates
    "saturated gates": Edge(
        recurrent.gate_saturation, lstm(bias=(15, -15)), lstm(bias=(15.01, -15.01)), WARNING, option="limit", moved=16
    ),
    "share of saturated gates": Edge(
        recurrent.gate_saturation, lstm(bias=(40,)), lstm(bias=(40, -40)), WARNING, option="share", moved=0.26
    ),
    "exploded recurrence": Edge(
        recurrent.recurrent_norm, lstm(recurrent_scale=50), lstm(recurrent_scale=50.01), WARNING,
        option="largest", moved=51,
    ),
    "collapsed recurrence": Edge(
        recurrent.recurrent_norm, lstm(recurrent_scale=0.00101), lstm(recurrent_scale=0.00099), WARNING,
        option="smallest", moved=0.0009,
    ),
    "recurrence whose powers vanish": Edge(
        recurrent.recurrent_norm, lstm(nilpotent=0.1005), lstm(nilpotent=0.0995), WARNING
    ),
    # Units
    "units cut off in half of the layers": Edge(
        network.disconnected_units,
        stack(*[with_zero_rows(1, 8, 8)] * 3, draw(8, 8)), stack(*[with_zero_rows(1, 8, 8)] * 2, *[draw(8, 8)] * 2),
        WARNING, NOTE,
    ),
    "units cut off in more layers than usual": Edge(
        network.disconnected_units,
        stack(*[draw(8, 8)] * 2, *[with_zero_rows(1, 8, 8)] * 3),
        stack(*[draw(8, 8)] * 2, *[with_zero_rows(1, 8, 8)] * 2),
        WARNING, NOTE, option="pruned", moved=0.39,
    ),
    "units cut off in all of four layers": Edge(
        network.disconnected_units,
        stack(*[with_zero_rows(1, 8, 8)] * 4), stack(*[with_zero_rows(1, 8, 8)] * 3), WARNING, NOTE,
    ),
    "nearly all units cut off": Edge(
        network.disconnected_units,
        stack(*[with_zero_rows(18, 20, 20)] * 4), stack(*[with_zero_rows(19, 20, 20)] * 4), WARNING, NOTE,
    ),
    "a few units without incoming weights": Edge(
        network.disconnected_units,
        stack(with_zero_rows(1, 50, 8), draw(8, 50)), stack(with_zero_rows(1, 49, 8), draw(8, 49)), WARNING, NOTE,
        option="few", moved=0.021,
    ),
    "padding row": Edge(network.disconnected_units, embedding(3), embedding(4), NOTE),
    "words without a vector": Edge(network.disconnected_units, embedding(4), embedding(4, 6), WARNING, NOTE),
    "copies of short rows in half precision": Edge(
        copies.duplicate_units,
        stack(repeated_row(3, np.float16)), stack(repeated_row(4, np.float16)), WARNING,
    ),
    "copies of short rows in bfloat16": Edge(
        copies.duplicate_units,
        stack(repeated_row(5, ml_dtypes.bfloat16)), stack(repeated_row(6, ml_dtypes.bfloat16)), WARNING,
    ),
    "copies of short rows in a quarter of the precision": Edge(
        copies.duplicate_units,
        stack(repeated_row(13, ml_dtypes.float8_e4m3fn)), stack(repeated_row(14, ml_dtypes.float8_e4m3fn)), WARNING,
    ),
    "copies of short rows": Edge(
        copies.duplicate_units,
        stack(repeated_row(1, np.float32)), stack(repeated_row(2, np.float32)), WARNING,
    ),
    "copies of single numbers in double precision": Edge(
        copies.duplicate_units,
        stack(repeated_row(1, np.float32)), stack(repeated_row(1, np.float64)), WARNING,
    ),
    "rank": Edge(
        network.rank_collapse, stack(diagonal(1, 1, 1)), stack(diagonal(1, 1)), NOTE, option="share", moved=0.09
    ),
    "singular values that count": Edge(
        network.rank_collapse, stack(diagonal(1, 0.1, 0.0112)), stack(diagonal(1, 0.1, 0.0110)), NOTE,
        option="delta", moved=0.009,
    ),
    "rank of a small matrix": Edge(
        network.rank_collapse, stack(rank_one(15, 15)), stack(rank_one(16, 16)), NOTE, option="smallest", moved=17
    ),
    "rank of a large matrix": Edge(
        network.rank_collapse, stack(diagonal(1, size=513)), stack(diagonal(1, size=512)), NOTE,
        option="largest", moved=511,
    ),
    "rank of a long matrix": Edge(
        network.rank_collapse, stack(rank_one(16, 2049)), stack(rank_one(16, 2048)), NOTE
    ),
    # Silence
    "dormant units": Edge(silence.dormant_units, with_silent(1), with_silent(2), NOTE, option="note", moved=0.11),
    "half of the units silent": Edge(
        silence.dormant_units, with_silent(9), with_silent(10), WARNING, NOTE, option="warning", moved=0.51
    ),
    "nearly all units silent": Edge(
        silence.dormant_units, with_silent(18, dead=True), with_silent(19, dead=True), ERROR, WARNING,
        option="error", moved=0.96,
    ),
    "nearly all units saturated from the start": Edge(
        silence.dormant_units, with_silent(18, never=True), with_silent(19, never=True), ERROR, WARNING,
        option="error", moved=0.96,
    ),
    "all units saturated": Edge(
        silence.dormant_units, with_silent(19), with_silent(20), ERROR, WARNING, option="error", moved=1.01
    ),
    "faded gradients": Edge(
        silence.dormant_units, with_silent(4, ratio=1.01e-4), with_silent(4, ratio=0.99e-4), NOTE,
        option="ratio", moved=0.9e-4,
    ),
    "faint gradients everywhere": Edge(
        silence.dormant_units,
        with_silent(4, ratio=0.97e-4, live=0.095), with_silent(4, ratio=0.97e-4, live=0.099), NOTE,
    ),
    "updates until silence tells": Edge(
        silence.dormant_units, with_silent(4, step=131), with_silent(4, step=132), NOTE
    ),
    "updates until a unit should have learned": Edge(
        silence.dormant_units, with_silent(4, step=19, never=True), with_silent(4, step=20, never=True), NOTE
    ),
    # Rows
    "a row that hardly received gradients": Edge(
        unused_rows.unused_rows,
        with_unused_rows(1, 5, ratio=1.01e-7, name="action_net.weight"),
        with_unused_rows(1, 5, ratio=0.99e-7, name="action_net.weight"),
        NOTE, option="ratio", moved=0.98e-7,
    ),
    "outputs without gradient": Edge(
        unused_rows.unused_rows,
        with_unused_rows(1, 5, name="action_net.weight"), with_unused_rows(1, 4, name="action_net.weight"),
        WARNING, NOTE, option="head", moved=0.26,
    ),
    "hidden states without gradient": Edge(
        unused_rows.unused_rows, with_unused_states(3), with_unused_states(4), WARNING, NOTE,
        option="recurrent", moved=0.51,
    ),
    "tokens without gradient": Edge(
        unused_rows.unused_rows, with_unused_rows(29, 40), with_unused_rows(30, 40), WARNING, NOTE,
        option="embedding", moved=0.76,
    ),
    "tokens of a vocabulary without gradient": Edge(
        unused_rows.unused_rows, with_unused_rows(1000, 1025), with_unused_rows(1000, 1024), WARNING, NOTE,
        option="vocabulary", moved=1023,
    ),
    "tokens of a small table without gradient": Edge(
        unused_rows.unused_rows, with_unused_rows(14, 16), with_unused_rows(14, 17), WARNING, NOTE
    ),
    "few tokens without gradient": Edge(
        unused_rows.unused_rows, with_unused_rows(2, 21), with_unused_rows(2, 20), NOTE
    ),
    # Inputs
    "inputs that are large": Edge(
        inputs.input_scale, with_inputs(9.9), with_inputs(10.1), NOTE, option="note", moved=10.2
    ),
    "inputs that are too large, with effects": Edge(
        inputs.input_scale, with_inputs(99, 10), with_inputs(101, 10), WARNING, NOTE, option="warning", moved=102.0
    ),
    "dormant units behind large inputs": Edge(
        inputs.input_scale, with_inputs(200, 9), with_inputs(200, 10), WARNING, NOTE, option="dormant", moved=0.51
    ),
    "ratio of dormant units behind large inputs": Edge(
        inputs.input_scale, with_inputs(200, 10, 1.1e-4), with_inputs(200, 10, 0.9e-4), WARNING, NOTE,
        option="ratio", moved=0.8e-4,
    ),
    "inputs that are too large alone": Edge(
        inputs.input_scale, with_inputs(990), with_inputs(1010), WARNING, NOTE, option="alone", moved=1020.0
    ),
    # Optimizers
    "updates until a branch should have learned": Edge(
        optimizer.untrained_tensor, with_untrained_branch(9), with_untrained_branch(10), WARNING,
        option="least_updates", moved=11,
    ),
    "updates until there should have been a gradient": Edge(
        gradients.no_gradient, without_gradient(9), without_gradient(10), ERROR, option="least_updates", moved=11
    ),
    "steps that replace the weights": Edge(
        step_sizes.update_ratio, with_step(0.0999), with_step(0.1001), WARNING, option="largest", moved=0.101
    ),
    "steps that are lost in rounding": Edge(
        step_sizes.update_ratio, with_step(1.01e-8), with_step(0.99e-8), NOTE, option="smallest", moved=0.98e-8
    ),
    "updates until steps have settled": Edge(
        step_sizes.update_ratio, with_step(0.5, 99), with_step(0.5, 100), WARNING, option="least_updates", moved=101
    ),
    "updates until parameters should have moved": Edge(
        step_sizes.nothing_moved, with_initial_gains(9), with_initial_gains(10), ERROR, option="least_updates", moved=11
    ),
    "norm above the clip": Edge(
        gradient_norms.clip_saturated, with_gradient_norm(0.5 * 1.0201), with_gradient_norm(0.5 * 1.0199), NOTE,
        option="tolerance", moved=0.0198,
    ),
    "norm below the clip": Edge(
        gradient_norms.clip_saturated, with_gradient_norm(0.5 * 0.9799), with_gradient_norm(0.5 * 0.9801), NOTE,
        option="tolerance", moved=0.0198,
    ),
    "gradients below epsilon": Edge(
        gradient_norms.epsilon_dominated, with_gradients_below_epsilon(50), with_gradients_below_epsilon(51), NOTE,
        option="share", moved=0.52,
    ),
    "steps too small to learn": Edge(
        gradient_norms.epsilon_dominated, with_small_gradients(1.01e-3), with_small_gradients(0.99e-3), WARNING, NOTE,
        option="step", moved=0.98e-3,
    ),
    "an epsilon that slows down": Edge(
        gradient_norms.epsilon_dominated,
        with_small_gradients(0.015, 0.0099), with_small_gradients(0.015, 0.01), WARNING, NOTE, option="large",
        moved=0.011,
    ),
    "squares that underflowed": Edge(
        second_moments.second_moment_underflow, with_lost_squares(49), with_lost_squares(50), WARNING,
        option="share", moved=0.51,
    ),
    "gradients of biases": Edge(
        second_moments.gradient_scale, with_bias_gradient(0.999e4), with_bias_gradient(1.001e4), WARNING,
        option="largest", moved=1.002e4,
    ),
    "entries that should have left the initial interval": Edge(
        initial_values.initial_values, with_initial_weight(9), with_initial_weight(10), WARNING,
        option="expected", moved=11,
    ),
    "updates until weights should have left it": Edge(
        initial_values.initial_values, with_initial_weight(40, 49), with_initial_weight(40, 50), WARNING,
        option="least_updates", moved=51,
    ),
    # Settings, and what a run needs to go on
    "learning rate of an agent": Edge(
        optimizer_settings.learning_rate_range, with_options(lr=2e-3), with_options(lr=2.01e-3), WARNING, NOTE,
    ),
    "learning rate of an agent that was tuned": Edge(
        optimizer_settings.learning_rate_range, with_options(lr=1e-3), with_options(lr=1.01e-3), NOTE,
    ),
    "learning rate of Adam": Edge(
        optimizer_settings.learning_rate_range, with_options("Adam", lr=0.1), with_options("Adam", lr=0.1001), WARNING,
        option="adam", moved=0.1002,
    ),
    "momentum": Edge(
        optimizer_settings.adam_betas, with_options("SGD", momentum=0.998), with_options("SGD", momentum=0.999),
        WARNING, option="momentum", moved=0.9991,
    ),
    "shrinkage by weight decay": Edge(
        optimizer_settings.strong_weight_decay, with_options("AdamW", lr=0.01, weight_decay=1.99),
        with_options("AdamW", lr=0.01, weight_decay=2.01), WARNING, option="largest", moved=0.0202,
    ),
    "weight decay inside of the gradient": Edge(
        optimizer_settings.strong_weight_decay, with_options("Adam", weight_decay=0.99),
        with_options("Adam", weight_decay=1.0), WARNING, option="penalty", moved=1.01,
    ),
    "collapsed learning rate": Edge(
        schedules.schedule_mismatch, with_schedule(1.01e-6), with_schedule(0.99e-6), WARNING,
        option="collapsed", moved=0.98e-6,
    ),
    "batches for each update": Edge(
        resuming.moments_out_of_step, with_counter(1280), with_counter(1281), WARNING, option="accumulated", moved=129
    ),
    "collapsed loss scale": Edge(
        resuming.loss_scale_collapsed, with_loss_scale(1.01e-3), with_loss_scale(0.99e-3), ERROR, WARNING,
        option="certain", moved=0.98e-3,
    ),
    "loss scale below one": Edge(resuming.loss_scale_collapsed, with_loss_scale(1.0), with_loss_scale(0.99), WARNING),
    # Gradients of a training loop
    "silent steps": Edge(
        live.silent_gradients, while_training(silent_steps=9), while_training(silent_steps=10), ERROR,
        option="least_steps", moved=11,
    ),
    "steps without a gradient": Edge(
        live.stopped_part,
        while_training(stopped={"net.0.weight": 99}), while_training(stopped={"net.0.weight": 100}), WARNING,
        option="least_steps", moved=101,
    ),
    "inputs that begin": Edge(
        live.inputs_switched_on,
        while_training(awakened_inputs={"net.0": tuple(range(4))}),
        while_training(awakened_inputs={"net.0": tuple(range(5))}), WARNING, NOTE,
        option="share", moved=0.06,
    ),
    "updates before inputs begin": Edge(
        live.inputs_switched_on,
        while_training(299, awakened_inputs={"net.0": tuple(range(5))}),
        while_training(300, awakened_inputs={"net.0": tuple(range(5))}), WARNING, NOTE,
        option="least_updates", moved=301,
    ),
}  # fmt: skip


def worst(rule: Rule, subject: Weights | Checkpoint, **options: Any) -> Severity | None:
    checkpoint = subject if isinstance(subject, Checkpoint) else build_checkpoint(subject)
    return max((finding.severity for finding in findings_of(rule, checkpoint, **options)), default=None)


@pytest.mark.parametrize("name", EDGES)
def test_a_limit_lies_where_it_is_said_to(name: str):
    edge = EDGES[name]
    assert (worst(edge.rule, edge.calm), worst(edge.rule, edge.loud)) == (edge.lower, edge.severity)


@pytest.mark.parametrize("name", [name for name, edge in EDGES.items() if edge.option])
def test_an_option_moves_its_limit(name: str):
    edge = EDGES[name]
    assert worst(edge.rule, edge.loud, **{edge.option: edge.moved}) == edge.lower


@dataclass(frozen=True)
class Interval:
    """The interval that a repair draws from."""

    rule: Rule
    option: str
    limit: float
    """Half-width by default."""
    weights: Weights
    tensor: str


INTERVALS = [
    Interval(
        zeros.zero_bias, "limit", 0.01, stack(draw(2048, 4)) | {"net.0.bias": np.zeros(2048, np.float32)}, "net.0.bias"
    ),
    Interval(
        recurrent.gate_bias_collapse,
        "limit",
        0.01,
        {f"gru.{role}_l0": draw(1536, 512) for role in ("weight_ih", "weight_hh")}
        | {f"gru.{role}_l0": np.zeros(1536, np.float32) for role in ("bias_ih", "bias_hh")},
        "gru.bias_hh_l0",
    ),
    Interval(
        network.zero_output_layer,
        "limit",
        0.003,
        stack(draw(512, 4)) | {"action_net.weight": np.zeros((4, 512), np.float32)},
        "action_net.weight",
    ),
]


def farthest_draw(interval: Interval, **options: float) -> float:
    found = findings_of(interval.rule, build_checkpoint(interval.weights), **options)
    (repair,) = [each for finding in found for each in finding.repairs if each.tensor == interval.tensor]
    drawn = repair.renew(interval.weights[interval.tensor], np.random.default_rng(0))
    return float(np.abs(drawn).max())


@pytest.mark.parametrize("interval", INTERVALS, ids=lambda each: each.rule.code)
def test_a_repair_draws_from_its_interval(interval: Interval):
    assert 0.95 * interval.limit < farthest_draw(interval) < interval.limit
    wider = 5 * interval.limit
    assert 0.95 * wider < farthest_draw(interval, **{interval.option: wider}) < wider


OWN_RULES = [rule for rule in discover().rules if rule.package == "checkpoint_doctor" and rule.examines_checkpoints]


def test_no_option_is_without_its_limit():
    options = {(rule.code, option) for rule in OWN_RULES if rule.examines_checkpoints for option in rule.options}
    covered = {(edge.rule.code, edge.option) for edge in EDGES.values() if edge.option}
    covered |= {(each.rule.code, each.option) for each in INTERVALS}
    assert options == covered
