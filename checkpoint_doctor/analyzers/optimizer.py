"""Optimizers: tensors they never trained, state that does not fit the model, settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import sqrt
from statistics import median

from checkpoint_doctor.analyzers._evidence.moments import (
    effective_step,
    implied_gradient_norm,
    relative_step,
)
from checkpoint_doctor.analyzers._untrained_branches import (
    find_left_out,
    is_explained_elsewhere,
    training_of_tensors,
    untrained_branches,
)
from checkpoint_doctor.analyzers._unused_parts import explain_unused
from checkpoint_doctor.checkpoint import Checkpoint, Optimizer
from checkpoint_doctor.checkpoint.moment_decay import second_moment_correction
from checkpoint_doctor.layers.init_rules import fill
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Repair, Safety, Severity
from checkpoint_doctor.text import quantity

_CLIP_SETTINGS = ("max_grad_norm", "gradient_clip_val", "clip_grad_norm", "grad_clip", "max_norm", "gradient_clipping")
"""Names of the setting for the gradient norm at which to clip (SB3 and transformers, Lightning, others)."""

_FEWEST_UNNAMED = 2
"""Parameters without name and state from which they are reported: one alone may be a setting stored as a parameter."""

_NEARLY_ALL = 0.9
"""Share of gradients below ε from which the optimizer no longer adapts at all."""
_SLOW = 0.02
"""Steps in units of the learning rate below which a large ε has slowed a training down."""
_FEWEST_UPDATES = 50

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
        of which only the last step is read. Target networks, TRPO's policy and the target half in DQN files before 2.4
        are in their optimizer but never updated by it; they are not reported. Neither are settings stored as
        parameters: integers and single numbers without state (bit widths, shifts, thresholds of quantized training).

    What to do:
        If it should learn, look for ``requires_grad=False``, ``.detach()``, ``torch.no_grad()``, or a loss that does
        not use the branch. If it is frozen on purpose, do not pass it to the optimizer. A head, or all biases, that no
        optimizer holds: pass them to the optimizer when it is created.

    References:
        PyTorch's optimizers create a parameter's state at its first gradient; a second moment of exactly zero means
        that every gradient was exactly zero. Stable-Baselines3 issues 570, 997, 1412 and 1860 are about such tensors.
        ``least_updates``: in fewer than ten updates, a branch may not have been used yet.
    """
    steps = max((moments.step or 0 for moments in optimizer.parameters), default=0)
    if 0 < steps < least_updates or optimizer.mismatch:
        return
    was_tensor_trained = training_of_tensors(optimizer, checkpoint)
    trained = sum(each is True for each in was_tensor_trained.values())
    if optimizer.unmatched and steps:
        yield from _unnamed_without_state(optimizer, steps)
    if not trained:
        return
    yield from _left_out(optimizer, checkpoint)
    for branch, names in untrained_branches(was_tensor_trained).items():
        tensors = [checkpoint.by_name[name] for name in names]
        if len(tensors) == 1 and is_explained_elsewhere(tensors[0], checkpoint):
            continue
        stateless = [name for name in names if not checkpoint.moments[name].state]
        reason = explain_unused(branch, names, checkpoint, was_tensor_trained)
        how = "it received no gradient" if len(stateless) == len(names) else "every gradient was exactly zero"
        after = f" in {steps:,} updates" if steps else ""
        subject = branch if len(names) == 1 else f"{branch} ({len(names)} tensors)"
        yield untrained_tensor.finding(
            f"{subject} was never trained{after} although {optimizer.name} holds it and trained {trained} others: "
            f"{how}" + (f"; {reason}" if reason else ""),
            tensors[0] if len(tensors) == 1 else checkpoint.layer_by_name.get(branch),
            severity=Severity.NOTE if reason else None,
            evidence={
                "cause": "never trained",
                "optimizer": optimizer.name,
                "branch": branch,
                "tensors": names,
                "without_state": stateless,
                "updates": steps or None,
            },
            advice="" if reason else _NO_GRADIENT if stateless else _ZERO_GRADIENT,
        )


