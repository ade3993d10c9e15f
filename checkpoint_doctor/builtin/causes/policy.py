"""Causes in the state of a reinforcement learning policy and in its settings."""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint_doctor.builtin.causes._facts import failing_training
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.plugins.cause import Claim, Symptoms, cause
from checkpoint_doctor.results.diagnosis import Prognosis


@cause("exploration-collapsed", Prognosis.POINTLESS)
def exploration_collapsed(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """The policy's standard deviation is so far from those in use that it no longer explores, or does nothing else.

    How we know:
        The logarithm of the standard deviation is in the file.

    What else it could be:
        A policy that was made deterministic on purpose, for evaluation.

    What to do:
        Look at ``log_std_init``, at the entropy coefficient and at the scale of the actions.

    References:
        Rule POL001.
    """
    for finding in symptoms.of("POL001"):
        yield exploration_collapsed.claim([finding], consequences=symptoms.of("OPT004", "OPT005"))


@cause("entropy-coefficient", Prognosis.POINTLESS)
def entropy_coefficient(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """The coefficient of the entropy bonus is negative, has vanished or exploded.

    How we know:
        It is in the settings, or learned and in the file.

    What else it could be:
        A target entropy that cannot be reached, which drives a learned coefficient without limit.

    What to do:
        Check ``ent_coef`` and ``target_entropy``.

    References:
        Rule POL002. Haarnoja et al. 1812.05905.
    """
    for finding in symptoms.of("POL002"):
        yield entropy_coefficient.claim([finding], consequences=[*symptoms.of("OPT012"), *failing_training(symptoms)])


@cause("settings-out-of-range", Prognosis.POINTLESS)
def settings_out_of_range(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """A setting is beyond what any published agent uses.

    How we know:
        It is stored in the file.

    What else it could be:
        An experiment on purpose.

    What to do:
        Compare it with the defaults of the algorithm.

    References:
        Rule HYP003.
    """
    for finding in symptoms.of("HYP003"):
        yield settings_out_of_range.claim([finding], consequences=failing_training(symptoms))
