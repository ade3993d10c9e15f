"""Causes in the settings of the optimizer: learning rate, schedule, clip, ε, weight decay."""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint_doctor.builtin.causes._facts import (
    failing_training,
    is_reinforcement_learning,
    largest_rate,
    number_of,
    settings_of,
)
from checkpoint_doctor.builtin.causes._remedies import (
    LITTLE_DECAY,
    LOWER_RATE,
    MINIMIZE,
    ORDINARY_RATE,
    PLAN_SCHEDULE,
    SMALL_EPSILON,
    USUAL_BETAS,
    clip_gradients,
)
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.plugins.cause import Claim, Symptoms, cause
from checkpoint_doctor.results.diagnosis import Certainty, Prognosis
from checkpoint_doctor.results.findings import Finding

_FAR_TOO_HIGH = 5e-3
"""Above all rates that published agents were tuned with, 4e-3 at most, and twice where their tuner looks."""

_HIGH_RATE = 0.05
"""A rate for Adam that no published agent or fine-tuning uses: its steps are about as large as the weights."""
_HIGH_RATE_OF_ANY = 5.0
"""A rate beyond that of any optimizer in use; plain gradient descent reaches 1 at times."""
_LARGE_EPSILON = 1e-3
"""Above the ε of every optimizer in use: 1e-8 by default, 1e-5 for A2C, 1e-3 for Yogi and Adafactor's scale."""
_STRONG_DECAY = 1.0
"""Weight decay beyond any recipe in use; those of transformers reach 0.3."""
_TINY_CLIP = 1e-3
"""A clip of the gradient norm below those in use, which are 0.1 to 40."""


