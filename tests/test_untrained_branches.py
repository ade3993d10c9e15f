"""Which tensors count as never trained or left out, and how they are grouped by the modules that hold them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers.optimizer._untrained_branches import (
    find_left_out,
    is_explained_elsewhere,
    training_of_tensors,
    untrained_branches,
)
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.testing import build_checkpoint

Weights = dict[str, NDArray]


@pytest.mark.parametrize(
    ("trained", "branches"),
    [
        ({"a.weight": True, "b.weight": False}, {"b.weight": ["b.weight"]}),
        ({"a.weight": True, "b.weight": False, "b.bias": False}, {"b": ["b.weight", "b.bias"]}),
        ({"a.weight": True, "b.weight": False, "b.bias": True}, {"b.weight": ["b.weight"]}),
        ({"a.weight": True, "b.weight": False, "b.bias": None}, {"b.weight": ["b.weight"]}),
        (
            {"net.a.weight": True, "net.b.0.weight": False, "net.b.1.weight": False, "net.c.weight": False},
            {"net.b": ["net.b.0.weight", "net.b.1.weight"], "net.c.weight": ["net.c.weight"]},
        ),
        ({"policy/a.weight": True, "critic/a.weight": False, "critic/a.bias": False},
         {"critic": ["critic/a.weight", "critic/a.bias"]}),
        ({"a.weight": True}, {}),
        ({"scale": False, "a.weight": True}, {"scale": ["scale"]}),
    ],
)  # fmt: skip
def test_untrained_tensors_are_grouped_by_the_highest_module(
    trained: Mapping[str, bool | None], branches: dict[str, list[str]]
) -> None:
    assert untrained_branches(trained) == branches


def chain(*sizes: int, prefix: str = "", bias: bool = True) -> Weights:
    """Linear layers of these widths, one after the other."""
    weights = {}
    for number, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        random = np.random.default_rng(number)
        weights[f"{prefix}{2 * number}.weight"] = random.normal(size=(outputs, inputs))
        if bias:
            weights[f"{prefix}{2 * number}.bias"] = random.normal(size=outputs)
    return weights


def held(weights: Weights, names: Iterable[str], **fields: Any) -> Checkpoint:
    state = {
        name: {
            "step": 300,
            "exp_avg": np.full(weights[name].shape, 1e-3),
            "exp_avg_sq": np.full(weights[name].shape, 1e-5),
        }
        for name in names
    }
    return build_checkpoint(weights, optimizer=state, step=300, **fields)


def left_out(checkpoint: Checkpoint) -> list[str]:
    return find_left_out(checkpoint.optimizers[-1], checkpoint)


LONG = chain(6, 10, 11, 12, 13, 3)
"""Five layers: 0, 2, 4, 6 and the head 8."""


def but(weights: Weights, *layers: str) -> list[str]:
    return [name for name in weights if name.rpartition(".")[0] not in layers]


@pytest.mark.parametrize(
    ("checkpoint", "names"),
    [
        (held(LONG, LONG), []),
        (held(LONG, but(LONG, "8")), ["8.weight", "8.bias"]),
        (held(LONG, but(LONG, "8", "0")), ["8.weight", "8.bias"]),
        (held(LONG, but(LONG, "8", "0", "2")), []),
        (held(LONG, but(LONG, "8", "6")), []),
        (held(LONG, [*but(LONG, "8"), "8.bias"]), []),
        (held(chain(6, 10, 3), but(chain(6, 10, 3), "2")), []),
        (held(chain(6, 10, 11, 3), but(chain(6, 10, 11, 3), "4")), ["4.weight", "4.bias"]),
        (held(LONG, [name for name in LONG if "weight" in name]), [name for name in LONG if "bias" in name]),
        (held(LONG, [name for name in LONG if "weight" in name or name == "0.bias"]), []),
        (held(LONG, [name for name in LONG if "weight" in name and name != "0.weight"]), []),
        (held(chain(6, 10, bias=False) | {"0.bias": np.ones(10)}, ["0.weight"]), []),
        (held(chain(6, 10, 3), ["0.weight", "2.weight"]), ["0.bias", "2.bias"]),
        (held(chain(6, 10, 3, bias=False), ["0.weight", "2.weight"]), []),
    ],
    ids=[
        "nothing", "the head", "the head of three quarters", "half", "the layer before too", "its bias is held",
        "one layer before", "two layers before", "all biases", "all but one bias", "biases and a weight", "one bias",
        "two biases", "no biases",
    ],
)  # fmt: skip
def test_heads_and_biases_are_left_out_where_the_rest_is_held(checkpoint: Checkpoint, names: list[str]) -> None:
    assert left_out(checkpoint) == names


@pytest.mark.parametrize("field", ["unmatched", "mismatch"])
def test_state_that_is_not_matched_tells_nothing(field: str) -> None:
    checkpoint = held(LONG, but(LONG, "8"))
    (optimizer,) = checkpoint.optimizers
    changed = replace(checkpoint, optimizers=(replace(optimizer, **{field: "several fit"}),))
    assert left_out(changed) == []


BOTH = chain(6, 10, 3, prefix="generator.") | chain(6, 10, 3, prefix="discriminator.")


def twice(count: int, *names: str, weights: Weights = BOTH) -> Checkpoint:
    """So many optimizers over the same tensors."""
    whole = held(weights, names)
    return replace(whole, optimizers=tuple(replace(whole.optimizers[0], name=f"o{n}") for n in range(count)))


def test_two_optimizers_over_the_same_tensors_forgot_the_other_component() -> None:
    names = [name for name in BOTH if name.startswith("discriminator")]
    generator = [name for name in BOTH if name.startswith("generator")]
    for count, expected in ((1, []), (2, generator), (3, generator)):
        checkpoint = twice(count, *names)
        assert left_out(checkpoint) == expected
        if count > 1:
            assert find_left_out(checkpoint.optimizers[0], checkpoint) == [], "it is said once"
    assert left_out(twice(2, *BOTH)) == []
    part = [name for name in BOTH if name.startswith("discriminator") or name == "generator.0.bias"]
    assert left_out(twice(2, *part)) == []


def test_optimizers_without_tensors_forgot_nothing() -> None:
    assert left_out(twice(2)) == []


def test_target_networks_are_not_forgotten() -> None:
    weights = chain(6, 10, 3, prefix="q_net.") | chain(6, 10, 3, prefix="q_net_target.") | {}
    names = [name for name in weights if name.startswith("q_net.")]
    assert left_out(twice(2, *names, weights=weights)) == []


def test_settings_and_empty_tensors_are_not_asked() -> None:
    weights: Weights = {
        "a.weight": np.ones((4, 4)), "threshold": np.ones(1), "levels": np.ones(4, np.int64), "scale": np.ones(4),
        "b.bias": np.ones(1), "b.weight": np.ones((1, 4)), "none": np.ones(0),
    }  # fmt: skip
    state = {"step": 9, "exp_avg": np.ones((4, 4)), "exp_avg_sq": np.ones((4, 4))}
    checkpoint = build_checkpoint(weights, optimizer={name: {} for name in weights} | {"a.weight": state})
    found = training_of_tensors(checkpoint.optimizers[0], checkpoint)
    assert found == {"a.weight": True, "scale": False, "b.bias": False, "b.weight": False}


def test_a_setting_with_state_is_asked() -> None:
    weights: Weights = {"threshold": np.ones(1)}
    checkpoint = build_checkpoint(weights, optimizer={"threshold": {"step": 9, "exp_avg_sq": np.zeros(1)}})
    assert training_of_tensors(checkpoint.optimizers[0], checkpoint) == {"threshold": False}


def test_where_a_name_is_missing_every_tensor_may_be_meant() -> None:
    checkpoint = held(LONG, ["0.weight", "0.bias"])
    (optimizer,) = checkpoint.optimizers
    first, second = optimizer.parameters
    nameless = replace(optimizer, parameters=(first, replace(second, tensor=None)))
    changed = replace(checkpoint, optimizers=(nameless,))
    found = training_of_tensors(nameless, changed)
    assert found == {name: name == "0.weight" or None for name in LONG}
    assert list(training_of_tensors(optimizer, checkpoint)) == ["0.weight", "0.bias"]


@pytest.mark.parametrize(
    ("weights", "name", "expected"),
    [
        ({"fc.weight": np.ones((4, 4)), "fc.bias": np.zeros(4)}, "fc.bias", True),
        ({"fc.weight": np.ones((4, 4)), "fc.bias": np.array([0, 0, 0, 1.0])}, "fc.bias", False),
        ({"fc.weight": np.zeros((4, 4)), "fc.bias": np.ones(4)}, "fc.weight", False),
        ({"attn.k_proj.weight": np.ones((4, 4)), "attn.k_proj.bias": np.ones(4)}, "attn.k_proj.bias", True),
        ({"attn.v_proj.weight": np.ones((4, 4)), "attn.v_proj.bias": np.ones(4)}, "attn.v_proj.bias", False),
        ({"norm.weight": np.ones(4), "norm.bias": np.ones(4)}, "norm.bias", True),
    ],
)
def test_biases_that_are_zero_or_have_no_gradient_by_design_are_explained(
    weights: Weights, name: str, expected: bool
) -> None:
    checkpoint = build_checkpoint(weights)
    assert is_explained_elsewhere(checkpoint.by_name[name], checkpoint) is expected
