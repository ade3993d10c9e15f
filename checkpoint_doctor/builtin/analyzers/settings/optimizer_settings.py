"""Settings of an optimizer that no training should have: learning rate, betas and momentum, weight decay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import log, sqrt
from statistics import median

from checkpoint_doctor.checkpoint import Checkpoint, Optimizer, ParameterGroup
from checkpoint_doctor.checkpoint.reviewed_settings import Verdict, judge, value_of
from checkpoint_doctor.checkpoint.setting_ranges import find_ranges
from checkpoint_doctor.layers import DENSE
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity

_DECOUPLED = frozenset({"AdamW", "Lion", "SGD"})
"""Optimizers in which a decay shrinks a weight by lr · weight_decay in every update (SGD: by its gradient)."""


_SMALL_SHARE = 0.02
"""Share of the weights' size up to which a rate is not large, whatever its value: weights of outputs in millions."""


@rule("HYP001", "learning-rate-range", Severity.WARNING, on=Optimizer, part=("optimizer",), worse=("learning_rate",))
def learning_rate_range(optimizer: Optimizer, checkpoint: Checkpoint, *, adam: float = 0.1) -> Iterator[Finding]:
    """The learning rate is outside the range in which published models were tuned.

    Why it matters:
        Adam moves every weight by about the learning rate in every update. Weights of a hidden layer are near 0.1, so
        a rate of 0.1 replaces them in one update, and nothing that was learned lasts. With a rate that is far too low
        the run ends before anything is learned.

    When it is normal:
        A rate outside the tuned range that tuners still try is a note. A rate of zero is judged by OPT003. Optimizers
        that scale their steps themselves take a rate of 1 (Prodigy, D-Adaptation, Adafactor). Parameters
        that are no weights (prompts, latent codes, images) need large rates; where an optimizer holds no weights of
        layers, nothing is reported. A rate that a schedule has lowered is judged by what it began with. A learning rate
        explains no weight that is exactly zero, neither a low one nor a high one: of 4,801 parameters not one became
        zero in 3,000 updates at rates from 3e-4 to 0.1, and 2.7e-5 is inside the range that PPO was tuned in.

    What to do:
        Agents: begin with the default of the algorithm. Otherwise begin with 1e-3 for small networks and 3e-4 for large
        ones, and divide by three until the loss falls smoothly. Where your own runs show another range, set it in
        ``ckdoc.toml``: ``[ranges.SAC]`` ``learning_rate = [1e-4, 5e-3]``.

    Options:
        adam: The learning rate of an optimizer of Adam's family, agents aside, above which it is reported: three times
            the largest of 340 optimizers of healthy and published models (0.03).

    References:
        RL Baselines3 Zoo, ``hyperparams`` (tuned ranges by algorithm) and ``hyperparams_opt`` (search space, 1e-5 to
        2e-3): docs/settings.md.
    """
    if checkpoint.format == "sb3" and checkpoint.algorithm != "ARS":
        yield from _judge_agent(optimizer, checkpoint)
        return
    if not optimizer.takes_adam_steps:
        return
    for group in optimizer.groups:
        rate = group.largest_learning_rate
        if "lr" in group.options and rate > adam and _is_large_for(group, rate, optimizer, checkpoint):
            yield learning_rate_range.finding(
                f"the learning rate of {optimizer.name} is {rate:.3g}; the largest that is in use is 0.03",
                evidence={"optimizer": optimizer.name, "learning_rate": rate},
                advice="Lower the learning rate.",
            )
            return


def _judge_agent(optimizer: Optimizer, checkpoint: Checkpoint) -> Iterator[Finding]:
    """Judge the rate that an agent's run was given, once, or that of an optimizer where the run's is not known."""
    given = value_of(checkpoint.hyperparameters, "learning_rate")
    if given is not None and optimizer is not checkpoint.optimizers[0]:
        return
    of_groups = [group.largest_learning_rate for group in optimizer.groups if "lr" in group.options]
    rate = given if given is not None else max(of_groups, default=0.0)
    verdict, known = judge(rate, find_ranges((checkpoint.algorithm or "",), "learning_rate", checkpoint.ranges))
    if rate <= 0 or known is None or verdict not in (Verdict.UNTUNED, Verdict.LOW, Verdict.HIGH):
        return
    whose = f"the learning rate of {checkpoint.algorithm or optimizer.name}"
    yield learning_rate_range.finding(
        f"{whose} is {rate:.3g}, {verdict.value}; the {known.kind.value} is {known.describe()}",
        severity=Severity.NOTE if verdict is Verdict.UNTUNED else None,
        evidence={
            "optimizer": optimizer.name,
            "learning_rate": rate,
            "verdict": verdict.value,
            "low": known.low,
            "high": known.high,
            "kind": known.kind.value,
            "source": known.source,
        },
        advice="" if verdict is Verdict.UNTUNED else f"Try a rate of {known.describe()}.",
    )