@cause("learning-rate-too-high", Prognosis.POINTLESS)
def learning_rate_too_high(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """The learning rate is so high that each update throws the weights about.

    How we know:
        The optimizer's moments and its learning rate give the size of an update: it changes the weights by several per
        cent, where trained networks stay below 0.2 %. Or units learned once, stopped, and the rate is one that no
        recipe for this optimizer uses. In a running training loop, gradients that overflow, or are exactly zero from
        then on, are explained too, where the rate is beyond all that are in use.

    What else it could be:
        Inputs or targets that are far too large have the same effect at an ordinary rate.

    What to do:
        Lower the learning rate, by ten at first; warm it up; clip gradients.

    References:
        Rules HYP001, OPT008, NET001, RNN003, VAL002 and POL002. Measured update ratios of trained networks: ``OPT008``.
    """
    far = [each for each in symptoms.of("HYP001") if each.evidence.get("learning_rate", 1.0) > _FAR_TOO_HIGH]
    proof = [*far, *symptoms.of("OPT008", cause="too large")]
    rate = largest_rate(checkpoint)
    grown = [*symptoms.of("VAL002", "RNN003"), *(each for each in symptoms.of("NET001") if _has_mostly_stopped(each))]
    is_adaptive = any(
        (optimizer.kind or "").startswith(("Adam", "NAdam", "RAdam", "RMSprop")) for optimizer in checkpoint.optimizers
    )
    unusual = [each for each in symptoms.of("HYP001", verdict="unusually high") if each not in far]
    is_beyond_any = rate >= (_HIGH_RATE if is_adaptive else _HIGH_RATE_OF_ANY)
    if proof or (grown and unusual) or (grown and is_beyond_any):
        yield learning_rate_too_high.claim(
            proof or [*unusual, *grown],
            ""
            if proof or unusual
            else f"a learning rate of {rate:.3g} is far above those in use, and what it moved has stopped learning",
            consequences=[
                *failing_training(symptoms),
                *symptoms.of("VAL003", "ZER002", "OPT012"),
                # A coefficient that is learned is learned at this rate too; one that was set is an illness of its own.
                *(each for each in symptoms.of("POL002") if proof and each.tensor is not None),
                *(_gradients_gone_astray(symptoms) if proof and is_beyond_any else ()),
            ],
            certainty=Certainty.PROVEN if proof else Certainty.LIKELY,
            evidence={"learning_rate": rate} if not proof else None,
            remedy=LOWER_RATE.line(checkpoint),
        )


def _gradients_gone_astray(symptoms: Symptoms) -> Iterator[Finding]:
    """Yield what gradients show in a running loop once steps are as large as the weights.

    They jump, overflow, and end where outputs saturate. A NaN alone may be of other origin: only beside a gradient that
    overflowed it is what became of an infinite number.
    """
    yield from symptoms.of("GRD002", "GRD003", "OPT006")
    if symptoms.of("GRD001", kind="overflow"):
        yield from symptoms.of("GRD001", "VAL001", "OPT007", "NRM003")


@cause("learning-rate-too-low", Prognosis.POINTLESS)
def learning_rate_too_low(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """The learning rate is zero, or so small that nothing ever moved.

    How we know:
        The parameters are still the initial ones, although the optimizer recorded gradients for them, and its learning
        rate is zero or vanishes beside the values.

    What else it could be:
        A schedule in its warm-up, whose final rate stands beside the present one (``schedule``).

    What to do:
        Check the unit of the rate, and what multiplies it.

    References:
        Rules OPT008 and OPT009.
    """
    for finding in symptoms.of("OPT009", cause="learning rate"):
        if not _is_scheduled(finding, checkpoint):
            yield learning_rate_too_low.claim(
                [finding],
                consequences=symptoms.of("OPT003", "OPT005", "OPT008", "ZER003", "ZER004"),
                remedy=ORDINARY_RATE.line(checkpoint),
            )


@cause("schedule", Prognosis.POINTLESS)
def schedule(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """The schedule of the learning rate overshoots, ended early, or never left its warm-up.

    How we know:
        The rate at the time of saving is negative; or it is far below the rate that the schedule started from, and
        nothing moved; or the scheduler in the file disagrees with the optimizer or with the number of steps.

    What else it could be:
        A rate of zero at the very end of a finished schedule is as it should be.

    What to do:
        Give the schedule the number of steps that the training really makes, and step it once for each step or once for
        each epoch, as it was made for.

    References:
        Rules OPT003, OPT009 and RES001. Lightning issues 12812 and 4655.
    """
    negative = [each for each in symptoms.of("OPT003") if number_of(each, "learning_rate") < 0]
    warming = [each for each in symptoms.of("OPT009", cause="learning rate") if _is_scheduled(each, checkpoint)]
    for finding in (*negative, *symptoms.of("RES001"), *warming):
        yield schedule.claim(
            [finding],
            consequences=symptoms.of("OPT003", "OPT008", "FIL004"),
            certainty=Certainty.LIKELY if finding in warming else Certainty.PROVEN,
            prognosis=Prognosis.RELIEVED if finding in negative else None,
            remedy=PLAN_SCHEDULE.line(checkpoint),
        )


@cause("clip-too-small", Prognosis.POINTLESS)
def clip_too_small(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """Gradients are clipped to so small a norm that the optimizer's ε drowns them.

    How we know:
        All second moments are far below ε squared while ε is an ordinary one, and the norm of the gradient is a
        constant: that of the clip.

    What else it could be:
        A loss that is scaled down, or has vanished.

    What to do:
        Clip to a norm between 0.1 and 10.

    References:
        Rules OPT004, OPT005 and OPT009.
    """
    clipped = [each for each in symptoms.of("OPT004") if 0 < number_of(each, "clip") < _TINY_CLIP]
    stalled = list(symptoms.of("OPT009", cause="step size"))
    whole = [each for each in symptoms.of("OPT005") if not each.evidence.get("component")]
    drowned = [each for each in whole if number_of(each, "share") >= 0.99 or stalled]
    has_usual_epsilon = max(settings_of(checkpoint, "eps"), default=0.0) < _LARGE_EPSILON
    proof = [*clipped, *stalled, *(drowned if _are_far_below(drowned) else ())]
    if proof and has_usual_epsilon:
        yield clip_too_small.claim(
            proof,
            consequences=symptoms.of("OPT004", "OPT005", "OPT008", "ZER003", "ZER004"),
            certainty=Certainty.PROVEN if clipped else Certainty.LIKELY,
            remedy=clip_gradients(checkpoint),
        )


@cause("epsilon-too-large", Prognosis.POINTLESS)
def epsilon_too_large(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """The optimizer's ε is larger than nearly all gradients, so that it no longer adapts and its steps vanish.

    How we know:
        ε is above 1e-3, and the second moments are below its square.

    What else it could be:
        A large ε with a learning rate that makes up for it, as in some recipes for image networks.

    What to do:
        Use the default of 1e-8, or 1e-5 for A2C and PPO.

    References:
        Rule OPT005.
    """
    if max(settings_of(checkpoint, "eps"), default=0.0) >= _LARGE_EPSILON:
        for finding in symptoms.of("OPT005"):
            yield epsilon_too_large.claim(
                [finding],
                consequences=symptoms.of("OPT008", "OPT009"),
                remedy=SMALL_EPSILON.line(checkpoint),
            )


@cause("weight-decay-too-strong", Prognosis.POINTLESS)
def weight_decay_too_strong(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """Weight decay removes the weights faster than the gradient can build them.

    How we know:
        The weights are far smaller than in any trained layer, and the optimizer's weight decay is 1 or more.

    What else it could be:
        A file whose values were scaled down.

    What to do:
        Use a weight decay of 0.1 or less, and none on biases and norms.

    References:
        Rules VAL006, NRM002 and HYP006. Loshchilov and Hutter 1711.05101.
    """
    decay = max(settings_of(checkpoint, "weight_decay"), default=0.0)
    shrunk = [*symptoms.of("HYP006"), *(symptoms.of("VAL006", "NRM002") if decay >= _STRONG_DECAY else ())]
    if shrunk:
        yield weight_decay_too_strong.claim(
            shrunk,
            f"a weight decay of {decay:g} removes the weights faster than the gradient builds them",
            consequences=[*failing_training(symptoms), *symptoms.of("VAL006", "NRM002", "ZER002")],
            evidence={"weight_decay": decay},
            remedy=LITTLE_DECAY.line(checkpoint),
        )


@cause("optimizer-settings", Prognosis.POINTLESS)
def optimizer_settings(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """The optimizer's betas or its momentum are none that training works with.

    How we know:
        They are stored with the optimizer: squared gradients are forgotten sooner than gradients, or gradients hardly
        at all.

    What else it could be:
        An experiment on purpose.

    What to do:
        Use the defaults: betas of 0.9 and 0.999, momentum 0.9.

    References:
        Rule HYP005. Reddi et al. 1904.09237.
    """
    uphill = [group for each in checkpoint.optimizers for group in each.groups if group.options.get("maximize") is True]
    grown = symptoms.of("OPT008", "OPT012", "VAL002")
    if uphill and grown and not is_reinforcement_learning(checkpoint):
        yield optimizer_settings.claim(
            grown,
            "the optimizer was made with maximize=True: it raised the loss",
            consequences=failing_training(symptoms),
            evidence={"maximize": True},
            remedy=MINIMIZE.line(checkpoint),
        )
    findings = symptoms.of("HYP005")
    if findings:
        yield optimizer_settings.claim(
            findings,
            consequences=failing_training(symptoms),
            remedy=USUAL_BETAS.line(checkpoint),
        )


def _has_mostly_stopped(finding: Finding) -> bool:
    """True for dormant units most of which learned once."""
    stopped, units = finding.evidence.get("stopped"), finding.evidence.get("units")
    return isinstance(stopped, list) and isinstance(units, list) and 2 * len(stopped) > len(units)


def _is_scheduled(finding: Finding, checkpoint: Checkpoint) -> bool:
    """True where the group's initial rate is an ordinary one and the present rate is not zero: a warm-up."""
    optimizer = finding.evidence.get("optimizer")
    initial = max(settings_of(checkpoint, "initial_lr", str(optimizer)), default=0.0)
    return 0 < number_of(finding, "learning_rate") < 1e-3 * initial


def _are_far_below(drowned: list[Finding]) -> bool:
    """True where gradients are so far below ε that steps have vanished: under a thousandth of the learning rate."""
    return any(0 < number_of(each, "effective_step") < 1e-3 for each in drowned)
