"""Rules about optimizers and about units without gradient, case by case."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers._evidence.gradient_activity import unit_activity
from checkpoint_doctor.builtin.analyzers._evidence.inactivity_causes import find_inactivity_causes
from checkpoint_doctor.builtin.analyzers.layers import dead_inputs
from checkpoint_doctor.builtin.analyzers.layers import dormant_units as silence
from checkpoint_doctor.builtin.analyzers.optimizer import gradient_norms, optimizer
from checkpoint_doctor.checkpoint import Checkpoint, Moments, Optimizer, ParameterGroup, Tensor
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.findings import Finding, Safety, Severity
from checkpoint_doctor.statistics.values import InMemory
from checkpoint_doctor.testing import build_checkpoint
from tests.test_rule_findings import draw, found, mlp, told, trained

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
Weights = dict[str, NDArray]
BIASES = tuple(f"net.{n}.bias" for n in (0, 2, 4))


def changed(checkpoint: Checkpoint, **fields: Any) -> Checkpoint:
    """The checkpoint with other fields in its only optimizer."""
    return replace(checkpoint, optimizers=(replace(checkpoint.optimizers[0], **fields),))


def with_groups(*options: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint whose optimizer has these groups, whose learning rates can be replaced."""
    groups = []
    for number, each in enumerate(options):
        rate = np.asarray(each.get("lr", 0.0))
        setting = Tensor(f"optimizer/{number}/lr", (), "float64", InMemory(rate), storage=f"lr {number}")
        groups.append(ParameterGroup(each, (number,), {"lr": setting} if number % 2 == 0 else {}))
    return changed(trained(mlp()), groups=tuple(groups))


def momentum(weights: Weights, **buffers: float) -> Checkpoint:
    """A checkpoint of SGD, which counts no updates, with these magnitudes in its buffers."""
    named = {name.replace("__", "."): value for name, value in buffers.items()}
    state = {name: {"momentum_buffer": np.full(array.shape, named.get(name, 0.1))} for name, array in weights.items()}
    return build_checkpoint(
        weights, optimizer=state, optimizer_kind="SGD", optimizer_options={"lr": 0.1, "momentum": 0.9}
    )


def norm_of(size: float, **hyperparameters: Any) -> Checkpoint:
    """A checkpoint whose gradients had this norm."""
    weights = {"net.0.weight": draw(4, 4)}
    second = np.full((4, 4), size**2 * (1 - 0.999**1000) / 16)
    return trained(weights, {"net.0.weight": second}, hyperparameters=hyperparameters)


def scaled(*magnitudes: float, share: float = 1.0, **options: Any) -> Checkpoint:
    """A checkpoint whose gradients were so large, one tensor each."""
    weights = {f"net.{2 * n}.weight": draw(4, 4, seed=n) for n in range(len(magnitudes))}
    state = {
        name: {
            "step": 10_000,
            "exp_avg": np.full((4, 4), share * magnitude),
            "exp_avg_sq": np.full((4, 4), magnitude**2),
        }
        for name, magnitude in zip(weights, magnitudes, strict=True)
    }
    settings = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, **options}
    return build_checkpoint(weights, optimizer=state, optimizer_options=settings, updates=10_000)


def batch_normed() -> Weights:
    weights = {"conv.weight": draw(8, 3, 3, 3), "conv.bias": draw(8), "bn.weight": draw(8), "bn.bias": draw(8)}
    return weights | {"bn.running_mean": draw(8), "bn.running_var": np.full(8, 0.5), "fc.weight": draw(4, 8)}


RUNNING = ("bn.running_mean", "bn.running_var")

