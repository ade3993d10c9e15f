"""Optimizers that never received a gradient, or never made a step."""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint_doctor.builtin.analyzers._evidence.absent_gradients import (
    count_updates,
    holds_decay_alone,
    holds_no_gradient,
    keeps_state,
    updates_without_gradient,
)
from checkpoint_doctor.builtin.analyzers._evidence.lifted_moments import has_lifted_moments
from checkpoint_doctor.builtin.analyzers._evidence.widths import judges_the_rest
from checkpoint_doctor.checkpoint import Checkpoint, Optimizer
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.text import quantity


@rule("OPT006", "no-gradient", Severity.ERROR, on=Checkpoint, part=("optimizer", "cause"))
def no_gradient(checkpoint: Checkpoint, *, least_updates: int = 10) -> Iterator[Finding]:
    """An optimizer received no gradient, or made no update, although the file counts steps.

    Why it matters:
        Nothing was learned: the parameters are the initial ones, or were changed by weight decay alone. The run looks
        normal from outside, because steps are counted and checkpoints are written.

    When it is normal:
        In a checkpoint from before the first update. SGD without momentum has no state and is not judged. An optimizer
        for a part that is trained later, or a file whose optimizer state was removed to save space, has no state: a
        warning, and a note for a discriminator that joins an autoencoder later. Gradients that stopped are a warning as
        well: a hinge loss is 0 once all samples are on their side.

    What to do:
        Moments that are exactly zero: look for ``zero_grad`` between ``backward`` and ``step``, a detached loss, a loss
        times zero, or a saturated output. No state: check that ``step`` is called, that the optimizer was built over
        the parameters of the network that the loss depends on, and that a loss scaler does not skip every step. No
        update at all: compare ``learning_starts``, ``n_steps`` and ``policy_delay`` with the length of the training.

    Options:
        least_updates: The number of updates from which an optimizer is judged; before, gradients may be zero by chance.

    References:
        PyTorch's optimizers create the state of a parameter at its first gradient. A second moment decays by a factor
        and does not reach zero again, so that exactly zero means that every gradient was exactly zero. Of 208 public
        repositories with checkpoints, 8 publish agents without a single update, with up to 504,000 timesteps.
        Stopped: |m|/√v is below 1e-4 in every entry of every tensor, while it is 0.04 or more somewhere in 340
        optimizers of healthy and published models.
    """
    if _never_started(checkpoint):
        yield no_gradient.finding(
            f"no update was made in {checkpoint.step:,} timesteps: the parameters are the initial ones",
            severity=Severity.WARNING,
            evidence={"cause": "never started", "optimizer": None, "timesteps": checkpoint.step, "updates": 0},
            advice="Compare learning_starts, n_steps and the number of environments with the length of the training.",
        )
        return
    for optimizer in checkpoint.optimizers:
        counted = count_updates(optimizer)
        steps = counted if counted is not None else checkpoint.updates or checkpoint.step or 0
        if any(moments.state for moments in optimizer.parameters):
            if steps >= least_updates and holds_no_gradient(optimizer):
                yield _without_gradient(optimizer, steps, "all moments are exactly zero")
            elif steps >= least_updates and holds_decay_alone(optimizer, checkpoint):
                yield _without_gradient(optimizer, steps, "all first moments are weight decay alone, λ·w")
            elif steps >= least_updates and not has_lifted_moments(optimizer):
                yield from _stopped(optimizer)
        elif optimizer.parameters and keeps_state(optimizer):
            yield from _without_state(optimizer, checkpoint, least_updates)


def _never_started(checkpoint: Checkpoint) -> bool:
    """Return whether timesteps were counted and no update, although the first update should have been made."""
    step, settings = checkpoint.step or 0, checkpoint.hyperparameters
    if not checkpoint.is_untrained or not step or not any(map(keeps_state, checkpoint.optimizers)):
        return False
    total, starts = settings.get("_total_timesteps"), settings.get("learning_starts")
    is_running = isinstance(total, (int, float)) and step < total
    return not (is_running and isinstance(starts, (int, float)) and step <= starts)


def _without_gradient(optimizer: Optimizer, steps: int, how: str) -> Finding:
    names = [moments.tensor for moments in optimizer.parameters if moments.tensor]
    return no_gradient.finding(
        f"{optimizer.name} received no gradient in {steps:,} updates: {how}",
        evidence={
            "cause": "no gradient",
            "optimizer": optimizer.name,
            "updates": steps,
            "parameters": len(optimizer.parameters),
            "tensors": names,
        },
        advice="Look for zero_grad between backward and step, a detached loss, a factor of zero, a saturated output.",
    )


def _stopped(optimizer: Optimizer) -> Iterator[Finding]:
    """Yield a finding where gradients came, and no tensor receives any more."""
    silence = updates_without_gradient(optimizer)
    if silence:
        yield no_gradient.finding(
            f"no parameter of {optimizer.name} has received a gradient for about {silence:,} updates or more; they did "
            "before",
            severity=Severity.WARNING,
            evidence={
                "cause": "stopped",
                "optimizer": optimizer.name,
                "updates": silence,
                "parameters": len(optimizer.parameters),
                "tensors": [moments.tensor for moments in optimizer.parameters if moments.tensor],
            },
            advice="Look at the output: a ReLU or a saturated sigmoid behind it, a loss that is 0 or constant.",
        )


def _without_state(optimizer: Optimizer, checkpoint: Checkpoint, least_updates: int) -> Iterator[Finding]:
    siblings = [(count_updates(other) or 0, other.name) for other in checkpoint.optimizers if other.has_state]
    updates, sibling = max(siblings, default=(0, ""))
    counter = (checkpoint.step if checkpoint.updates is None else checkpoint.updates) or 0
    if updates >= least_updates:
        beside = f"while {sibling} made {updates:,}"
    elif counter >= least_updates:
        beside, updates = f"although the file counts {counter:,} steps", counter
    else:
        return
    is_agent = (
        checkpoint.format == "sb3" and bool(sibling) and optimizer.name in ("actor.optimizer", "critic.optimizer")
    )
    waits = not is_agent and judges_the_rest(optimizer, checkpoint)
    yield no_gradient.finding(
        f"{optimizer.name} has no state for any of its {quantity(len(optimizer.parameters), 'parameter')}: it made no "
        f"update with a gradient, {beside}" + ("; it holds what reads the others' output, and may join later" * waits),
        severity=Severity.ERROR if is_agent else Severity.NOTE if waits else Severity.WARNING,
        evidence={
            "cause": "waiting" if waits else "empty state",
            "optimizer": optimizer.name,
            "updates": updates,
            "sibling": sibling or None,
            "parameters": len(optimizer.parameters),
            "tensors": [moments.tensor for moments in optimizer.parameters if moments.tensor],
        },
        advice="Check that it was built over the parameters that the loss depends on, that its step is called, and "
        "that no loss scaler skips every step. If the state was removed on purpose, do not resume from this file.",
    )
