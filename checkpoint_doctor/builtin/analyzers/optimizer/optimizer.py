"""Optimizers: tensors they never trained, state that does not fit the model, settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from checkpoint_doctor.builtin.analyzers._zeros.severity import is_zero
from checkpoint_doctor.builtin.analyzers.optimizer._untrained_branches import (
    find_left_out,
    is_explained_elsewhere,
    training_of_tensors,
    untrained_branches,
)
from checkpoint_doctor.builtin.analyzers.optimizer._unused_parts import (
    FROZEN,
    TrainedLayers,
    all_candidates_were_trained,
    explain_unused,
)
from checkpoint_doctor.checkpoint import Checkpoint, Optimizer
from checkpoint_doctor.layers import Kind
from checkpoint_doctor.layers.init_rules import fill
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Repair, Safety, Severity
from checkpoint_doctor.text import quantity

_FEWEST_UNNAMED = 2
"""Parameters without name and state from which they are reported: one alone may be a setting stored as a parameter."""

_NO_GRADIENT = (
    "If it should learn, look for requires_grad=False, .detach(), torch.no_grad(), or a loss that does not use it."
)
_ZERO_GRADIENT = "Look at the layers around it: saturated or dead units, a mask, a factor of zero."


@rule(
    "OPT001",
    "untrained-tensor",
    Severity.WARNING,
    on=Optimizer,
    part=("optimizer", "branch"),
    worse=("tensors", "without_state"),
)
def untrained_tensor(optimizer: Optimizer, checkpoint: Checkpoint, *, least_updates: int = 10) -> Iterator[Finding]:
    """Tensors received no gradient, or are in no optimizer, while the optimizer updated others.

    Why it matters:
        They were passed to the optimizer, so they should have learned, but they still have their initial values. The
        usual reasons are a branch that is detached from the loss, and an extractor that was frozen and never unfrozen.

    When it is normal:
        Parts that are left out for a reason are notes that name it: a frozen backbone, whose values are not initial
        ones; heads, experts, adapters and norms of domains beside others of their kind that were trained; a value
        network beside a cloned policy; mask tokens, poolers and offsets; the recurrent weight of a backward direction
        of which only the last step is read. So are parts that the trained layers do without, as sizes and values show:
        they never ran, they end in zeros, or no trained layer behind them can read their output; and biases without an
        optimizer that are all zero. Target networks, TRPO's policy and the target half in DQN files before 2.4 are in
        their optimizer but never updated by it; they are not reported. Neither are settings stored as parameters:
        integers and single numbers without state (bit widths, shifts, thresholds of quantized training).

    What to do:
        If it should learn, look for ``requires_grad=False``, ``.detach()``, ``torch.no_grad()``, or a loss that does
        not use the branch. If it is frozen on purpose, do not pass it to the optimizer. A head, or all biases, that no
        optimizer holds: pass them to the optimizer when it is created.

    Options:
        least_updates: The number of updates from which tensors are judged; before, a branch may not have been used yet.

    References:
        PyTorch's optimizers create a parameter's state at its first gradient; a second moment of exactly zero means
        that every gradient was exactly zero. Stable-Baselines3 issues 570, 997, 1412 and 1860 are about such tensors.
    """
    steps = max((moments.step or 0 for moments in optimizer.parameters), default=0)
    if 0 < steps < least_updates or optimizer.mismatch:
        return
    was_tensor_trained = training_of_tensors(optimizer, checkpoint)
    trained = sum(each is True for each in was_tensor_trained.values())
    if optimizer.unmatched and steps:
        yield from _unnamed_without_state(optimizer, checkpoint, steps)
    if not trained:
        return
    yield from _left_out(optimizer, checkpoint)
    branches = untrained_branches(was_tensor_trained)
    known = TrainedLayers(checkpoint, (name for name, each in was_tensor_trained.items() if each))
    reasons = explain_unused(branches, checkpoint, known)
    for branch, names in branches.items():
        tensors = [checkpoint.by_name[name] for name in names]
        if len(tensors) == 1 and is_explained_elsewhere(tensors[0], checkpoint):
            continue
        stateless = [name for name in names if not checkpoint.moments[name].state]
        reason = reasons[branch]
        how = "it received no gradient" if len(stateless) == len(names) else "every gradient was exactly zero"
        after = f" in {steps:,} updates" if steps else ""
        waits = bool(reason) and reason != FROZEN and not _took_part(names, checkpoint)
        subject = branch if len(names) == 1 else f"{branch} ({len(names)} tensors)"
        yield untrained_tensor.finding(
            f"{subject} was never trained{after} although {optimizer.name} holds it and trained {trained} others: "
            f"{how}" + (f"; {reason}" if reason else ""),
            tensors[0] if len(tensors) == 1 else checkpoint.layer_by_name.get(branch),
            severity=Severity.NOTE if reason else None,
            evidence={
                "cause": "waiting" if waits else "never trained",
                "optimizer": optimizer.name,
                "branch": branch,
                "tensors": names,
                "without_state": stateless,
                "updates": steps or None,
            },
            advice=_ZERO_GRADIENT if not stateless else "" if reason == FROZEN else _NO_GRADIENT,
        )


def _took_part(names: Sequence[str], checkpoint: Checkpoint) -> bool:
    """True for a factor of an adapter whose other factor was in the loss."""
    layers = {checkpoint.layer_of[name] for name in names}
    return any(
        layer.kind is Kind.LORA
        and any(
            checkpoint.moments[each.name].state for each in layer.tensors.values() if each.name in checkpoint.moments
        )
        for layer in layers
    )


def _unnamed_without_state(optimizer: Optimizer, checkpoint: Checkpoint, steps: int) -> Iterator[Finding]:
    """Yield a finding about parameters without state whose names are not known: their number still tells."""
    unnamed = [moments for moments in optimizer.parameters if moments.tensor is None]
    stateless = [moments.index for moments in unnamed if not moments.state]
    if len(stateless) < _FEWEST_UNNAMED or len(stateless) == len(optimizer.parameters):
        return
    is_frozen = all_candidates_were_trained(checkpoint)
    yield untrained_tensor.finding(
        f"{len(stateless):,} of {len(optimizer.parameters):,} parameters of {optimizer.name} have no state after "
        f"{steps:,} updates: they received no gradient (which ones is not known: {optimizer.unmatched})"
        + ("; no weight that they may be has initial values" if is_frozen else ""),
        severity=Severity.NOTE if is_frozen else None,
        evidence={
            "cause": "never trained",
            "optimizer": optimizer.name,
            "branch": None,
            "tensors": [],
            "without_state": [f"parameter {index}" for index in stateless],
            "updates": steps,
        },
        advice=_NO_GRADIENT,
    )


def _left_out(optimizer: Optimizer, checkpoint: Checkpoint) -> Iterator[Finding]:
    """Yield a finding about a head or about biases that no optimizer holds, although one trains the rest."""
    names = find_left_out(optimizer, checkpoint)
    if names:
        is_without_effect = all(is_zero(checkpoint.by_name[name]) for name in names)
        what = names[0] if len(names) == 1 else f"{names[0]} and {quantity(len(names) - 1, 'other tensor')}"
        verb = "is" if len(names) == 1 else "are"
        yield untrained_tensor.finding(
            f"{what} {verb} held by no optimizer, although {optimizer.name} trains most layers around"
            + ("; their zeros add nothing, as in a model without biases" if is_without_effect else ""),
            severity=Severity.NOTE if is_without_effect else None,
            evidence={
                "cause": "not in an optimizer",
                "optimizer": optimizer.name,
                "branch": names[0],
                "tensors": names,
                "without_state": names,
                "updates": None,
            },
            advice="If they should learn, pass them to the optimizer when it is created.",
        )


@rule("OPT002", "optimizer-mismatch", Severity.ERROR, on=Optimizer, part=("optimizer",))
def optimizer_mismatch(optimizer: Optimizer) -> Iterator[Finding]:
    """The optimizer's state does not fit the model: training cannot be resumed from this file.

    Why it matters:
        PyTorch assigns state to parameters by position. With a different number of parameters, loading fails. With
        other shapes, the first step fails, or parameters of equal shape silently get each other's state.

    When it is normal:
        Never. A file for inference only should not contain the optimizer. Parameters of the loss behind those of the
        model, and state of low rank, sparse or flat (GaLore, APOLLO, SPAM), are not reported: resuming works.

    What to do:
        Resume with the code that saved the file, or discard the optimizer's state and create a new optimizer.

    References:
        pytorch issue 1489; Lightning issue 17025; transformers issue 13018. ``torch.optim.Optimizer.load_state_dict``
        compares only the number of groups and of parameters in each.
    """
    if optimizer.mismatch:
        yield optimizer_mismatch.finding(
            f"{optimizer.name} does not fit the model: {optimizer.mismatch}", evidence={"optimizer": optimizer.name}
        )


@rule(
    "OPT003",
    "learning-rate-at-save",
    Severity.NOTE,
    worst=Severity.WARNING,
    on=Optimizer,
    fix=Safety.SAFE,
    part=("optimizer",),
    worse=("groups",),
)
def learning_rate_at_save(optimizer: Optimizer) -> Iterator[Finding]:
    """The learning rate at the time of saving is negative or zero.

    Why it matters:
        Training that resumes from this file increases the loss in every step (negative), or does not learn (zero). For
        inference it does not matter.

    When it is normal:
        Zero at the planned end of a schedule, or in the first step of a warm-up.

    What to do:
        Set a new schedule when resuming. A linear schedule becomes negative when training takes more steps than planned
        (``num_timesteps`` beyond ``total_timesteps``): bound it with ``max(0.0, …)``. ``ckdoc fix`` sets a negative
        rate to 0.0, the schedule's lower bound.

    References:
        Of 110 published optimizers 3 have a negative learning rate (PPO CartPole: −9.6e-7) and 9 one of exactly zero.
    """
    rates = {number: _number(group.options.get("lr")) for number, group in enumerate(optimizer.groups)}
    negative = {number: rate for number, rate in rates.items() if rate is not None and rate < 0}
    zero = [number for number, rate in rates.items() if rate == 0]
    if negative:
        lowest = min(negative.values())
        yield learning_rate_at_save.finding(
            f"{optimizer.name} was saved with a negative learning rate ({lowest:.3g}): resumed training increases the "
            f"loss",
            severity=Severity.WARNING,
            evidence={"optimizer": optimizer.name, "learning_rate": lowest, "groups": list(negative)},
            repairs=[
                Repair(setting.name, "0.0, the schedule's lower bound", fill(0.0))
                for number in negative
                if (setting := optimizer.groups[number].settings.get("lr")) is not None
            ],
            advice="Training took more steps than planned. Set a new schedule when resuming, and bound it at 0.",
        )
    elif zero:
        yield learning_rate_at_save.finding(
            f"{optimizer.name} was saved with a learning rate of 0: resumed training learns nothing",
            evidence={"optimizer": optimizer.name, "learning_rate": 0.0, "groups": zero},
            advice="Set a new schedule when resuming.",
        )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
