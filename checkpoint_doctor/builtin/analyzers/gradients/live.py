"""Gradients while a model is trained: not finite, gone, far larger than usual, or of inputs that were always zero."""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint_doctor.checkpoint import Checkpoint, NonfiniteGradient
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.text import quantity

FEW = 0.01
"""Share of spoiled entries up to which they have a place of their own."""


@rule("GRD001", "nonfinite-gradient", Severity.ERROR, on=Checkpoint, part=("optimizer",), worse=("steps",))
def nonfinite_gradient(checkpoint: Checkpoint) -> Iterator[Finding]:
    """A gradient was NaN or infinite when the optimizer was about to use it.

    Why it matters:
        The step writes NaN into the weights and the moments. From then on everything that depends on them is NaN, and
        the next checkpoint overwrites the last sound one.

    When it is normal:
        Under a ``GradScaler``, which tries a scale that is too large now and then, and skips the step. Steps that it
        skips are not reported.

    What to do:
        A few entries: look at the operation of that layer, and at the batch: a division by zero, a logarithm or a root
        of zero, an infinite input. All entries of all layers: the loss was NaN, or one NaN went through
        ``clip_grad_norm_``, which multiplies every gradient by the same factor. ``on_error="stop"`` keeps the step from
        being made; resume from ``save_healthy`` with a lower learning rate.

    References:
        Measured: one infinite gradient through ``clip_grad_norm_`` makes its own entry NaN and all others 0; one NaN
        makes all of them NaN. habitat-lab issue 2226; Lightning issue 12553 (``terminate_on_nan``).
    """
    for gradients in checkpoint.gradients:
        if gradients.nonfinite:
            first = gradients.nonfinite[0]
            where, kind = _locate(first)
            outcome = "; the step was not made" if first.prevented else ""
            more = gradients.nonfinite_steps - 1
            yield nonfinite_gradient.finding(
                f"at step {first.step:,} of {gradients.optimizer} {where}{outcome}"
                + (f"; so it was at {quantity(more, 'later step')}" if more else ""),
                checkpoint.find_tensor(next(iter(first.tensors), None)),
                evidence={
                    "optimizer": gradients.optimizer,
                    "step": first.step,
                    "steps": gradients.nonfinite_steps,
                    "kind": kind,
                    "tensors": list(first.tensors),
                    "nan": sum(each.nan for each in first.tensors.values()),
                    "infinite": sum(each.infinite for each in first.tensors.values()),
                    "entries": sum(each.count for each in first.tensors.values()),
                    "prevented": first.prevented,
                },
                advice=_ADVICE[kind],
            )


_ADVICE = {
    "loss": "The loss was NaN. Check it and the batch with torch.isfinite before backward; lower the learning rate.",
    "overflow": "A value overflowed: clip gradients, scale the targets, or use a wider type than float16.",
    "operation": "Look at this layer for a division by zero, a root or logarithm of zero, and for NaN in the batch; "
    "torch.autograd.set_detect_anomaly(True) names the operation.",
}


def _locate(event: NonfiniteGradient) -> tuple[str, str]:
    """Say where a gradient was not finite, and of what kind that is."""
    nan = sum(each.nan for each in event.tensors.values())
    infinite = sum(each.infinite for each in event.tensors.values())
    count = sum(each.count for each in event.tensors.values())
    names = list(event.tensors)
    what = "NaN" if not infinite else "infinite" if not nan else "NaN or infinite"
    if not names:
        return "the gradients in another process were not finite", "operation"
    if nan == count and len(names) == event.parameters:
        return "every entry of every gradient was NaN, as after a loss that is NaN", "loss"
    # Gradients flow from the last layer to the first: it began in the last of them.
    origin = names[-1]
    others = f" and {quantity(len(names) - 1, 'other tensor')}" if len(names) > 1 else ""
    share = f"{nan + infinite:,} of {count:,} entries" if count else "entries"
    kind = "overflow" if infinite and not nan else "operation"
    return f"{share} in the gradient of {origin}{others} were {what}", kind


