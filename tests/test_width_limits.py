"""Which layers may read which, by their sizes, and what conditions look like that were never given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers._evidence.widths import (
    first_reader,
    judges_the_rest,
    last_giver,
    may_feed,
    widths_given,
    widths_read,
)
from checkpoint_doctor.builtin.analyzers._zeros.conditions import (
    are_unseen_conditions,
    began_at_no_change,
    may_modulate,
    runs_on_its_state,
)
from checkpoint_doctor.checkpoint import Checkpoint, Layer
from checkpoint_doctor.testing import build_checkpoint

Shapes = dict[str, tuple[int, ...]]


def layers(shapes: Shapes) -> list[Layer]:
    return list(build_checkpoint({name: np.ones(shape) for name, shape in shapes.items()}).layers)


LINEAR: Shapes = {"a.weight": (4, 6), "a.bias": (4,)}
CONV: Shapes = {"a.weight": (4, 6, 3, 3), "a.bias": (4,)}
DEPTHWISE: Shapes = {"a.weight": (4, 1, 3, 3), "a.bias": (4,)}
TURNED: Shapes = {"a.weight": (4, 6, 3, 3), "a.bias": (6,)}
UNBIASED: Shapes = {"a.weight": (4, 6, 3, 3)}
TABLE: Shapes = {"embedding.weight": (9, 5)}
NORM: Shapes = {f"norm.{role}": (4,) for role in ("weight", "bias", "running_mean", "running_var")}
LSTM: Shapes = {
    f"lstm.{role}_l0": shape
    for role, shape in {"weight_ih": (32, 5), "weight_hh": (32, 8), "bias_ih": (32,), "bias_hh": (32,)}.items()
}
REVERSE: Shapes = LSTM | {f"{name}_reverse": shape for name, shape in LSTM.items()}


@pytest.mark.parametrize(
    ("shapes", "read", "given"),
    [
        (LINEAR, {6}, {4}),
        (CONV, {6}, {4}),
        (DEPTHWISE, {1, 4}, {4}),
        (TURNED, {4}, {6}),
        (UNBIASED, {6}, {4}),
        (TABLE, set(), {5}),
        (NORM, set(), set()),
        (LSTM, {5}, {8, 16}),
    ],
)
def test_how_many_features_a_layer_reads_and_gives(shapes: Shapes, read: set[int], given: set[int]) -> None:
    (layer,) = layers(shapes)
    assert (widths_read(layer), widths_given(layer)) == (read, given)


def test_the_second_direction_gives_both() -> None:
    assert [widths_given(each) for each in layers(REVERSE)] == [{8, 16}, {16}]


@pytest.mark.parametrize(
    ("giver", "reader", "expected"),
    [
        (LINEAR, {"b.weight": (3, 4), "b.bias": (3,)}, True),
        (LINEAR, {"b.weight": (3, 8), "b.bias": (3,)}, False),
        (CONV, {"b.weight": (3, 8), "b.bias": (3,)}, True),  # flattened
        (CONV, {"b.weight": (3, 9), "b.bias": (3,)}, False),
        (CONV, {"b.weight": (3, 8, 3, 3), "b.bias": (3,)}, False),
    ],
)
def test_which_layer_may_read_another(giver: Shapes, reader: Shapes, expected: bool) -> None:
    one, other = layers(giver)[0], layers(reader)[0]
    assert may_feed(one, other) is expected


def test_norms_neither_give_nor_read() -> None:
    linear, norm = layers(LINEAR)[0], layers(NORM)[0]
    assert last_giver([linear, norm]) is linear
    assert first_reader([norm, linear]) is linear
    assert last_giver([norm]) is first_reader([]) is None


def autoencoder(judge: int = 6, out: int = 6, *, stateless: int = 2, order: str = "after") -> Checkpoint:
    """An autoencoder of six features that was trained, and a layer that an optimizer without state holds."""
    network: dict[str, NDArray] = {
        "generator.encoder.weight": np.ones((3, 6)), "generator.encoder.bias": np.ones(3),
        "generator.decoder.weight": np.ones((out, 3)), "generator.decoder.bias": np.ones(out),
    }  # fmt: skip
    part = {"discriminator.judge.weight": np.ones((1, judge)), "discriminator.judge.bias": np.ones(1)}
    tensors = network | part if order == "after" else part | network
    state = {name: {"step": 9, "exp_avg": each, "exp_avg_sq": each} for name, each in network.items()}
    checkpoint = build_checkpoint(tensors, optimizer=state)
    (optimizer,) = checkpoint.optimizers
    unknown = tuple(replace(each, tensor=None, state={}, step=None) for each in optimizer.parameters[:stateless])
    return replace(checkpoint, optimizers=(optimizer, replace(optimizer, name="second", parameters=unknown)))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"judge": 5}, False),
        ({"out": 7, "judge": 7}, False),  # a generator has no loss of its own
        ({"stateless": 1}, False),
        ({"stateless": 3}, False),
        ({"order": "before"}, False),
    ],
)
def test_a_discriminator_reads_what_an_autoencoder_puts_out(fields: dict[str, Any], expected: bool) -> None:
    checkpoint = autoencoder(**fields)
    assert judges_the_rest(checkpoint.optimizers[1], checkpoint) is expected


# Conditions


def moments(tensors: dict[str, NDArray], sizes: dict[str, float]) -> Checkpoint:
    """Tensors with second moments of these sizes; those without a size are in no optimizer."""
    state = {
        name: {"step": 300, "exp_avg": np.full(each.shape, size), "exp_avg_sq": np.full(each.shape, size)}
        for name, each in tensors.items()
        if (size := sizes.get(name)) is not None
    }
    return build_checkpoint(tensors, optimizer=state)


def conditioned(weight: float = 0.0, *, sizes: tuple[float | None, float | None] = (0.0, 1.0), bias: bool = True):
    tensors = {"film.weight": np.full((8, 5), weight), "body.weight": np.ones((4, 3)), "body.bias": np.ones(4),
               "head.weight": np.ones((2, 4)), "head.bias": np.ones(2)}  # fmt: skip
    if bias:
        tensors["film.bias"] = np.ones(8)
    known = {name: size for name, size in zip(("film.weight", "film.bias"), sizes, strict=True) if size is not None}
    return moments(tensors, {**dict.fromkeys(("body.weight", "body.bias"), 1.0), **known})


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        (conditioned(), True),
        (conditioned(0.1), False),
        (conditioned(sizes=(1.0, 1.0)), False),
        (conditioned(sizes=(0.0, 0.0)), False),
        (conditioned(sizes=(None, 1.0)), False),
        (conditioned(sizes=(0.0, None)), False),
        (conditioned(bias=False), False),
    ],
)
def test_a_condition_that_was_not_given(checkpoint: Checkpoint, expected: bool) -> None:
    assert began_at_no_change(checkpoint.layer_by_name["film"], checkpoint) is expected


def modulated(
    *,
    units: int = 16,
    zero: tuple[int, ...] = (0, 1),
    numbers: tuple[int, ...] = (0, 1),
    other: int = 8,
    blocks: int = 2,
) -> Checkpoint:
    """A list of layers of eight units, beside another list some of whose layers are zero."""
    tensors = {f"blocks.{number}.weight": np.ones((8 if number == 0 else other, 5)) for number in range(blocks)}
    tensors |= {f"films.{number}.weight": np.full((units, 3), float(number not in zero)) for number in numbers}
    return build_checkpoint(tensors | {"last.weight": np.ones((7, 7))})


@pytest.mark.parametrize(
    ("checkpoint", "name", "expected"),
    [
        (modulated(), "films.0", True),
        (modulated(units=8), "films.0", True),
        (modulated(units=12), "films.0", False),
        (modulated(zero=(0,)), "films.0", False),
        (modulated(numbers=(0, 1, 2), zero=(0, 1, 2)), "films.0", False),
        (modulated(numbers=(0,)), "films.0", False),
        (modulated(other=4), "films.0", False),
        (modulated(numbers=(0,), blocks=1), "films.0", False),
        (modulated(), "last", False),
        (modulated(), "blocks.0", False),
    ],
)
def test_zero_layers_for_each_layer_of_a_list(checkpoint: Checkpoint, name: str, expected: bool) -> None:
    assert may_modulate(checkpoint.layer_by_name[name], checkpoint) is expected


def tables(one: NDArray, *others: NDArray) -> Checkpoint:
    return build_checkpoint({f"{number}.weight": each for number, each in enumerate((one, *others))})


def table(*unseen: int, value: float, shape: tuple[int, int] = (6, 4)) -> NDArray:
    weight = np.full(shape, 0.5)
    weight[list(unseen)] = value
    return weight


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        (tables(table(1, 4, value=0), table(1, 4, value=1)), True),
        (tables(table(1, 4, value=1), table(1, 4, value=0)), True),
        (tables(table(1, 4, value=0), table(1, value=1)), False),
        (tables(table(1, 4, value=0), table(1, 4, value=0)), False),
        (tables(table(1, value=0), table(1, 4, value=1)), False),
        (tables(table(1, 4, value=0.3), table(1, 4, value=0.7)), False),
        (tables(table(1, 4, value=0), table(1, 4, value=1, shape=(6, 5))), False),
        (tables(table(1, 4, value=0)), False),
        (tables(table(1, 4, value=0), *[table(1, 4, value=1)] * 15), True),
        (tables(table(1, 4, value=0), *[table(1, 4, value=1)] * 16), False),
    ],
)
def test_classes_that_were_not_seen(checkpoint: Checkpoint, expected: bool) -> None:
    assert are_unseen_conditions(checkpoint.by_name["0.weight"], [1, 4], checkpoint) is expected


def test_a_kernel_is_no_table_of_conditions() -> None:
    checkpoint = tables(np.zeros((6, 4, 3)), np.ones((6, 4, 3)))
    assert not are_unseen_conditions(checkpoint.by_name["0.weight"], [1, 4], checkpoint)


def sequence(
    *, decoder: float | None = 0.0, state: float | None = 1.0, encoder: float | None = 1.0, hidden: int = 8
) -> Checkpoint:
    """A decoder under whose input and hidden weights gradients were of these sizes, beside an encoder."""
    shapes = {"encoder.weight_ih_l0": (4 * hidden, 5), "encoder.weight_hh_l0": (4 * hidden, hidden),
              "decoder.weight_ih_l0": (32, 3), "decoder.weight_hh_l0": (32, 8)}  # fmt: skip
    sizes = {"decoder.weight_ih_l0": decoder, "decoder.weight_hh_l0": state, "encoder.weight_ih_l0": encoder,
             "encoder.weight_hh_l0": 1.0}  # fmt: skip
    known = {name: size for name, size in sizes.items() if size is not None}
    return moments({name: np.ones(shape) for name, shape in shapes.items()}, known)


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        (sequence(), True),
        (sequence(decoder=1.0), False),
        (sequence(decoder=None), False),
        (sequence(state=0.0), False),
        (sequence(encoder=0.0), False),
        (sequence(encoder=None), False),
        (sequence(hidden=9), False),
    ],
)
def test_a_decoder_runs_on_the_state_of_its_encoder(checkpoint: Checkpoint, expected: bool) -> None:
    layer = next(each for each in checkpoint.layers if each.name.startswith("decoder"))
    assert runs_on_its_state(layer, checkpoint) is expected


def test_other_layers_have_no_state() -> None:
    checkpoint = sequence()
    linear = build_checkpoint({"a.weight": np.ones((4, 4))}).layers[0]
    assert runs_on_its_state(linear, checkpoint) is False