SILENT: Mapping[str, tuple[Rule, Checkpoint]] = {
    "all was trained": (optimizer.untrained_tensor, trained(mlp())),
    "nothing was trained": (optimizer.untrained_tensor, trained(mlp(), dict.fromkeys(mlp(), 0.0))),
    "the state does not fit": (
        optimizer.untrained_tensor, changed(trained(mlp(), {"net.0.weight": 0.0}), mismatch="one too many")
    ),
    "an integer that is kept as a parameter": (
        optimizer.untrained_tensor, trained(mlp(net__2__bits=np.array([8, 4])), {"net.2.bits": None})
    ),
    "a lone number that is kept as a parameter": (
        optimizer.untrained_tensor, trained(mlp(threshold=np.array(0.5)), {"threshold": None})
    ),
    "a tensor without entries": (
        optimizer.untrained_tensor, trained(mlp(adapter__table=np.zeros((0, 4))), {"adapter.table": None})
    ),
    "a zero bias is told elsewhere": (
        optimizer.untrained_tensor, trained(mlp(net__2__bias=np.zeros(8)), {"net.2.bias": 0.0})
    ),
    "a bias in front of a batch norm": (
        optimizer.untrained_tensor, trained(batch_normed(), {"conv.bias": 0.0}, without=RUNNING)
    ),
    "a norm's bias": (
        optimizer.untrained_tensor, trained(mlp(norm__weight=draw(8), norm__bias=draw(8)), {"norm.bias": 0.0})
    ),
    "an optimizer that fits": (optimizer.optimizer_mismatch, trained(mlp())),
    "a learning rate": (optimizer.learning_rate_at_save, with_groups({"lr": 1e-6})),
    "no learning rate": (optimizer.learning_rate_at_save, with_groups({}, {"lr": None}, {"lr": False})),
    "no clip": (gradient_norms.clip_saturated, norm_of(0.5)),
    "a clip of nothing": (gradient_norms.clip_saturated, norm_of(0.0, max_grad_norm=0.0)),
    "a clip below zero": (gradient_norms.clip_saturated, norm_of(1.0, max_grad_norm=-1.0)),
    "a clip that is switched on": (gradient_norms.clip_saturated, norm_of(1.0, max_grad_norm=True)),
    "a clip in words": (gradient_norms.clip_saturated, norm_of(0.5, max_grad_norm="0.5")),
    "gradients above epsilon": (gradient_norms.epsilon_dominated, scaled(1e-3)),
    "no epsilon": (gradient_norms.epsilon_dominated, scaled(1e-12, eps=0.0)),
    "an epsilon that is not there": (gradient_norms.epsilon_dominated, scaled(1e-12, eps=None)),
    "gradients that are none any more": (gradient_norms.epsilon_dominated, scaled(1e-12, share=1e-6)),
    "no gradients at all": (gradient_norms.epsilon_dominated, scaled(0.0)),
    "momentum has no epsilon": (gradient_norms.epsilon_dominated, momentum(mlp())),
}  # fmt: skip


@pytest.mark.parametrize("name", SILENT)
def test_it_is_silent(name: str):
    rule, subject = SILENT[name]
    assert found(rule, subject) == []


def branch(name: str, *tensors: str, stateless: bool = False, updates: int | None = 1000) -> dict[str, Any]:
    return {
        "cause": "never trained",
        "optimizer": "optimizer",
        "branch": name,
        "tensors": list(tensors),
        "without_state": list(tensors) if stateless else [],
        "updates": updates,
    }


