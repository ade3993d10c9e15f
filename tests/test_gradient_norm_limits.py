"""Gradients beside ε and the clip: each limit from both sides, and each condition alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from checkpoint_doctor.builtin.analyzers.optimizer.gradient_norms import clip_saturated, epsilon_dominated
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.testing import build_checkpoint, findings_of

NOTE, WARNING = Severity.NOTE, Severity.WARNING
POLICY = ("mlp_extractor.policy_net.0.weight", "mlp_extractor.policy_net.2.weight")
VALUE = ("mlp_extractor.value_net.0.weight", "mlp_extractor.value_net.2.weight")


def optimized(
    below: Mapping[str, int], steps: Mapping[str, float], *, epsilon: float = 1e-5, updates: int | None = 1000
) -> Checkpoint:
    """Weights of a hundred entries, of whose gradients so many are a tenth of ε and the others ten times as large.

    Every entry's next step is this share of the learning rate.
    """
    random = np.random.default_rng(0)
    tensors, state = {}, {}
    counted = 1000 if updates is None else updates
    for name, count in below.items():
        root = np.full(100, 10 * epsilon)
        root[:count] = 0.1 * epsilon
        tensors[name] = random.normal(0, 0.3, (10, 10))
        first = steps[name] * (root + epsilon) * (1 - 0.9**counted)
        state[name] = {
            "exp_avg": first.reshape(10, 10),
            "exp_avg_sq": (root**2 * (1 - 0.999**counted)).reshape(10, 10),
        }
        if updates is not None:
            state[name]["step"] = np.array(updates)
    options = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": epsilon}
    return build_checkpoint(tensors, optimizer=state, optimizer_options=options)


def one(below: int, step: float = 0.5, *, epsilon: float = 1e-5, **settings: Any) -> Checkpoint:
    return optimized({"net.0.weight": below}, {"net.0.weight": step}, epsilon=epsilon, **settings)


@pytest.mark.parametrize(
    ("checkpoint", "severity"),
    [
        (one(50), None),
        (one(51), NOTE),
        (one(100), NOTE),
        (one(90, 0.9e-3), WARNING),
        (one(89, 0.9e-3), NOTE),
        (one(95, 0.9e-3), WARNING),
        (one(95, 1.1e-3), NOTE),
        (one(95, 0.0195, epsilon=0.01), WARNING),
        (one(95, 0.0205, epsilon=0.01), NOTE),
        (one(95, 0.0195, epsilon=0.0099), NOTE),
        (one(95, 0.9e-3, epsilon=0.0099), WARNING),
        (one(95, 0.9e-3, updates=None), None),
    ],
)
def test_when_the_optimizer_no_longer_adapts(checkpoint: Checkpoint, severity: Severity | None) -> None:
    found = findings_of(epsilon_dominated, checkpoint)
    assert [each.severity for each in found] == ([severity] if severity else [])
    for each in found:
        assert bool(each.advice) == (severity is WARNING)


def test_what_is_said_of_gradients_below_epsilon() -> None:
    (finding,) = findings_of(epsilon_dominated, one(80, 0.25))
    assert finding.message == (
        "80% of the gradients in optimizer are smaller than its ε of 1e-05; its steps are 0.25 of the learning rate on "
        "average"
    )
    assert finding.evidence == {
        "optimizer": "optimizer",
        "component": None,
        "share": pytest.approx(0.8),
        "epsilon": 1e-5,
        "effective_step": pytest.approx(0.25),
    }


def agent(
    policy: float = 0.9e-3, value: float = 0.5, *, share: int = 100, names: tuple[str, ...] = POLICY, **settings: Any
) -> Checkpoint:
    """A policy whose gradients are below ε, beside a value network whose gradients are not, and their steps."""
    below = {name: share if name in names else 0 for name in (*names, *VALUE)}
    return optimized(below, {name: policy if name in names else value for name in below}, **settings)


def components(checkpoint: Checkpoint) -> list[str | None]:
    return [each.evidence["component"] for each in findings_of(epsilon_dominated, checkpoint, share=0.95)]


@pytest.mark.parametrize(
    ("checkpoint", "speaks"),
    [
        (agent(), True),
        (agent(0.95e-3), True),
        (agent(1.05e-3), False),
        (agent(value=0.0105), True),
        (agent(value=0.0095), False),
        (agent(share=90), True),
        (agent(share=89), False),
        (agent(names=POLICY[:1]), False),
        (agent(updates=50), True),
        (agent(updates=49), False),
        (agent(updates=None), False),
    ],
)
def test_when_a_component_is_starved(checkpoint: Checkpoint, speaks: bool) -> None:
    assert len(components(checkpoint)) == speaks


def test_what_is_said_of_a_starved_component() -> None:
    (finding,) = findings_of(epsilon_dominated, agent())
    assert (finding.severity, finding.evidence["component"]) == (WARNING, "policy")
    assert finding.message == (
        "gradients of policy are smaller than ε: its steps are 0.0009 of the learning rate, while those of other "
        "components are 0.5"
    )
    assert finding.evidence["tensors"] == list(POLICY)
    assert finding.evidence["share"] == pytest.approx(1.0)


def test_a_component_is_not_told_beside_the_whole_optimizer() -> None:
    """Nine tenths of all gradients are below ε, so the whole optimizer is judged."""
    below = {**dict.fromkeys(POLICY, 100), VALUE[0]: 80, VALUE[1]: 80}
    steps = {**dict.fromkeys(POLICY, 0.9e-3), **dict.fromkeys(VALUE, 0.5)}
    assert [each.evidence["component"] for each in findings_of(epsilon_dominated, optimized(below, steps))] == [None]
    below[VALUE[0]] = 79
    found = [each.evidence["component"] for each in findings_of(epsilon_dominated, optimized(below, steps))]
    assert found == ["policy", None]


def test_vectors_and_parameters_without_a_name_are_no_part_of_a_component() -> None:
    checkpoint = agent()
    (optimizer,) = checkpoint.optimizers
    unknown = tuple(replace(each, tensor=None) for each in optimizer.parameters)
    assert components(replace(checkpoint, optimizers=(replace(optimizer, parameters=unknown),))) == []
    flat = {each.name: each.array.reshape(-1) for each in checkpoint.tensors}
    state = {
        each.tensor: {"step": 1000, **{key: value.array.reshape(-1) for key, value in each.state.items()}}
        for each in optimizer.parameters
        if each.tensor
    }
    options = dict(optimizer.groups[0].options)
    assert components(build_checkpoint(flat, optimizer=state, optimizer_options=options)) == []


def test_a_network_without_components_is_not_starved() -> None:
    names = ("0.weight", "2.weight")
    assert components(optimized({**dict.fromkeys(names, 100), VALUE[0]: 0}, {**dict.fromkeys(names, 0.9e-3),
                                VALUE[0]: 0.5})) == []  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "clip"),
    [
        ({"max_grad_norm": 0.5}, 0.5),
        ({"max_grad_norm": 0, "gradient_clip_val": 0.5}, 0.5),
        ({"max_grad_norm": -0.5, "grad_clip": 0.5}, 0.5),
        ({"max_grad_norm": "0.5", "max_norm": 0.5}, 0.5),
        ({"max_grad_norm": True, "clip_grad_norm": 0.5}, 0.5),
        ({"gradient_clipping": 0.5}, 0.5),
        ({"max_grad_norm": 0.511}, None),
        ({"max_grad_norm": 0.509}, 0.509),
        ({"max_grad_norm": 0.491}, 0.491),
        ({"max_grad_norm": 0.489}, None),
        ({"max_grad_norm": -0.5}, None),
        ({}, None),
    ],
)
def test_a_norm_that_equals_the_clip(settings: dict[str, Any], clip: float | None) -> None:
    checkpoint = replace(one(0, epsilon=5e-3), hyperparameters=settings)  # a hundred gradients of 0.05
    assert [each.evidence["clip"] for each in findings_of(clip_saturated, checkpoint)] == ([clip] if clip else [])
