"""What OPT001 says of tensors that an optimizer forgot, and of parameters whose names are not known."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from msgspec.structs import replace

from checkpoint_doctor import Checkpoint, Severity
from checkpoint_doctor.builtin.analyzers.optimizer.optimizer import untrained_tensor
from checkpoint_doctor.testing import build_checkpoint, findings_of


def network(*prefixes: str) -> dict[str, np.ndarray]:
    """A perceptron of three layers under each prefix."""
    return {
        f"{prefix}{number}.{role}": np.random.default_rng(number).normal(size=shape)
        for prefix in prefixes
        for number, outputs, inputs in ((0, 16, 6), (2, 16, 16), (4, 3, 16))
        for role, shape in (("weight", (outputs, inputs)), ("bias", (outputs,)))
    }


def held(weights: dict[str, np.ndarray], names: Iterable[str]) -> Checkpoint:
    state = {
        name: {
            "step": 300,
            "exp_avg": np.full(weights[name].shape, 1e-3),
            "exp_avg_sq": np.full(weights[name].shape, 1e-5),
        }
        for name in names
    }
    return build_checkpoint(weights, optimizer=state, step=300)


MLP = network("")
BODY = [name for name in MLP if not name.startswith("4")]


@pytest.mark.parametrize(
    ("checkpoint", "tensors"),
    [
        (held(MLP, MLP), None),
        (held(MLP, BODY), ["4.weight", "4.bias"]),
        (held(MLP, [name for name in MLP if "weight" in name]), ["0.bias", "2.bias", "4.bias"]),
        (held(MLP, ["4.weight", "4.bias"]), None),
        (held(MLP, ["2.weight", "2.bias"]), None),
        (held(network("predictor.", "target."), network("predictor.")), None),
        (held(network("model.", "ema."), network("model.")), None),
    ],
    ids=["all", "head left out", "biases left out", "frozen body", "one layer", "fixed target", "averaged copy"],
)
def test_heads_and_biases_that_no_optimizer_holds(checkpoint: Checkpoint, tensors: list[str] | None) -> None:
    findings = findings_of(untrained_tensor, checkpoint)
    assert [each.evidence["tensors"] for each in findings] == ([tensors] if tensors else [])
    assert all(each.severity is Severity.WARNING and "held by no optimizer" in each.message for each in findings)


def test_two_optimizers_over_one_network_forgot_the_other() -> None:
    weights = network("generator.", "discriminator.")
    one = held(weights, network("discriminator."))
    both = tuple(replace(one.optimizers[0], name=name) for name in ("optimizer_g", "optimizer_d"))
    (finding,) = findings_of(untrained_tensor, replace(one, optimizers=both))
    assert finding.evidence["tensors"] == list(network("generator."))
    assert findings_of(untrained_tensor, one) == [], "a generator that is not trained here"


def unnamed(*indices: int) -> Checkpoint:
    """A checkpoint in which the parameters at these positions have neither a name nor state."""
    whole = held(MLP, MLP)
    optimizer = whole.optimizers[0]
    parameters = tuple(
        replace(each, tensor=None, state={}, step=None) if each.index in indices else each
        for each in optimizer.parameters
    )
    return replace(whole, optimizers=(replace(optimizer, parameters=parameters, unmatched="several fit"),))


def test_parameters_without_a_name_still_count() -> None:
    (finding,) = findings_of(untrained_tensor, unnamed(2, 3))
    assert finding.message.startswith("2 of 6 parameters of optimizer have no state after 300 updates")
    assert finding.evidence["without_state"] == ["parameter 2", "parameter 3"]
    assert findings_of(untrained_tensor, unnamed(3)) == []