def _unnamed_without_state(optimizer: Optimizer, steps: int) -> Iterator[Finding]:
    """Yield a finding about parameters without state whose names are not known: their number still tells."""
    unnamed = [moments for moments in optimizer.parameters if moments.tensor is None]
    stateless = [moments.index for moments in unnamed if not moments.state]
    if len(stateless) < _FEWEST_UNNAMED or len(stateless) == len(optimizer.parameters):
        return
    yield untrained_tensor.finding(
        f"{len(stateless):,} of {len(optimizer.parameters):,} parameters of {optimizer.name} have no state after "
        f"{steps:,} updates: they received no gradient (which ones is not known: {optimizer.unmatched})",
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
        what = names[0] if len(names) == 1 else f"{names[0]} and {quantity(len(names) - 1, 'other tensor')}"
        verb = "is" if len(names) == 1 else "are"
        yield untrained_tensor.finding(
            f"{what} {verb} held by no optimizer, although {optimizer.name} trains most layers around",
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


@rule("OPT004", "clip-saturated", Severity.NOTE, on=Optimizer, part=("optimizer",))
def clip_saturated(optimizer: Optimizer, checkpoint: Checkpoint, *, tolerance: float = 0.02) -> Iterator[Finding]:
    """The implied gradient norm equals the clip: nearly every step was clipped.

    Why it matters:
        Clipping keeps the direction of a gradient and changes its length. Adam's steps do not depend on the gradient's
        scale, so constant clipping has little effect there; but it hides how large the gradients are.

    When it is normal:
        In PPO and A2C: for half of the published PPO agents, the norm equals their clip of 0.5.

    What to do:
        Nothing, as long as training goes well. Log the norm that ``clip_grad_norm_`` returns. If it is far above the
        clip and grows, check reward scale and value targets before you change the clip.

    References:
        √(Σ v / (1 − β2**step)) over all parameters of the optimizer is the root mean square of the clipped norm. Of
        good agents PPO's median is 0.500, A2C's 0.41 (both clip at 0.5), DQN's 7.0 (clips at 10). ``tolerance`` is the
        relative difference that counts as equal: 0.02 allows for a few per cent of steps with a smaller gradient.
    """
    clip = _clip(checkpoint.hyperparameters)
    norm = implied_gradient_norm(optimizer) if clip else None
    if clip and norm is not None and abs(norm / clip - 1.0) <= tolerance:
        yield clip_saturated.finding(
            f"gradients of {optimizer.name} had a norm of {norm:.3g} on average, which is the clip of {clip:g}: "
            f"nearly every step was clipped",
            evidence={"optimizer": optimizer.name, "implied_gradient_norm": norm, "clip": clip},
        )


@rule("OPT005", "epsilon-dominated", Severity.NOTE, on=Optimizer, part=("optimizer", "component"), worse=("share",))
def epsilon_dominated(
    optimizer: Optimizer, checkpoint: Checkpoint, *, share: float = 0.5, step: float = 1e-3, large: float = 0.01
) -> Iterator[Finding]:
    """Most gradients are smaller than the optimizer's ε: it no longer adapts, and its steps shrink.

    Why it matters:
        Adam divides by √v + ε so that the steps of all parameters have the size of the learning rate. Where √v is below
        ε, steps are proportional to the gradient instead: plain gradient descent with a rate of lr/ε.

    When it is normal:
        Where a large ε is used on purpose to reduce the effect of small gradients: 1e-5 in PPO, 0.01 divided by the
        batch size in QR-DQN.

    What to do:
        If learning is slow, lower ε or scale the loss up. Check whether rewards or targets are scaled down.

    References:
        In 500 steps with a learning rate of 1e-3 and ε of 1e-5, gradients of scale 1 change a parameter by 0.358, of
        1e-3 by 0.356, of 1e-5 by 0.209, of 1e-6 by 0.044. Only entries that receive gradients are counted. ``share`` is
        the part of them that must be below ε. Steps of 340 optimizers of healthy and published models are 0.004 to 3 of
        the learning rate; it is a warning where they are below ``step``, or below 0.02 with an ε of ``large`` or more,
        in the whole optimizer or in one component whose siblings take all of a clipped gradient.
    """
    below = _share_below_epsilon(optimizer)
    if below is not None and below <= share:
        below = None
    if below is None or below < _NEARLY_ALL:
        yield from _starved_components(optimizer, checkpoint, step)
    if below is None:
        return
    size_of_step = effective_step(optimizer)
    size = "" if size_of_step is None else f"; its steps are {size_of_step:.2g} of the learning rate on average"
    epsilons = [rate for group in optimizer.groups if (rate := _number(group.options.get("eps")))]
    limit = _SLOW if max(epsilons) >= large else step
    is_stopping = size_of_step is not None and below >= _NEARLY_ALL and size_of_step < limit
    yield epsilon_dominated.finding(
        f"{below:.0%} of the gradients in {optimizer.name} are smaller than its ε of {max(epsilons):g}{size}",
        severity=Severity.WARNING if is_stopping else None,
        evidence={
            "optimizer": optimizer.name,
            "component": None,
            "share": below,
            "epsilon": max(epsilons),
            "effective_step": size_of_step,
        },
        advice="Lower ε, or look for what makes the gradients so small: a clip, a loss weight." if is_stopping else "",
    )


def _starved_components(optimizer: Optimizer, checkpoint: Checkpoint, smallest: float) -> Iterator[Finding]:
    """Yield a finding for each component that makes no steps to speak of while another one of the optimizer does."""
    steps: dict[str, list[float]] = {}
    tensors: dict[str, list[str]] = {}
    for moments in optimizer.parameters:
        tensor = checkpoint.by_name.get(moments.tensor or "")
        if tensor is None or len(tensor.shape) < 2 or (moments.step or 0) < _FEWEST_UPDATES:
            continue
        relative = relative_step(moments, optimizer)
        if relative:
            component = checkpoint.layer_of[tensor.name].component
            steps.setdefault(component, []).append(relative)
            tensors.setdefault(component, []).append(tensor.name)
    fastest = max((median(values) for values in steps.values()), default=0.0)
    for component, values in steps.items():
        names = set(tensors[component])
        own = tuple(moments for moments in optimizer.parameters if moments.tensor in names)
        below = _share_below_epsilon(replace(optimizer, parameters=own))
        if component and len(values) > 1 and median(values) < smallest <= fastest / 10 and (below or 0) >= _NEARLY_ALL:
            yield epsilon_dominated.finding(
                f"gradients of {component} are smaller than ε: its steps are {median(values):.2g} of the learning "
                f"rate, while those of other components are {fastest:.2g}",
                severity=Severity.WARNING,
                evidence={
                    "optimizer": optimizer.name,
                    "component": component,
                    "tensors": tensors[component],
                    "share": below,
                    "effective_step": median(values),
                },
                advice="Another loss takes the whole clipped gradient: scale rewards or targets, or weigh the losses.",
            )


def _share_below_epsilon(optimizer: Optimizer) -> float | None:
    """Return the share of gradients below ε among all entries that receive one; ``None`` where none is known."""
    below = active = 0.0
    for moments in optimizer.parameters:
        group, correction = optimizer.group_of(moments.index), second_moment_correction(moments, optimizer)
        statistics = moments.statistics if correction else None
        epsilon = _number(group.options.get("eps")) if group else None
        if statistics is None or correction is None or not epsilon:
            continue
        entries = statistics.count - statistics.untouched
        below += entries * statistics.live_below(epsilon * sqrt(correction))
        active += entries
    return below / active if active else None


def _clip(settings: Mapping[str, object]) -> float | None:
    clips = (_number(settings.get(key)) for key in _CLIP_SETTINGS)
    return next((clip for clip in clips if clip and clip > 0), None)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
