"""Causes in copies of a network: averages, target networks and twins that do not follow, or are no copies."""

from __future__ import annotations

import re
from collections.abc import Iterator

from checkpoint_doctor.builtin.causes._remedies import AVERAGE_BUFFERS, UPDATE_AVERAGE
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.plugins.cause import Claim, Symptoms, cause
from checkpoint_doctor.results.diagnosis import Certainty, Prognosis

_AVERAGES = re.compile(r"(^|[./_])(ema|averaged?|avg|swa|shadow)([./_]|$)", re.IGNORECASE)
_TARGETS = re.compile(r"(_k$|target|momentum|teacher|key)", re.IGNORECASE)
"""Names of copies that training follows, such as a momentum encoder; other copies are averages for later."""


@cause("average-not-updated", Prognosis.POINTLESS)
def average_not_updated(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """An average of the weights is the model itself, or still the initial weights.

    How we know:
        The average is identical to the model to the last bit after many updates, or holds initial values (gains of
        exactly 1, biases of exactly 0) beside a trained model.

    What else it could be:
        A copy that was made for another purpose than averaging.

    What to do:
        Call the average's ``update`` after each step.

    References:
        Rules RES004 and NRM003. PyTorch's ``torch.optim.swa_utils.AveragedModel.update_parameters``.
    """
    for finding in symptoms.of("RES004"):
        if not _TARGETS.search(str(finding.evidence.get("average"))):
            yield average_not_updated.claim([finding], remedy=UPDATE_AVERAGE.line(checkpoint))
    statistics = [each for each in symptoms.of("NRM003") if _AVERAGES.search(each.tensor or "")]
    if statistics and len(statistics) == len(symptoms.of("NRM003")):
        yield average_not_updated.claim(
            statistics,
            "the running statistics of the average were never updated, and those of the model were: an average of the "
            "parameters leaves buffers out",
            remedy=AVERAGE_BUFFERS.line(checkpoint),
        )


@cause("target-not-synced", Prognosis.POINTLESS)
def target_not_synced(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """A target network does not follow its online network.

    How we know:
        The settings never update it (tau of 0, an interval longer than the run), or its weights have nothing in common
        with the online network's.

    What else it could be:
        A target that was replaced on purpose when a run was continued.

    What to do:
        Set ``tau`` and ``target_update_interval`` to values in use: 0.005 at every step, or 1 every 10,000 steps.

    References:
        Rules POL003 and RES004. Mnih et al. 2015; Lillicrap et al. 1509.02971.
    """
    encoders = [each for each in symptoms.of("RES004") if _TARGETS.search(str(each.evidence.get("average")))]
    findings = [*symptoms.of("POL003"), *encoders]
    if findings:
        yield target_not_synced.claim(findings, findings[0].message)


@cause("twin-critics-identical", Prognosis.POINTLESS)
def twin_critics_identical(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """Two critics of an ensemble are the same to the last bit, so that their minimum corrects nothing.

    How we know:
        All tensors of both are equal. Critics that began apart, or saw other gradients once, never become equal.

    What else it could be:
        A file that stores one critic under two names on purpose.

    What to do:
        Initialise each critic by itself, and do not copy one into the other.

    References:
        Rule POL004. Fujimoto et al. 1802.09477.
    """
    for finding in symptoms.of("POL004"):
        yield twin_critics_identical.claim([finding], certainty=Certainty.PROVEN)
