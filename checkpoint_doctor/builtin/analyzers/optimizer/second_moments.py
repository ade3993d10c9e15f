"""Second moments that do not belong to the gradients: infinite, lifted by a huge one, underflowed; or that are huge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import exp
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers._evidence.lifted_moments import has_lifted_moments, updates_to_recover
from checkpoint_doctor.checkpoint import Checkpoint, Moments, Optimizer, Tensor
from checkpoint_doctor.checkpoint.moment_decay import decay_rates_of
from checkpoint_doctor.checkpoint.optimizer_steps import implied_gradient_norm
from checkpoint_doctor.layers.init_rules import fill_typical
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Repair, Safety, Severity
from checkpoint_doctor.statistics.values import as_real

if TYPE_CHECKING:
    from numpy.random import Generator


_LARGEST_FIRST = 10.0
"""First moment above which the huge gradient is still in it. It decays to nothing within some hundred updates."""


@rule(
    "OPT007",
    "poisoned-moments",
    Severity.ERROR,
    on=Optimizer,
    fix=Safety.SAFE,
    part=("optimizer", "cause"),
    worse=("tensors", "infinite"),
)
def poisoned_moments(optimizer: Optimizer) -> Iterator[Finding]:
    """Second moments are infinite, or one huge gradient lifted all of them: steps are zero or nearly zero.

    Why it matters:
        Adam divides each step by √v. Where v is infinite, the step is m/∞ = 0, in this update and in all later ones:
        the entry is frozen. Where one huge gradient lifted v, steps are nearly zero until v has decayed, which takes
        thousands of updates. The weights themselves are fine, only the optimizer's state is not.

    When it is normal:
        Never. Small first moments alone are normal near the end of a training, and are not reported: √v is then small
        as well.

    What to do:
        Continue with a new optimizer, or let ``ckdoc fix`` replace the infinite entries by the median of the finite
        ones (where a tensor has none, only a new optimizer helps). ``ckdoc fix --recycle`` sets lifted second moments
        to the size of the present gradients, as the first moments show it: mean(m²) · (1 + β1)/(1 − β1). Look for the
        batch that caused the gradient, and clip gradients (``clip_grad_norm_``) from now on: a clipped gradient cannot
        do this.

    References:
        A gradient above 1.8e19 overflows float32 when it is squared. Measured on a regression: 301 more updates with
        infinite second moments made no weight non-finite and changed none of those entries. After one gradient 1e9
        times as large as the others, the loss stayed at 1.1 with the saved state, and fell from 1.20 to 0.14 with a
        fresh one. Lifted: in every tensor, the output layer included, the largest |m| is below a thousandth of the
        largest √v, the implied gradient norm is above 10, and |m|/√v differs between entries as live gradients do.
    """
    infinite = {moments.index: count for moments in optimizer.parameters if (count := _count_infinite(moments))}
    if infinite:
        spoiled = [moments for moments in optimizer.parameters if moments.index in infinite]
        total = sum(infinite.values())
        entries = sum(moments.second.size for moments in spoiled if moments.second is not None)
        repairs = _replace_infinite(spoiled)
        yield poisoned_moments.finding(
            f"{total:,} of {entries:,} second moments in {len(spoiled):,} tensors of {optimizer.name} are infinite: "
            f"their weights are finite, but frozen, since every step is m/∞ = 0",
            evidence={
                "cause": "infinite",
                "optimizer": optimizer.name,
                "tensors": [_name(moments) for moments in spoiled],
                "infinite": total,
                "count": entries,
            },
            repairs=repairs,
            advice="Clip gradients, and look for the batch whose gradient overflowed."
            if repairs
            else "Continue with a new optimizer, clip gradients, and look for the batch whose gradient overflowed.",
        )
    if has_lifted_moments(optimizer):
        recovery = updates_to_recover(optimizer)
        after = f"; √v needs about {float(f'{recovery:.1e}'):,.0f} updates to decay" if recovery else ""
        yield poisoned_moments.finding(
            f"one huge gradient lifted the second moments of all tensors in {optimizer.name} far above its gradients: "
            f"steps are nearly zero{after}",
            severity=Severity.WARNING,
            evidence={
                "cause": "huge gradient",
                "optimizer": optimizer.name,
                "tensors": [_name(moments) for moments in optimizer.parameters if moments.state],
                "updates_to_recover": recovery,
            },
            repairs=_lower_to_present(optimizer),
            advice="Continue with a new optimizer: the weights are fine. Clip gradients from now on.",
        )


@rule("OPT011", "second-moment-underflow", Severity.WARNING, on=Optimizer, part=("optimizer",), worse=("share",))
def second_moment_underflow(optimizer: Optimizer, *, share: float = 0.5) -> Iterator[Finding]:
    """Second moments are zero where first moments are not: squares of gradients underflowed in float16.

    Why it matters:
        The square of every gradient below 2.4e-4 is smaller than the smallest float16 number, and is stored as 0. Adam
        then divides by ε alone: with the usual 1e-8, which is 0 in float16 as well, steps are infinite; with a larger
        one, they no longer adapt.

    When it is normal:
        Never. Entries without any gradient have two zeros, and are not counted.

    What to do:
        Keep float32 copies of the parameters for the optimizer (``torch.amp`` does), or use bfloat16, whose range is
        that of float32.

    Options:
        share: The share of zero second moments, among entries with a first moment, from which it is reported; a third
            is zero in trainings that still work.

    References:
        IEEE 754: the smallest float16 number is 6e-8. Micikevicius et al. 1710.03740, section 3.1.
    """
    live = lost = 0
    names = []
    for moments in optimizer.parameters:
        first, second = moments.first, moments.second
        if first is None or second is None or second.dtype != "float16" or first.shape != second.shape:
            continue
        has_gradient = first.array != 0
        underflowed = int((has_gradient & (second.array == 0)).sum())
        live, lost = live + int(has_gradient.sum()), lost + underflowed
        if underflowed:
            names.append(_name(moments))
    if live and lost >= share * live:
        yield second_moment_underflow.finding(
            f"{lost / live:.0%} of the second moments of {optimizer.name} are zero though gradients came: their "
            "squares are below the smallest float16 number",
            evidence={"optimizer": optimizer.name, "tensors": names, "share": lost / live, "count": live},
            advice="Let the optimizer work on float32 copies, or use bfloat16.",
        )


@rule("OPT012", "gradient-scale", Severity.WARNING, on=Optimizer, part=("optimizer",), worse=("norm",))
def gradient_scale(optimizer: Optimizer, checkpoint: Checkpoint, *, largest: float = 1e4) -> Iterator[Finding]:
    """Gradients are ten thousand times as large as in networks that learn: targets or rewards are not scaled.

    Why it matters:
        The gradient of a bias is the error at its layer's output, and has the scale of the targets. Adam's steps do not
        depend on it, so an output that should reach millions gets there by steps of the learning rate, and everything
        else that is in units of the loss stops working: clipping, ε, loss weights, entropy bonuses, half precision.

    When it is normal:
        Losses that are summed over large batches have large gradients, up to some thousand.

    What to do:
        Scale targets to a standard deviation of about 1, and rewards so that returns are at most some hundreds
        (``VecNormalize``). Average losses over the batch.

    Options:
        largest: The norm of the biases' gradients above which it is reported; over all parameters, 340 optimizers of
            healthy and published models have 411 at most (a SAC critic with returns of thousands).

    References:
        √(Σ v / (1 − β2**step)) over the biases, which do not see the scale of the inputs as weights do.
    """
    if has_lifted_moments(optimizer) or any(_count_infinite(moments) for moments in optimizer.parameters):
        return
    biases = [each for each in optimizer.parameters if _is_bias(each, checkpoint)]
    norm = implied_gradient_norm(replace(optimizer, parameters=tuple(biases)))
    if norm is not None and norm > largest:
        yield gradient_scale.finding(
            f"gradients of the biases in {optimizer.name} have a norm of {norm:.2g}, and of 400 or less in networks "
            "that learn: the targets or rewards are not scaled",
            evidence={"optimizer": optimizer.name, "norm": norm, "tensors": [_name(each) for each in biases]},
            advice="Scale targets to a standard deviation of about 1, and rewards likewise.",
        )


def _is_bias(moments: Moments, checkpoint: Checkpoint) -> bool:
    tensor = checkpoint.find_tensor(moments.tensor)
    return tensor is not None and checkpoint.layer_of[tensor.name].bias is tensor


def _lower_to_present(optimizer: Optimizer) -> list[Repair]:
    """Return the repair that sets second moments to the mean square of the gradients that the first moments show.

    A running mean of independent gradients with the factor β1 has (1 − β1)/(1 + β1) of their mean square. There is no
    repair where first moments still hold the huge gradient itself.
    """
    repairs: list[Repair] = []
    firsts = [moments.first for moments in optimizer.parameters if moments.first is not None]
    if any(first.statistics.absmax > _LARGEST_FIRST for first in firsts):
        return repairs
    for moments in optimizer.parameters:
        rates, first, second = decay_rates_of(moments, optimizer), moments.first, moments.second
        if rates is None or not rates.first or first is None or second is None or not first.statistics.absmax:
            continue
        beta = exp(-rates.first)
        rule = _fill_with_square(first, (1.0 + beta) / (1.0 - beta))
        words = "second moments become the mean square of the gradients that the first moments show"
        repairs.append(Repair(second.name, words, rule, Safety.ON_REQUEST))
    return repairs


def _fill_with_square(first: Tensor, factor: float) -> Callable[[NDArray, Generator], NDArray]:
    def replace_all(old: NDArray, random: Generator) -> NDArray:
        return np.full_like(old, factor * float(np.mean(np.square(as_real(first.array)))))

    return replace_all


def _count_infinite(moments: Moments) -> int:
    statistics, second = moments.statistics, moments.second
    if statistics is None or second is None or not statistics.nonfinite_second:
        return 0
    return second.statistics.infinite


def _name(moments: Moments) -> str:
    return moments.tensor or f"parameter {moments.index}"


def _replace_infinite(spoiled: Sequence[Moments]) -> list[Repair]:
    """Replace infinite entries by the median of the finite ones; nothing where a tensor has none that is finite."""
    seconds = [moments.second for moments in spoiled if moments.second is not None]
    if any(second.statistics.nan or not second.statistics.absmax for second in seconds):
        return []
    return [
        Repair(each.name, "infinite entries become the median of the finite ones", fill_typical) for each in seconds
    ]
