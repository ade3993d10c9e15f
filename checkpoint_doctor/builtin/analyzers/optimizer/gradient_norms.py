"""Gradients beside the clip of their norm and the optimizer's ε: nearly every step clipped, or too small to matter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import sqrt
from statistics import median

from msgspec.structs import replace

from checkpoint_doctor.checkpoint import Checkpoint, Optimizer
from checkpoint_doctor.checkpoint.moment_decay import second_moment_correction
from checkpoint_doctor.checkpoint.optimizer_steps import effective_step, implied_gradient_norm, relative_step
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity

_CLIP_SETTINGS = ("max_grad_norm", "gradient_clip_val", "clip_grad_norm", "grad_clip", "max_norm", "gradient_clipping")
"""Names of the setting for the gradient norm at which to clip (SB3 and transformers, Lightning, others)."""

_NEARLY_ALL = 0.9
"""Share of gradients below ε from which the optimizer no longer adapts at all."""
_SLOW = 0.02
"""Steps in units of the learning rate below which a large ε has slowed a training down."""
_FEWEST_UPDATES = 50


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

    Options:
        tolerance: The relative difference between norm and clip that counts as equal; 0.02 allows for a few per cent of
            steps with a smaller gradient.

    References:
        √(Σ v / (1 − β2**step)) over all parameters of the optimizer is the root mean square of the clipped norm. Of
        good agents PPO's median is 0.500, A2C's 0.41 (both clip at 0.5), DQN's 7.0 (clips at 10).
    """
    clip = _clip(checkpoint.hyperparameters)
    norm = implied_gradient_norm(optimizer) if clip else None
    if clip and norm is not None and abs(norm / clip - 1.0) <= tolerance:
        yield clip_saturated.finding(
            f"gradients of {optimizer.name} had a norm of {norm:.3g} on average, which is the clip of {clip:g}: "
            f"nearly every step was clipped",
            evidence={"optimizer": optimizer.name, "implied_gradient_norm": norm, "clip": clip},
        )


@rule(
    "OPT005",
    "epsilon-dominated",
    Severity.NOTE,
    worst=Severity.WARNING,
    on=Optimizer,
    part=("optimizer", "component"),
    worse=("share",),
)
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

    Options:
        share: The share of the gradients above which it is reported where they are smaller than ε: most of them. Only
            entries that receive gradients are counted.
        step: The size of the steps, as a share of the learning rate, below which it is a warning; steps of 340
            optimizers of healthy and published models are 0.004 to 3 of it.
        large: The ε from which steps below 0.02 of the learning rate are a warning already; with Adam's default of
            1e-8, only tiny gradients get there.

    References:
        In 500 steps with a learning rate of 1e-3 and ε of 1e-5, gradients of scale 1 change a parameter by 0.358, of
        1e-3 by 0.356, of 1e-5 by 0.209, of 1e-6 by 0.044. Steps are small in the whole optimizer, or in one component
        whose siblings take all of a clipped gradient.
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
    epsilons = [rate for group in optimizer.groups if (rate := group.number("eps"))]
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
        tensor = checkpoint.find_tensor(moments.tensor)
        if tensor is None or len(tensor.shape) < 2 or (moments.step or 0) < _FEWEST_UPDATES:
            continue
        relative = relative_step(moments, optimizer)
        if relative:
            component = checkpoint.layer_of[tensor.name].component
            steps.setdefault(component, []).append(relative)
            tensors.setdefault(component, []).append(tensor.name)
    fastest = max(map(median, steps.values()), default=0.0)
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
        statistics, epsilon = moments.statistics, group.number("eps") if group else 0.0
        if statistics is None or not correction or not epsilon:
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
