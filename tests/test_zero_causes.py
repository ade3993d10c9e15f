"""Why zeros are zero, as each kind of optimizer's state shows it, and how severe they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from checkpoint_doctor.builtin.analyzers._zeros.causes import Cause, ZeroEvidence, explain_zeros
from checkpoint_doctor.builtin.analyzers._zeros.initial_draws import (
    is_drawn_by_transformers,
    is_drawn_orthogonally,
    is_drawn_uniformly,
)
from checkpoint_doctor.builtin.analyzers._zeros.severity import is_zero, judge_zeros
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.testing import build_checkpoint
from tests.test_initial_parameters import spread
from tests.test_rule_findings import draw, mlp

BIAS = "net.2.bias"
ZERO = mlp(net__2__bias=np.zeros(8))
ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}


def holding(
    state: Mapping[str, Any], weights: Mapping[str, Any] = ZERO, others: Mapping[str, Any] | None = None, **fields: Any
) -> Checkpoint:
    """A checkpoint whose optimizer has this state for the bias, and another for all other tensors."""
    states = {name: dict(others or {}) for name in weights} | {BIAS: dict(state)}
    return build_checkpoint(weights, optimizer=states, **fields)


def why(checkpoint: Checkpoint, rows: Any = None, name: str = BIAS) -> ZeroEvidence:
    return explain_zeros(checkpoint.by_name[name], checkpoint, rows)


def moments(second: Any = 1e-4, step: int | None = 500, key: str = "exp_avg_sq") -> dict[str, Any]:
    return ({} if step is None else {"step": step}) | {key: np.broadcast_to(second, 8)}


FOUR = np.repeat([1e-4, 0.0], 4)
TF = {"alpha": 0.9, "lr": 1e-3}


@pytest.mark.parametrize(
    ("checkpoint", "cause", "updates", "sentence"),
    [
        (
            holding(moments()), Cause.OVERWRITTEN, 500,
            "its second moment is not zero after 500 updates, so it was trained and then overwritten",
        ),
        (
            holding(moments(step=None)), Cause.OVERWRITTEN, None,
            "its second moment is not zero, so it was trained and then overwritten",
        ),
        (
            holding(moments(FOUR)), Cause.OVERWRITTEN, 500,
            "its second moment is not zero at 4 of 8 zeros after 500 updates, so it was trained and then overwritten",
        ),
        (
            holding(moments(), optimizer_options=ADAM | {"lr": 0}), Cause.UNKNOWN, 500,
            "it received gradients, but optimizer has a learning rate of 0 and may never have updated it",
        ),
        (
            holding(moments(0.0)), Cause.NEVER_TRAINED, 500,
            "its second moment is exactly zero after 500 updates, so it never received a gradient",
        ),
        (
            holding(moments(0.0, key="momentum_buffer"), optimizer_kind="SGD", optimizer_options={"momentum": 0.9}),
            Cause.NEVER_TRAINED, 500,
            "its momentum is exactly zero after 500 updates, so it never received a gradient",
        ),
        (
            holding(moments(0.25, key="sum"), optimizer_options={"initial_accumulator_value": 0.25}),
            Cause.NEVER_TRAINED, 500,
            "its second moment is still at its initial value after 500 updates, so it never received a gradient",
        ),
        (
            holding(moments(0.9**100, step=100, key="square_avg"), optimizer_options=TF), Cause.UNKNOWN, 100,
            "the second moment started at 1.0, which still hides small gradients",
        ),
        (holding({"step": 500, "other": np.zeros(8)}), Cause.UNKNOWN, 500, "Adam keeps no record of gradients"),
        (
            holding({"step": 500, "other": np.zeros(8)}, optimizer_kind=""), Cause.UNKNOWN, 500,
            "optimizer keeps no record of gradients",
        ),
        (
            holding({"step": 500, "exp_avg_sq": np.zeros(4)}), Cause.UNKNOWN, 500,
            "the optimizer's state does not have the tensor's shape",
        ),
        (
            holding({}, others={"step": 500, "exp_avg_sq": np.ones(8)}), Cause.NEVER_TRAINED, 0,
            "optimizer holds it but has no state for it, while 5 of its 6 parameters were updated, so it never "
            "received a gradient in 500 updates",
        ),
        (
            holding({}, others={"exp_avg_sq": np.ones(8)}), Cause.NEVER_TRAINED, 0,
            "optimizer holds it but has no state for it, while 5 of its 6 parameters were updated, so it never "
            "received a gradient",
        ),
        (holding({}, updates=0), Cause.STEP_0, 0, "no update was made yet, so this is its initial value"),
        (
            holding({}, updates=1200), Cause.UNKNOWN, None,
            "1,200 updates are counted but the optimizer's state is empty, so it was recreated",
        ),
        (
            holding({}, optimizer_kind="SGD", optimizer_options={}), Cause.UNKNOWN, None,
            "SGD without momentum keeps no record of gradients",
        ),
        (holding({}, step=9), Cause.STEP_0, 0, "optimizer has made no update yet, so this is its initial value"),
        (
            holding({}, others={"step": 500, "exp_avg_sq": np.ones(8)}, algorithm="TRPO"), Cause.UNKNOWN, None,
            "TRPO updates its policy without the optimizer, so there is no record of it",
        ),
        (build_checkpoint(ZERO), Cause.UNKNOWN, None, "the file holds no optimizer state, so the cause is unknown"),
        (
            build_checkpoint(ZERO, algorithm="ARS"), Cause.UNKNOWN, None,
            "ARS trains without gradients, so the cause is unknown",
        ),
    ],
)  # fmt: skip
def test_the_state_says_why_zeros_are_zero(
    checkpoint: Checkpoint, cause: Cause, updates: int | None, sentence: str
) -> None:
    found = why(checkpoint)
    assert (found.cause, found.updates, found.sentence) == (cause, updates, sentence)
    assert found.held is bool(checkpoint.optimizers)
    if cause is Cause.OVERWRITTEN:
        assert "code that writes parameters" in found.advice
    if "learning rate of 0" in sentence:
        assert found.advice == "Check whether the learning rate was 0 all along."


def test_values_that_are_not_zero_are_judged_by_their_gradients_alone() -> None:
    learned, never = (why(holding(moments(second), mlp())) for second in (1e-4, 0.0))
    assert (learned.cause, never.cause) == (Cause.UNKNOWN, Cause.NEVER_TRAINED)
    assert learned.sentence == "its second moment is not zero after 500 updates, so it received gradients"
    some = why(holding(moments(FOUR), mlp()))
    assert some.cause is Cause.UNKNOWN


def test_zeros_among_others_are_told_apart() -> None:
    weights = mlp(net__2__bias=np.repeat([0.5, 0.0], 4))
    found = why(holding(moments(FOUR), weights))
    assert found.cause is Cause.NEVER_TRAINED
    assert found.sentence.startswith("at the zeros, its second moment is exactly zero")
    found = why(holding(moments(FOUR[::-1]), weights))
    assert found.cause is Cause.OVERWRITTEN


@pytest.mark.parametrize(("rows", "cause"), [(slice(0, 4), Cause.OVERWRITTEN), ([4, 5], Cause.NEVER_TRAINED)])
def test_some_rows_are_judged_by_themselves(rows: Any, cause: Cause) -> None:
    assert why(holding(moments(FOUR)), rows).cause is cause


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (np.full((8, 12), 1e-4), "only the bias was left out"),
        (np.zeros((8, 12)), "inputs so large"),
        (np.vstack([np.full((4, 12), 1e-4), np.zeros((4, 12))]), "inputs so large"),
        (np.vstack([np.zeros((4, 12)), np.full((4, 12), 1e-4)]), "only the bias was left out"),
        (None, ""),
    ],
    ids=["trained weights", "untrained weights", "rows of the zeros untrained", "other rows untrained", "unknown"],
)
def test_advice_depends_on_the_weights_of_the_same_units(second: Any, words: str) -> None:
    weights = mlp(net__2__bias=np.repeat([0.5, 0.0], 4))
    states: dict[str, dict[str, Any]] = {BIAS: moments(FOUR)}
    if second is not None:
        states["net.2.weight"] = {"step": 500, "exp_avg_sq": second}
    found = why(build_checkpoint(weights, optimizer=states))
    assert found.cause is Cause.NEVER_TRAINED
    assert words in found.advice
    assert bool(found.advice) is bool(words)


def test_a_bias_that_is_longer_than_its_weight_is_judged_with_the_whole_weight() -> None:
    weights = mlp(net__2__bias=np.array([0.5] * 8 + [0.0]))
    states = {
        BIAS: {"step": 500, "exp_avg_sq": np.array([1e-4] * 8 + [0.0])},
        "net.2.weight": {"step": 500, "exp_avg_sq": np.full((8, 12), 1e-4)},
    }
    checkpoint = build_checkpoint(weights, optimizer=states)
    layer = replace(
        checkpoint.layer_by_name["net.2"],
        tensors={each: checkpoint.by_name[f"net.2.{each}"] for each in ("weight", "bias")},
    )
    assert "only the bias" in explain_zeros(checkpoint.by_name[BIAS], checkpoint, layer=layer).advice
    turned = replace(layer, transposed=True)
    assert "only the bias" in explain_zeros(checkpoint.by_name[BIAS], checkpoint, layer=turned).advice


def test_a_weight_without_gradient_is_advised_for_itself() -> None:
    weights = mlp(net__2__weight=np.zeros((8, 12)))
    states = {"net.2.weight": {"step": 500, "exp_avg_sq": np.zeros((8, 12))}, BIAS: moments()}
    assert "inputs so large" in why(build_checkpoint(weights, optimizer=states), name="net.2.weight").advice


def test_a_target_network_is_explained_by_its_online_network() -> None:
    weights = {
        f"{network}.q_net.0.{role}": np.zeros(4) if role == "bias" else draw(4, 2)
        for network in ("q_net", "q_net_target")
        for role in ("weight", "bias")
    }
    states = {"q_net.q_net.0.bias": {"step": 5, "exp_avg_sq": np.ones(4)}}
    for held in ({}, {"q_net_target.q_net.0.bias": {}}):
        checkpoint = build_checkpoint(weights, optimizer={**states, **held}, algorithm="DQN")
        found = why(checkpoint, name="q_net_target.q_net.0.bias")
        assert (found.cause, found.updates, found.held) == (Cause.OVERWRITTEN, None, False)
        assert found.sentence.startswith("it is the target network's copy of q_net.q_net.0.bias, where its second")


def test_what_no_optimizer_holds_was_never_trained_where_its_component_was() -> None:
    weights = {
        f"{component}.0.{role}": value
        for component in ("policy", "critic")
        for role, value in (("weight", draw(4, 2)), ("bias", np.zeros(4)))
    }
    updated = {"step": 5, "exp_avg_sq": np.ones((4, 2))}
    found = why(build_checkpoint(weights, optimizer={"policy.0.weight": updated}), name="policy.0.bias")
    assert (found.cause, found.held) == (Cause.NEVER_TRAINED, False)
    assert found.sentence == "no optimizer in the file holds it (they hold 1 other tensors), so it was never trained"
    assert "Pass it to the optimizer" in found.advice
    fresh = build_checkpoint(weights, optimizer={"policy.0.weight": {}}, updates=5)
    found = why(fresh, name="policy.0.bias")
    assert (found.cause, found.held) == (Cause.UNKNOWN, False)


def severity(state: Mapping[str, Any], weight: Any = 1e-4) -> Severity | None:
    states = {BIAS: dict(state), "net.2.weight": {"step": 500, "exp_avg_sq": np.full((8, 12), weight)}}
    checkpoint = build_checkpoint(ZERO, optimizer=states)
    return judge_zeros(checkpoint.by_name[BIAS], checkpoint, checkpoint.layer_by_name["net.2"])[0]


def test_severity_follows_the_cause() -> None:
    assert severity(moments()) is Severity.ERROR
    assert severity(moments(0.0)) is Severity.WARNING
    assert severity(moments(0.0), weight=0.0) is None
    assert severity({"step": 500, "other": np.ones(8)}) is Severity.WARNING


def test_only_a_tensor_with_entries_is_zero() -> None:
    tensors = build_checkpoint({"a": np.zeros(3), "b": np.zeros(0), "c": np.array([0.0, 1e-30])}).tensors
    assert [is_zero(each) for each in tensors] == [True, False, False]
    assert not is_zero(None)


# Initial draws


def normal(shape: tuple[int, int] = (16, 64), *, std: float = 0.02, mean: float = 0.0) -> Any:
    """Values of exactly this mean and deviation."""
    values = np.random.default_rng(0).normal(size=shape)
    return mean + std * (values - values.mean()) / values.std()


STD, MEAN = 4 * 0.02 / np.sqrt(2 * 1024), 4 * 0.02 / 32


@pytest.mark.parametrize(
    ("weight", "drawn"),
    [
        (normal(), True),
        (normal(std=0.02 + 0.99 * STD), True),
        (normal(std=0.02 + 1.01 * STD), False),
        (normal(std=0.02 - 0.99 * STD), True),
        (normal(std=0.02 - 1.01 * STD), False),
        (normal(mean=0.99 * MEAN), True),
        (normal(mean=-1.01 * MEAN), False),
        (normal((8, 8)), True),
        (normal((9, 7)), False),
        (np.full((16, 64), np.nan), False),
    ],
)
def test_a_draw_of_the_transformers_library_is_told_by_its_moments(weight: Any, drawn: bool) -> None:
    (layer,) = build_checkpoint({"fc.weight": weight}).layers
    assert is_drawn_by_transformers(layer) is drawn


def uniform(count: int = 64, *, variance: float = 1 / 12, mean: float = 0.5) -> Any:
    """Values around this mean with exactly this variance."""
    return mean + spread((count,), 0.5, variance=4 * variance)


@pytest.mark.parametrize(
    ("gain", "bias", "drawn"),
    [
        (uniform(), 0.0, True),
        (uniform(), 0.1, False),
        (uniform(variance=1 / 12 - 0.99 * 4 * 0.0745 / 8), 0.0, True),
        (uniform(variance=1 / 12 - 1.01 * 4 * 0.0745 / 8), 0.0, False),
        (uniform(variance=1 / 12 + 0.99 * 4 * 0.0745 / 8), 0.0, True),
        (uniform(variance=1 / 12 + 1.01 * 4 * 0.0745 / 8), 0.0, False),
        (0.5 + 0.99 * 4 * 0.289 / 8 + spread((64,), 0.35, variance=0.5), 0.0, True),
        (0.5 + 1.01 * 4 * 0.289 / 8 + spread((64,), 0.35, variance=0.5), 0.0, False),
        (0.5 - 1.01 * 4 * 0.289 / 8 + spread((64,), 0.35, variance=0.5), 0.0, False),
        (uniform() + 0.01, 0.0, False),
        (uniform() - 0.01, 0.0, False),
        (np.full(64, np.nan), 0.0, False),
    ],
)
def test_a_draw_of_an_old_batch_norm_is_told_by_its_moments(gain: Any, bias: float, drawn: bool) -> None:
    weights = {
        "bn.weight": gain, "bn.bias": np.full(gain.shape, bias), "bn.running_mean": np.zeros(gain.shape),
        "bn.running_var": np.ones(gain.shape),
    }  # fmt: skip
    (layer,) = build_checkpoint(weights).layers
    assert layer.weight is not None
    assert is_drawn_uniformly(layer, layer.weight) is drawn


def orthogonal(rows: int, columns: int, seed: int = 0) -> Any:
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(max(rows, columns), min(rows, columns))))[0]
    return basis if rows >= columns else basis.T


def disturbed(rows: int, columns: int, by: float, row: int = 1) -> Any:
    matrix = orthogonal(rows, columns).copy()
    line = matrix if rows <= columns else matrix.T
    line[row] += by * line[0]
    return matrix


@pytest.mark.parametrize(
    ("weights", "drawn"),
    [
        ([orthogonal(12, 20)], True),
        ([orthogonal(20, 12)], True),
        ([orthogonal(12, 12)], True),
        ([orthogonal(12, 20), 3 * orthogonal(4, 12)], True),
        ([orthogonal(12, 20), draw(4, 12)], False),
        ([orthogonal(12, 20).astype(np.float32)], True),
        ([orthogonal(12, 20).astype(np.float16)], True),
        ([disturbed(12, 20, 0.9e-5)], True),
        ([disturbed(12, 20, 1.1e-5)], False),
        ([disturbed(20, 12, 1.1e-5)], False),
        ([disturbed(12, 20, 1.1e-5, row=10)], False),
        ([orthogonal(12, 20) * np.linspace(1, 1.002, 12)[:, None]], False),
        ([draw(1, 20)], False),
        ([draw(20, 1)], False),
        ([orthogonal(2, 20)], True),
        ([np.zeros((12, 20))], False),
        ([orthogonal(12, 20), draw(1, 12)], True),
    ],
)
def test_an_orthogonal_draw_is_told_by_its_lines(weights: list[Any], drawn: bool) -> None:
    named = {f"net.{2 * number}.weight": weight for number, weight in enumerate(weights)}
    assert is_drawn_orthogonally(build_checkpoint(named)) is drawn
