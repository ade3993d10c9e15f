"""How large an optimizer's steps are against the weights: far too large, or so small that nothing moved."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

from checkpoint_doctor.builtin.analyzers._evidence.absent_gradients import count_updates
from checkpoint_doctor.builtin.analyzers._evidence.initial_parameters import matrices_of
from checkpoint_doctor.builtin.analyzers._evidence.lifted_moments import has_lifted_moments
from checkpoint_doctor.builtin.analyzers._evidence.unmoved_parameters import find_unmoved
from checkpoint_doctor.checkpoint import Checkpoint, Optimizer, Tensor
from checkpoint_doctor.checkpoint.optimizer_steps import largest_relative_step, relative_step
from checkpoint_doctor.layers import DENSE
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity

_SMALLEST_GAIN = 0.1
"""RMS(w)·√fan-in below which a weight may have started at zero, as a LoRA's second factor does: its first steps are as
large as itself. Initialised layers have 0.58 or more."""

_ADVICE = {
    "learning rate": "Check the learning rate and its schedule.",
    "step size": "Check ε and the clip of the gradient norm.",
    "initial weights saved": "Check which object was saved: a copy that was made before training is not updated.",
}


@rule("OPT008", "update-ratio", Severity.WARNING, on=Optimizer, worse=("ratio",), part=("cause",))
def update_ratio(
    optimizer: Optimizer,
    checkpoint: Checkpoint,
    *,
    largest: float = 0.1,
    smallest: float = 1e-8,
    least_updates: int = 100,
) -> Iterator[Finding]:
    """The optimizer's steps are far too large for the weights, or far too small to change them.

    Why it matters:
        The ratio of a step to the weights that it changes is the speed of learning. Above a tenth, a few steps replace
        what a layer has learned. Below 1e-8, a step is smaller than the rounding error of float32.

    When it is normal:
        In the first updates, and in weights that started at zero. Neither is reported, nor are optimizers that choose
        their steps themselves (Prodigy, D-Adaptation, Adafactor, LAMB), nor a learning rate that a schedule lowered.

    What to do:
        Too large: lower the learning rate, by the factor by which the ratio exceeds 1e-3. Too small: check the learning
        rate, ε and the clip.

    Options:
        largest: The change of a weight in one update, as a share of its size, above which it is reported; 348 weights
            of published agents have 1.2e-6 to 1.7e-3.
        smallest: The change in one update below which all weights together are a note: a tenth of float32's rounding
            error, and the limit of SageMaker Debugger's WeightUpdateRatio.
        least_updates: The number of updates from which steps are judged; in Adam's first hundred, they are larger than
            later.

    References:
        lr · RMS(m̂ / (√v̂ + ε)) / RMS(w). The median of published agents is 1.5e-4; 1e-3 is the usual rule of thumb
        (Karpathy, Neural Networks: Zero to Hero).
    """
    if not optimizer.takes_adam_steps or has_lifted_moments(optimizer):
        return
    bounds = list(_bounds(optimizer, checkpoint, least_updates))
    for index, tensor, bound in bounds:
        if bound <= largest or _gain(tensor) < _SMALLEST_GAIN:
            continue
        step = relative_step(optimizer.parameters[index], optimizer)
        ratio = _rate_of(optimizer, index) * (step or 0.0) / _rms(tensor)
        if ratio > largest:
            yield update_ratio.finding(
                f"each update changes it by {ratio:.0%} of its size (trained layers: below 0.2%): the learning rate of "
                f"{_rate_of(optimizer, index):.3g} is too high",
                tensor,
                evidence={"cause": "too large", "optimizer": optimizer.name, "ratio": ratio},
                advice="Lower the learning rate.",
            )
    rates = [_rate_of(optimizer, index) for index, _, _ in bounds]
    if bounds and min(rates) > 0 and max(bound for _, _, bound in bounds) < smallest:
        if find_unmoved(optimizer, checkpoint):
            return  # nothing-moved says more
        ratio = max(bound for _, _, bound in bounds)
        yield update_ratio.finding(
            f"updates by {optimizer.name} change the weights by less than {ratio:.1g} of their size: they are lost in "
            f"rounding",
            severity=Severity.NOTE,
            evidence={"cause": "too small", "optimizer": optimizer.name, "ratio": ratio},
            advice="Check the learning rate, ε and the clip of the gradient norm.",
        )


@rule("OPT009", "nothing-moved", Severity.ERROR, on=Optimizer, part=("optimizer", "cause"), worse=("tensors",))
def nothing_moved(optimizer: Optimizer, checkpoint: Checkpoint, *, least_updates: int = 10) -> Iterator[Finding]:
    """Parameters are still the initial ones, although the optimizer recorded gradients for them.

    Why it matters:
        The run counted updates and the loss had gradients, but nothing was learned, or what was learned is not in this
        file.

    When it is normal:
        A learning rate of zero at the end of a schedule: the parameters have moved before, and nothing is reported. A
        group whose rate is zero on purpose is a warning; freeze it with ``requires_grad=False`` instead.

    What to do:
        Learning rate: check the units of the rate and the schedule (a warm-up that is longer than the training, a
        factor of zero). Step size: check ε and the clip of the gradient norm. Initial weights saved: check which object
        was saved, such as a copy of the model that was made before training.

    Options:
        least_updates: The number of updates from which it is reported; before, a warm-up may have begun at zero.

    References:
        One update moves every parameter with a gradient by about the learning rate. So norm gains of exactly 1,
        biases of exactly 0, or weights that are within PyTorch's initial interval ±1/√fan_in and uniform in it to
        four standard errors, were never moved. Weights of trained networks leave the interval: of 4,000 weights,
        moves by a hundredth of its width put a dozen outside.
    """
    steps = count_updates(optimizer) or checkpoint.updates or checkpoint.step or 0
    found = find_unmoved(optimizer, checkpoint) if steps >= least_updates else None
    if found is None:
        return
    which = "parameters" if found.is_whole else f"parameters of group {', '.join(map(str, found.groups))}"
    rate = max(optimizer.groups[number].learning_rate for number in found.groups)
    why = {
        "learning rate": f"the learning rate is {rate:.3g}",
        "step size": "the steps were far smaller than the learning rate, because of ε or the clip",
        "initial weights saved": f"with a learning rate of {rate:.3g} they must have moved, so the trained weights are "
        f"not the ones in this file",
    }[found.cause]
    yield nothing_moved.finding(
        f"the {which} of {optimizer.name} are still the initial ones after {steps:,} updates with gradient: {why}",
        severity=Severity.ERROR if found.is_whole else Severity.WARNING,
        evidence={
            "cause": found.cause,
            "optimizer": optimizer.name,
            "tensors": found.evidence.names,
            "groups": found.groups,
            "learning_rate": rate,
            "updates": steps,
        },
        advice=_ADVICE[found.cause],
    )


def _bounds(optimizer: Optimizer, checkpoint: Checkpoint, least_updates: int) -> Iterator[tuple[int, Tensor, float]]:
    """Yield the position of each weight matrix, its tensor, and an upper bound of its update ratio."""
    for index, tensor, layer in matrices_of(optimizer, checkpoint):
        moments = optimizer.parameters[index]
        if layer.kind not in DENSE or (moments.step or 0) < least_updates or not _rms(tensor):
            continue
        bound = largest_relative_step(moments, optimizer)
        if bound:
            group = optimizer.group_of(index)
            yield index, tensor, (group.largest_learning_rate if group else 0.0) * bound / _rms(tensor)


def _rate_of(optimizer: Optimizer, index: int) -> float:
    group = optimizer.group_of(index)
    return group.learning_rate if group else 0.0


def _rms(tensor: Tensor) -> float:
    norm = tensor.statistics.norm
    return norm / sqrt(tensor.size) if norm else 0.0


def _gain(tensor: Tensor) -> float:
    return _rms(tensor) * sqrt(tensor.fan_in)
