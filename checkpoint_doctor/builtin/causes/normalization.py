"""The cause in running statistics of normalisation layers."""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint_doctor.builtin.causes._remedies import FRESH_STATISTICS
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.plugins.cause import Claim, Symptoms, cause
from checkpoint_doctor.results.diagnosis import Prognosis


@cause("norm-statistics", Prognosis.CURED)
def norm_statistics(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """Running statistics of a normalisation layer were never updated, were reset, or are impossible.

    How we know:
        A variance is negative or zero; or mean and variance are still 0 and 1 although the layer's gain was trained, or
        batches were counted.

    What else it could be:
        A layer that normalises by the batch in evaluation too, and keeps no statistics on purpose.

    What to do:
        Train in training mode with a momentum above 0, or set the statistics from a pass over the data: PyTorch's
        ``torch.optim.swa_utils.update_bn``.

    References:
        Rule NRM003.
    """
    findings = [each for each in symptoms.of("NRM003") if each.evidence.get("cause") != "nonfinite"]
    if findings:
        several = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        yield norm_statistics.claim(
            findings,
            f"{findings[0].subject}{several}: {findings[0].message}",
            consequences=symptoms.of("VAL001", "NRM002"),
            prognosis=Prognosis.RELIEVED,
            remedy=FRESH_STATISTICS.line(checkpoint),
        )