@rule("GRD002", "silent-gradients", Severity.ERROR, on=Checkpoint, part=("optimizer",))
def silent_gradients(checkpoint: Checkpoint, *, least_steps: int = 10) -> Iterator[Finding]:
    """Every gradient of an optimizer has been exactly zero for a number of steps.

    Why it matters:
        Nothing is learned, though steps are counted: the weights stand still, or move by momentum and weight decay.

    When it is normal:
        While a loss has reached zero for good, as a hinge loss does once all samples are on their side.

    What to do:
        Look for a loss times zero, a mask that leaves nothing, a detached or constant output, ``zero_grad`` between
        ``backward`` and ``step``, and an output that is dead or saturated.

    Options:
        least_steps: The number of such steps in a row from which it is reported. A batch may hold no sample of a rare
            part; ten in a row were not seen in any healthy run.

    References:
        A gradient of exactly zero in every entry of every parameter does not come by chance.
    """
    for gradients in checkpoint.gradients:
        if gradients.silent_steps >= least_steps:
            since = gradients.steps - gradients.silent_steps + 1
            yield silent_gradients.finding(
                f"every gradient of {gradients.optimizer} has been exactly zero for {gradients.silent_steps:,} steps, "
                f"since step {since:,}",
                evidence={
                    "optimizer": gradients.optimizer,
                    "since_step": since,
                    "silent_steps": gradients.silent_steps,
                    "tensors": list(gradients.latest),
                },
                advice="Look for a loss times zero, a mask that leaves nothing, a detached or saturated output.",
            )