SPOKEN: Mapping[str, tuple[Rule, Checkpoint, Severity, str | None, dict[str, Any]]] = {
    "a layer without gradient": (
        optimizer.untrained_tensor, trained(mlp(), {"net.2.weight": 0.0, "net.2.bias": 0.0}), WARNING, "net.2",
        branch("net.2", "net.2.weight", "net.2.bias"),
    ),
    "a layer without state": (
        optimizer.untrained_tensor, trained(mlp(), {"net.2.weight": None, "net.2.bias": None}), WARNING, "net.2",
        branch("net.2", "net.2.weight", "net.2.bias", stateless=True),
    ),
    "a branch": (
        optimizer.untrained_tensor,
        trained(
            mlp(side__0__weight=draw(4, 4), side__2__weight=draw(4, 4)), {"side.0.weight": 0.0, "side.2.weight": 0.0}
        ),
        WARNING, None, branch("side", "side.0.weight", "side.2.weight"),
    ),
    "a weight alone": (
        optimizer.untrained_tensor, trained(mlp(), {"net.2.weight": 0.0}), WARNING, "net.2.weight",
        branch("net.2.weight", "net.2.weight"),
    ),
    "a weight of zeros alone": (
        optimizer.untrained_tensor, trained(mlp(net__2__weight=np.zeros((8, 12))), {"net.2.weight": 0.0}), WARNING,
        "net.2.weight", branch("net.2.weight", "net.2.weight"),
    ),
    "a bias alone": (
        optimizer.untrained_tensor, trained(mlp(), {"net.2.bias": 0.0}), WARNING, "net.2.bias",
        branch("net.2.bias", "net.2.bias"),
    ),
    "a bias in front of a batch norm and its weight": (
        optimizer.untrained_tensor, trained(batch_normed(), {"conv.bias": 0.0, "conv.weight": 0.0}, without=RUNNING),
        WARNING, "conv", branch("conv", "conv.weight", "conv.bias"),
    ),
    "a lone number that once had a gradient of zero": (
        optimizer.untrained_tensor, trained(mlp(threshold=np.array([0.5])), {"threshold": 0.0}), WARNING, "threshold",
        branch("threshold", "threshold"),
    ),
    "two numbers without state": (
        optimizer.untrained_tensor, trained(mlp(threshold=np.array([0.5, 0.4])), {"threshold": None}), WARNING,
        "threshold", branch("threshold", "threshold", stateless=True),
    ),
    "a bias of one entry without state": (
        optimizer.untrained_tensor,
        trained(mlp(side__weight=draw(1, 4), side__bias=draw(1)), {"side.bias": None}), WARNING, "side.bias",
        branch("side.bias", "side.bias", stateless=True),
    ),
    "momentum that is zero": (
        optimizer.untrained_tensor, momentum(mlp(), net__2__weight=0.0, net__2__bias=0.0), WARNING, "net.2",
        branch("net.2", "net.2.weight", "net.2.bias", updates=None),
    ),
    "state that does not fit": (
        optimizer.optimizer_mismatch, changed(trained(mlp()), mismatch="one too many"), ERROR, None,
        {"optimizer": "optimizer"},
    ),
    "negative learning rates": (
        optimizer.learning_rate_at_save, with_groups({"lr": 1e-3}, {"lr": -1e-3}, {"lr": 0.0}, {"lr": -1e-6}), WARNING,
        None, {"optimizer": "optimizer", "learning_rate": -1e-3, "groups": [1, 3]},
    ),
    "learning rates of zero": (
        optimizer.learning_rate_at_save, with_groups({"lr": 1e-3}, {"lr": 0}, {"lr": 0.0}), NOTE, None,
        {"optimizer": "optimizer", "learning_rate": 0.0, "groups": [1, 2]},
    ),
    "a clip that was reached": (
        gradient_norms.clip_saturated, norm_of(0.5, max_grad_norm=0.5), NOTE, None,
        {"optimizer": "optimizer", "implied_gradient_norm": 0.5, "clip": 0.5},
    ),
    "a clip by another name": (
        gradient_norms.clip_saturated,
        norm_of(2.0, max_grad_norm=None, gradient_clip_val=0, clip_grad_norm=2), NOTE, None,
        {"optimizer": "optimizer", "implied_gradient_norm": 2.0, "clip": 2.0},
    ),
    "gradients below epsilon": (
        gradient_norms.epsilon_dominated, scaled(1e-12, 1e-12, 1.0, eps=1e-8), NOTE, None,
        {"optimizer": "optimizer", "component": None, "share": 2 / 3, "epsilon": 1e-8,
         "effective_step": np.sqrt((2 * 1e-4**2 + 1) / 3)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOKEN)
def test_it_says_what_is_wrong_and_where(name: str):
    rule, subject, severity, place, evidence = SPOKEN[name]
    (finding,) = found(rule, subject)
    assert told(finding) == (severity, place)
    assert finding.evidence == {
        key: pytest.approx(value, rel=1e-3) if isinstance(value, float) else value for key, value in evidence.items()
    }
    assert {each.safety for each in finding.repairs} <= {rule.fix}


def test_only_negative_learning_rates_that_lie_in_the_file_are_set_to_zero():
    subject = with_groups({"lr": -1e-6}, {"lr": -1e-3}, {"lr": 1e-3})
    (finding,) = optimizer.learning_rate_at_save.examine(subject)
    assert (finding.severity, finding.evidence["groups"]) == (WARNING, [0, 1])
    (repair,) = finding.repairs
    assert (repair.tensor, repair.safety) == ("optimizer/0/lr", Safety.SAFE)
    assert repair.renew(np.array(-1e-6), np.random.default_rng(0)) == 0.0


@pytest.mark.xfail(strict=True, reason="the check of the contract only knows the model's own tensors")
def test_a_repair_of_what_an_optimizer_keeps_is_within_the_contract():
    assert found(optimizer.learning_rate_at_save, with_groups({"lr": -1e-6}))


@pytest.mark.parametrize(
    ("seconds", "words", "advice"),
    [
        ({"net.2.weight": 0.0, "net.2.bias": 0.0}, "4 others: every gradient was exactly zero", "saturated"),
        ({"net.2.weight": None, "net.2.bias": None}, "4 others: it received no gradient", "requires_grad"),
        ({"net.2.weight": None, "net.2.bias": 0.0}, "4 others: every gradient was exactly zero", "requires_grad"),
        ({"net.2.weight": 0.0}, "5 others: every gradient was exactly zero", "saturated"),
    ],
)
def test_what_was_never_trained_is_told_with_how_we_know(seconds: Mapping[str, Any], words: str, advice: str):
    (finding,) = found(optimizer.untrained_tensor, trained(mlp(), seconds))
    assert words in finding.message
    assert "in 1,000 updates" in finding.message
    assert advice in finding.advice


# Units and inputs without gradient


def layered(
    *widths: int,
    silent: Mapping[int, tuple[int, ...]] | None = None,
    never: Mapping[int, tuple[int, ...]] | None = None,
    unread: Mapping[int, tuple[int, ...]] | None = None,
    unfed: Mapping[int, tuple[int, ...]] | None = None,
    cut: Mapping[int, tuple[int, ...]] | None = None,
    biases: bool = True,
    hyperparameters: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Checkpoint:
    """Linear layers with Adam's moments; by layer, the units that have fallen silent or never had a gradient.

    ``unread`` names inputs that a layer has no gradient for any more, ``unfed`` those it never had one for, ``cut``
    those behind weights of zero.
    """
    weights: Weights = {}
    state: dict[str, dict[str, Any]] = {}
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        weight, bias = draw(outputs, inputs, seed=number), draw(outputs, seed=number)
        second = np.abs(draw(outputs, inputs, seed=9)) * 1e-2
        bias_second = np.abs(draw(outputs, seed=9)) * 1e-2
        first, bias_first = np.sqrt(second), np.sqrt(bias_second)
        for units, factor in (((silent or {}).get(number, ()), 1e-6), ((never or {}).get(number, ()), 0.0)):
            first[list(units)] *= factor
            bias_first[list(units)] *= factor
        for units in ((never or {}).get(number, ()),):
            second[list(units)] = 0
            bias_second[list(units)] = 0
        first[:, list((unread or {}).get(number, ()))] *= 1e-6
        first[:, list((unfed or {}).get(number, ()))] = 0
        second[:, list((unfed or {}).get(number, ()))] = 0
        weight[:, list((cut or {}).get(number, ()))] = 0
        weights[f"net.{2 * number}.weight"] = weight
        state[f"net.{2 * number}.weight"] = {"step": 1000, "exp_avg": first, "exp_avg_sq": second}
        if biases:
            weights[f"net.{2 * number}.bias"] = bias
            state[f"net.{2 * number}.bias"] = {"step": 1000, "exp_avg": bias_first, "exp_avg_sq": bias_second}
    return build_checkpoint(
        weights, optimizer=state, updates=1000, hyperparameters=hyperparameters or {"activation": "ReLU"}, **fields
    )


def dormant(subject: Checkpoint) -> list[tuple[Severity, str | None]]:
    return [told(finding) for finding in found(silence.dormant_units, subject)]


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_dead_units_are_told_in_full():
    subject = layered(6, 10, 8, 4, silent={0: (2, 5)}, never={0: (7,)}, unread={1: (2, 5)}, unfed={1: (7,)})
    finding = only(found(silence.dormant_units, subject))
    ago = [round(np.log(1e6) / (-np.log(0.9) + np.log(0.999) / 2), -1)] * 2
    assert told(finding) == (NOTE, "net.0")
    assert finding.evidence == {
        "units": [2, 5, 7],
        "layer_units": 10,
        "dormant_fraction": 0.3,
        "never_learned": [7],
        "stopped": [2, 5],
        "stopped_updates_ago": ago,
        "updates": 1000,
        "dead": [2, 5, 7],
        "saturated": [],
        "cut_off": [],
    }
    assert finding.message == (
        "3 of 10 units receive no gradient (30%): 1 never received one, 2 have received none for about 130 updates; "
        "3 dead ReLUs"
    )
    assert "Recycle them" in finding.advice
    assert [(each.tensor, each.safety) for each in finding.repairs] == [
        ("net.0.weight", Safety.ON_REQUEST),
        ("net.0.bias", Safety.ON_REQUEST),
        ("net.2.weight", Safety.ON_REQUEST),
    ]


@pytest.mark.parametrize(
    ("activation", "told_as", "advice", "recycled"),
    [
        ("ReLU", "2 dead ReLUs", "Recycle", True),
        ("ELU", "2 with an output of 0", "", True),
        ("Tanh", "2 with an output of 0", "", False),
    ],
)
def test_units_that_their_readers_do_not_hear_are_dead(activation: str, told_as: str, advice: str, recycled: bool):
    subject = layered(
        6, 10, 8, 4, silent={0: (2, 5)}, unread={1: (2, 5)}, hyperparameters={"activation": activation}
    )  # fmt: skip
    finding = only(found(silence.dormant_units, subject))
    assert finding.evidence["dead"] == [2, 5]
    assert finding.message.endswith(told_as)
    assert finding.advice.startswith(advice)
    assert bool(advice) is bool(finding.advice)
    assert bool(finding.repairs) is recycled


@pytest.mark.parametrize(
    ("activation", "told_as"),
    [("Tanh", "2 saturated"), ("ReLU", "2 with an output that passes no gradient back")],
)
def test_units_that_their_readers_hear_are_saturated(activation: str, told_as: str):
    subject = layered(6, 10, 8, 4, silent={0: (2, 5)}, hyperparameters={"activation": activation})
    finding = only(found(silence.dormant_units, subject))
    assert (finding.evidence["saturated"], finding.evidence["dead"]) == ([2, 5], [])
    assert finding.message.endswith(told_as)
    assert "The inputs do not look large (RMS 1.1)" in finding.advice
    assert finding.repairs == ()


def test_units_whose_outgoing_weights_are_zero_are_cut_off():
    subject = layered(6, 10, 8, 4, silent={0: (2, 5, 8)}, unread={1: (2, 5)}, cut={1: (2,)})
    finding = only(found(silence.dormant_units, subject))
    evidence = finding.evidence
    assert (evidence["cut_off"], evidence["dead"], evidence["saturated"]) == ([2], [5], [8])
    assert finding.message.endswith(
        "1 dead ReLU, 1 with an output that passes no gradient back, 1 cut off by zero outgoing weights"
    )


def test_readers_of_another_width_cannot_be_asked():
    subject = layered(6, 10, 8, 4, silent={0: (2, 5)})
    layer = subject.layer_by_name["net.0"]
    activity = unit_activity(layer, subject, 1e-4)
    assert activity is not None
    assert find_inactivity_causes(layer, activity, subject, 1e-4) is not None
    assert find_inactivity_causes(replace(layer, followers=("net.4",)), activity, subject, 1e-4) is None
    assert find_inactivity_causes(replace(layer, followers=(), following=None), activity, subject, 1e-4) is None


def test_where_the_readers_are_silent_too_the_cause_lies_behind():
    subject = layered(6, 10, 8, 4, silent={0: tuple(range(10)), 1: tuple(range(8))})
    first, second = found(silence.dormant_units, subject)
    assert [told(first), told(second)] == [(WARNING, "net.0"), (ERROR, "net.2")]
    assert "the cause is closer to the output" in first.message
    assert "Look at the layers behind this one" in first.advice
    assert (first.evidence["dead"], first.evidence["saturated"], first.repairs) == ([], [], ())


@pytest.mark.parametrize(
    "subject",
    [
        layered(6, 10, 8, 4),
        layered(6, 10, 8, 4, never={0: tuple(range(10))}),
        layered(6, 10, silent={0: tuple(range(10))}),
        layered(6, 10, 8, 4, silent={number: tuple(range(width)) for number, width in enumerate((10, 8, 4))}),
        layered(6, 10, 8, 4, silent={2: (1,)}),
        layered(6, 10, 8, 4, unread={0: (2,)}),
    ],
    ids=["live", "never trained at all", "alone", "everything silent", "outputs", "inputs"],
)
def test_no_unit_is_called_dormant(subject: Checkpoint):
    assert dormant(subject) == []


def test_units_of_a_lone_layer_may_be_silent():
    assert dormant(layered(6, 10, silent={0: (2, 5)})) == [(NOTE, "net.0")]


def test_the_units_of_a_transposed_matrix_are_its_columns():
    subject = layered(6, 10, 8, 4, unread={0: (2, 5)}, biases=False)
    activity = unit_activity(replace(subject.layer_by_name["net.0"], transposed=True), subject, 1e-4)
    assert activity is not None
    assert np.flatnonzero(activity.inactive).tolist() == [2, 5]


def test_as_many_dead_as_saturated_units_are_advised_as_dead():
    finding = only(found(silence.dormant_units, layered(6, 10, 8, 4, silent={0: (2, 5)}, unread={1: (2,)})))
    assert (finding.evidence["dead"], finding.evidence["saturated"]) == ([2], [5])
    assert "Recycle them" in finding.advice


def test_a_silent_bias_alone_makes_no_unit_silent():
    subject = layered(6, 10, 8, 4)
    moments = subject.optimizers[0].parameters
    still = replace(moments[1].state["exp_avg"], values=InMemory(np.full(10, 1e-12)))
    parameters = (moments[0], replace(moments[1], state={**moments[1].state, "exp_avg": still}), *moments[2:])
    assert dormant(changed(subject, parameters=parameters)) == []


def test_moments_that_are_not_finite_tell_nothing():
    subject = layered(6, 10, 8, 4, silent={0: (2, 5)})
    assert dormant(subject) == [(NOTE, "net.0")]
    for key in ("exp_avg", "exp_avg_sq"):
        moments = subject.optimizers[0].parameters
        array = moments[0].state[key].array.copy()
        array[0, 0] = np.nan
        spoiled = replace(
            moments[0], state={**moments[0].state, key: replace(moments[0].state[key], values=InMemory(array))}
        )
        assert dormant(changed(subject, parameters=(spoiled, *moments[1:]))) == []


@pytest.mark.parametrize(
    ("subject", "inputs"),
    [
        (layered(10, 8, 6, 4, unfed={0: (2, 7, 8)}), [2, 7, 8]),
        (layered(10, 8, 6, 4, unfed={0: tuple(range(10))}), list(range(10))),
        (layered(10, 8, 6, 4, unread={0: (2, 7, 8)}), None),
        (layered(10, 8, 6, 4, unfed={1: (2, 7)}), None),
        (layered(10, 8, 6, 4, never={0: tuple(range(8))}), None),
        (layered(10, 8, 6, 4), None),
        (layered(10, 8, unfed={0: (2,)}), [2]),
    ],
    ids=["some", "all", "not any more", "of a later layer", "of units that never learned", "none", "of the only layer"],
)
def test_inputs_that_never_carried_a_signal(subject: Checkpoint, inputs: list[int] | None):
    findings = found(dead_inputs.dead_inputs, subject)
    severity = WARNING if inputs is not None and len(inputs) == 10 else NOTE
    assert [told(each) for each in findings] == ([] if inputs is None else [(severity, "net.0")])
    for each in findings:
        assert {"inputs": inputs, "layer_inputs": 10, "updates": 1000}.items() <= each.evidence.items()
        assert ("all 10 inputs" if severity is WARNING else f"{len(inputs or ())} of 10 inputs") in each.message


def test_ranges_of_inputs_are_shortened():
    unfed = (0, 1, 3, 5, 7, 9, 11, 13, 15, 17)
    (finding,) = found(dead_inputs.dead_inputs, layered(20, 8, 6, 4, unfed={0: unfed}))
    assert "(0–1, 3, 5, 7, 9, 11, 13, 15 …)" in finding.message
    (finding,) = found(dead_inputs.dead_inputs, layered(20, 8, 6, 4, unfed={0: unfed[:-1]}))
    assert "(0–1, 3, 5, 7, 9, 11, 13, 15)" in finding.message


def test_without_an_optimizer_nothing_is_said():
    assert dormant(build_checkpoint(mlp())) == []
    assert found(dead_inputs.dead_inputs, build_checkpoint(mlp())) == []


def test_parameters_keep_their_optimizers():
    """A layer that is silent throughout means something only where the same optimizer trains another one."""
    subject = layered(6, 10, 8, 4, silent={0: tuple(range(10))})
    assert dormant(subject) == [(ERROR, "net.0")]
    (single,) = subject.optimizers
    halves = [single.parameters[:2], single.parameters[2:]]
    apart = [
        Optimizer(f"optimizer {number}", "Adam", single.groups, tuple(Moments(**vars_of(each)) for each in half))
        for number, half in enumerate(halves)
    ]
    assert dormant(replace(subject, optimizers=tuple(apart))) == []


def vars_of(moments: Moments) -> dict[str, Any]:
    return {"index": moments.index, "tensor": moments.tensor, "step": moments.step, "state": moments.state}
