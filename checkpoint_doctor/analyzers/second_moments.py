"""Second moments that no longer belong to the gradients: infinite, or lifted by one huge gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from checkpoint_doctor.analyzers._evidence.lifted_moments import has_lifted_moments, updates_to_recover
from checkpoint_doctor.checkpoint import Moments, Optimizer
from checkpoint_doctor.layers.init_rules import fill_typical
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Repair, Safety, Severity


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
        ones (where a tensor has none, only a new optimizer helps). Look for the batch that caused the gradient, and
        clip gradients (``clip_grad_norm_``) from now on: a clipped gradient cannot do this.

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
            advice="Continue with a new optimizer: the weights are fine. Clip gradients from now on.",
        )


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