@rule("GRD003", "gradient-spike", Severity.NOTE, on=Checkpoint, part=("optimizer",))
def gradient_spike(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The norm of a gradient was far above that of the steps before it.

    Why it matters:
        One huge gradient that is not clipped throws the weights off, and fills Adam's second moments for a thousand
        steps. Many of them are the beginning of a divergence.

    When it is normal:
        Now and then: a batch with an outlier, a new part of the environment, the end of a warm-up. It is a note.

    What to do:
        Look at the batch of that step. Clip the norm of the gradient, at about what it is usually.

    References:
        Six standard deviations of the logarithms of the 128 norms before, of which there must be 32, and a deviation of
        10 % at least. ZClip (2504.02507) compares in the same way.
    """
    for gradients in checkpoint.gradients:
        if gradients.spikes:
            worst = max(gradients.spikes, key=lambda spike: spike.sigmas)
            several = f" and {quantity(len(gradients.spikes) - 1, 'other step')}" if len(gradients.spikes) > 1 else ""
            yield gradient_spike.finding(
                f"at step {worst.step:,}{several} the gradients of {gradients.optimizer} had a norm of "
                f"{worst.norm:.3g}, {worst.norm / worst.usual:.3g} times the usual {worst.usual:.3g}",
                evidence={
                    "optimizer": gradients.optimizer,
                    "steps": [spike.step for spike in gradients.spikes],
                    "norm": worst.norm,
                    "usual": worst.usual,
                    "sigmas": worst.sigmas,
                },
            )


@rule("GRD005", "stopped-part", Severity.WARNING, on=Checkpoint, part=("optimizer",), worse=("tensors",))
def stopped_part(checkpoint: Checkpoint, *, least_steps: int = 100) -> Iterator[Finding]:
    """A part that was trained has had no gradient for a while, though others of the same optimizer have.

    Why it matters:
        The part stays what it is while everything around it goes on learning. Nothing else in the run shows it.

    When it is normal:
        Where a part is frozen on purpose in the middle of a run. Parts that have their turn now and then, such as
        experts, are not reported: the part must have had a gradient in every step before. Where all gradients are zero
        GRD002 speaks.

    What to do:
        Look for ``requires_grad_(False)``, a ``detach``, a branch that is not called any more, a loss term that ended.

    Options:
        least_steps: The number of latest steps without a gradient from which it is reported; an accumulation over
            several batches, or a rare loss term, leaves fewer steps out.

    References:
        Without a gradient (``None``) PyTorch's optimizers pass a parameter over. ``zero_grad(set_to_none=False)``
        leaves gradients of exactly zero instead, with which momentum and weight decay go on; every tenth step is looked
        at for them.
    """
    for gradients in checkpoint.gradients:
        zeroed = {} if gradients.silent_steps else gradients.zeroed
        stopped = {name: steps for name, steps in {**zeroed, **gradients.stopped}.items() if steps >= least_steps}
        names = [name for name in checkpoint.by_name if name in stopped or name in gradients.frozen]
        if names:
            switched = all(name in gradients.frozen for name in names)
            since = f" for {max(stopped.values()):,} steps" if stopped else ""
            shown = ", ".join(names[:3]) + (
                f" and {quantity(len(names) - 3, 'other tensor')}" if len(names) > 3 else ""
            )
            why = "requires_grad was switched off in the middle of the run" if switched else "others still have"
            have = "has" if len(names) == 1 else "have"
            none = f"{have} had zeros alone" if zeroed.keys() >= set(names) else f"{have} had none"
            yield stopped_part.finding(
                f"{shown} had gradients and {none}{since}: {why}",
                checkpoint.by_name[names[0]] if len(names) == 1 else checkpoint.layer_of[names[0]],
                evidence={
                    "optimizer": gradients.optimizer,
                    "cause": "requires_grad" if switched else "no path",
                    "tensors": names,
                    "steps": max(stopped.values(), default=0),
                },
                advice="Look for requires_grad_(False), a detach, or a branch that is not called any more.",
            )


@rule("GRD004", "inputs-switched-on", Severity.WARNING, on=Checkpoint, part=("first_layer",))
def inputs_switched_on(checkpoint: Checkpoint, *, share: float = 0.05, least_updates: int = 300) -> Iterator[Finding]:
    """Inputs that were always zero have begun to carry a signal in the middle of a run.

    Why it matters:
        The weights of such inputs are still the random initial ones. Once the inputs are active they add noise to every
        unit at once, units die, and gradients vanish: the input distribution has shifted under a trained network.

    When it is normal:
        One-hot inputs whose class occurs for the first time, a new part of an environment: a note, as long as few
        inputs begin at the same time.

    What to do:
        Normalise the inputs in groups of their own before they become active, let them be active from the beginning, or
        set their weights to zero when they begin, so that the network's function does not change.

    Options:
        share: The share of the layer's inputs, two of them at least, that begin together from which it is a warning and
            not a note; a starting point.
        least_updates: The number of updates before which inputs that begin are a note; a starting point.

    References:
        The inputs' second moments were exactly zero at the check before. No run of six algorithms of Stable-Baselines3
        with their defaults has a warning. In the case that it was made for, a fifth of the inputs began at step 6,000
        of 8,000.
    """
    for gradients in checkpoint.gradients:
        for name, inputs in gradients.awakened_inputs.items():
            layer = checkpoint.layer_by_name.get(name)
            weight = layer and (layer.weight or layer.tensors.get("weight_ih"))
            columns = weight.shape[1] if weight else len(inputs)
            is_shift = (
                len(inputs) >= max(2, share * columns)
                and (checkpoint.updates_of(weight.name) or 0 if weight else 0) >= least_updates
            )
            yield inputs_switched_on.finding(
                f"{quantity(len(inputs), 'input')} of {columns:,} that {name} reads were always zero up to the check "
                "before this one and carry a signal now: their weights are untrained",
                layer,
                severity=None if is_shift else Severity.NOTE,
                evidence={"optimizer": gradients.optimizer, "first_layer": name, "inputs": list(inputs)},
                advice="Normalise these inputs by themselves, or let them be active from the beginning.",
            )