def _is_large_for(group: ParameterGroup, rate: float, optimizer: Optimizer, checkpoint: Checkpoint) -> bool:
    """Return whether a group holds weights of layers, and the rate is no small share of their size."""
    tensors = [checkpoint.find_tensor(optimizer.parameters[index].tensor) for index in group.indices]
    sizes = [
        norm / sqrt(each.size)
        for each in tensors
        if each is not None and len(each.shape) > 1 and checkpoint.layer_of[each.name].kind in DENSE
        if (norm := each.statistics.norm)
    ]
    return bool(sizes) and rate > _SMALL_SHARE * median(sizes)


@rule("HYP005", "adam-betas", Severity.WARNING, on=Optimizer, part=("optimizer",))
def adam_betas(optimizer: Optimizer, *, momentum: float = 0.999) -> Iterator[Finding]:
    """The optimizer forgets squared gradients sooner than gradients, or hardly forgets gradients at all.

    Why it matters:
        Adam divides a mean of gradients by the root of a mean of their squares. Where the mean of squares is the
        shorter one, a step can be any multiple of the learning rate: one small gradient shrinks the divisor, and the
        sum of many old gradients is divided by it. A momentum next to 1 multiplies steps by 1/(1 − momentum) and
        follows gradients of thousands of updates ago.

    When it is normal:
        Equal betas are used in reinforcement learning against loss of plasticity, and are not reported.

    What to do:
        Use (0.9, 0.999), the default; language models use (0.9, 0.95). SGD: a momentum of 0.9 to 0.99.

    Options:
        momentum: The momentum, or the first beta, from which it is reported; 0.99 is the largest in published training
            code that we know.

    References:
        Kingma and Ba 1412.6980 (the convergence proof needs β1² < √β2); Dohare et al. 2306.13812 (equal betas).
    """
    for group in optimizer.groups:
        betas, given = group.options.get("betas"), group.options.get("momentum")
        if isinstance(betas, (list, tuple)) and len(betas) == 2 and all(isinstance(each, float) for each in betas):
            first, second = betas
            if optimizer.kind not in ("Lion", None) and first > second:
                yield _report(optimizer, f"betas of ({first:g}, {second:g}): squares are forgotten first", betas=betas)
                return
            given = first
        if isinstance(given, float) and given >= momentum:
            factor = 1 / (1 - given) if given < 1 else float("inf")
            yield _report(optimizer, f"a momentum of {given:g}: steps add up {factor:,.0f} gradients", momentum=given)
            return


def _report(optimizer: Optimizer, message: str, **evidence: object) -> Finding:
    return adam_betas.finding(f"{optimizer.name} has {message}", evidence={"optimizer": optimizer.name, **evidence})


@rule("HYP006", "strong-weight-decay", Severity.WARNING, on=Optimizer, part=("optimizer",), worse=("shrinkage",))
def strong_weight_decay(optimizer: Optimizer, *, largest: float = 0.02, penalty: float = 1.0) -> Iterator[Finding]:
    """Weight decay is so strong that it removes what is learned within some dozen updates.

    Why it matters:
        In every update, decay shrinks the weights by the learning rate times the decay, while Adam's step is about the
        learning rate. Above 2 % an update, half of a weight is gone after 35 updates, and only the gradients of the
        last batches are left in it.

    When it is normal:
        Never for a model that should keep what it learned. A schedule that ended at a rate of zero is not judged.

    What to do:
        Use 0.01 to 0.1 with AdamW, 1e-5 to 5e-4 with SGD, and leave gains and biases out.

    Options:
        largest: The share of a weight that one update of AdamW, Lion or SGD may take away, the learning rate times the
            weight decay. Products in published training code are 1e-7 to 1e-4; this is two hundred times that, and
            twice what a small network still learned with.
        penalty: The weight decay of Adam from which it is reported. Adam adds the decay to the gradient, where its
            scale cancels: from 1.0 on, it outweighs the gradients of trained networks, whose weights are near 0.1.

    References:
        Loshchilov and Hutter 1711.05101.
    """
    for number, group in enumerate(optimizer.groups):
        decay, rate = _decay(group.options), group.largest_learning_rate
        is_decoupled = optimizer.kind in _DECOUPLED or bool(group.options.get("decoupled_weight_decay"))
        if not decay or not group.indices or "lr" not in group.options:
            continue
        shrinkage = rate * decay
        if is_decoupled and shrinkage >= largest:
            after = max(1, round(log(2) / -log(1 - shrinkage))) if shrinkage < 1 else 1
            message = f"halves the weights in {after:,} update{'s' * (after > 1)}"
        elif not is_decoupled and decay >= penalty and optimizer.kind in ("Adam", "AMSGrad"):
            message = "outweighs the gradients"
        else:
            continue
        yield strong_weight_decay.finding(
            f"the weight decay of {decay:g} in {optimizer.name}, at a learning rate of {rate:.3g}, {message}",
            evidence={"optimizer": optimizer.name, "group": number, "weight_decay": decay, "shrinkage": shrinkage},
            advice="Lower the weight decay, and leave gains and biases out.",
        )
        return


def _decay(options: Mapping[str, object]) -> float:
    value = options.get("weight_decay")
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0.0
