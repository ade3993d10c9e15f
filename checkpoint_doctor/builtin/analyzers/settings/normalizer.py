"""The statistics that an agent's observations are normalised with: whether they are there, and the agent's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite, sqrt
from typing import Any

from checkpoint_doctor.checkpoint import Checkpoint, Content
from checkpoint_doctor.layers import DENSE
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.text import estimate, quantity, shown

_LARGE = 5.0
"""Root mean square of inputs above which they were not normalised: 91 first layers of agents behind VecNormalize read
0.41 to 2.06 (docs/signal-profile.md)."""

_AGREEMENT = 3.0
"""Factor within which the inputs' size that the moments show is taken for that of the raw observations; on 13 networks
the estimate was within 4, mostly within 1.5 (docs/signal-profile.md)."""

_MOST_COUNTED = 1e13
"""Observations that no run ever saw: 1e13 take three years at 100,000 steps a second."""


@rule("POL005", "missing-normalizer", Severity.NOTE, on=Checkpoint)
def missing_normalizer(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The agent was trained on normalised observations, and their statistics are not beside it.

    Why it matters:
        Stable-Baselines3 keeps the statistics of ``VecNormalize`` in a file of their own. Without it the agent sees raw
        observations, which it never saw, and acts badly without any error.

    When it is normal:
        Where the file lies elsewhere.

    What to do:
        Save it with ``env.save("vecnormalize.pkl")`` and load it with ``VecNormalize.load`` before the model is used.

    References:
        Stable-Baselines3, ``BaseAlgorithm._setup_learn``: on-policy algorithms keep ``_last_original_obs`` where the
        environment is a ``VecNormalize``, and nowhere else. SB3 issues 1256 and 2113.
    """
    if checkpoint.metadata.get("observations") != "normalized" or checkpoint.missing:  # RES006 names what is missing
        return
    if not any(part.content is Content.NORMALIZATION for part in checkpoint.parts):
        yield missing_normalizer.finding(
            "the agent was trained behind VecNormalize, and no vecnormalize.pkl is beside it",
            advice="Copy the file of the same run beside the model.",
        )


@rule("POL006", "normalizer-statistics", Severity.WARNING, on=Checkpoint, part=("what",), worst=Severity.ERROR)
def normalizer_statistics(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The statistics that observations are normalised with are damaged, or not those that the agent was trained with.

    Why it matters:
        Observations are shifted by the mean and divided by the root of the variance. With statistics of another run, or
        with impossible ones, the agent sees other numbers than in training.

    When it is normal:
        A feature that never changed has a variance of zero: VecNormalize adds a small ε to it, and clips. That is a
        note. The count of observations differs from that of steps where a run went on with a new counter: a note too.

    What to do:
        Take the file that was saved with this very checkpoint.

    References:
        Stable-Baselines3, ``VecNormalize`` (ε 1e-8, clip 10). The size of the inputs in training is read from the
        optimizer's moments: docs/signal-profile.md.
    """
    part = next((each for each in checkpoint.parts if each.content is Content.NORMALIZATION), None)
    if part is None:
        return
    for key, statistics in part.values.items():
        if isinstance(statistics, Mapping) and key.startswith("observations"):
            yield from _judge_values(part.name, statistics)
    statistics = part.values.get("observations")
    if isinstance(statistics, Mapping) and part.values.get("norm_obs") is not False:
        yield from _compare(part.name, statistics, checkpoint)


def _judge_values(name: str, statistics: Mapping[str, Any]) -> Iterator[Finding]:
    mean, variance, count = statistics.get("mean", []), statistics.get("variance", []), statistics.get("count")
    pairs = enumerate(zip(mean, variance, strict=False))
    bad = [place for place, (m, v) in pairs if not (isfinite(m) and 0 <= v < 1e300)]
    if bad:
        yield normalizer_statistics.finding(
            f"{shown(name)}: {quantity(len(bad), 'feature')} of {len(mean):,} have a mean or a variance that is not "
            "possible",
            severity=Severity.ERROR,
            evidence={"what": "impossible", "features": bad},
            advice="Take the file that was saved with this checkpoint.",
        )
    still = [place for place, v in enumerate(variance) if v == 0]
    if still:
        yield normalizer_statistics.finding(
            f"{shown(name)}: {quantity(len(still), 'feature')} of {len(variance):,} never changed (variance 0)",
            severity=Severity.NOTE,
            evidence={"what": "constant", "features": still},
        )
    if count is not None and (count > _MOST_COUNTED or count <= 0):
        yield normalizer_statistics.finding(
            f"{shown(name)} counts {count:.3g} observations, which no run saw: new ones change nothing any more",
            evidence={"what": "count", "count": count},
            advice="Begin the statistics anew, or take those that were saved with this checkpoint.",
        )


def _compare(name: str, statistics: Mapping[str, Any], checkpoint: Checkpoint) -> Iterator[Finding]:
    mean, variance = statistics.get("mean", []), statistics.get("variance", [])
    first = [
        layer
        for layer in checkpoint.distinct_layers
        if layer.kind in DENSE and layer.name.endswith((".0", "latent_pi.0")) and "target" not in layer.name
    ]
    first = [layer for layer in first if layer.weight is not None and len(layer.weight.shape) == 2]
    policies = [layer for layer in first if "qf" not in layer.name and "critic" not in layer.name]
    if not policies or not mean or len(mean) != len(variance):
        return
    widths = {layer.weight.shape[1] for layer in policies if layer.weight is not None}
    if len(mean) not in widths:
        yield normalizer_statistics.finding(
            f"{shown(name)} has statistics of {quantity(len(mean), 'feature')}, and the policy reads "
            f"{' or '.join(map(str, sorted(widths)))}: they belong to another agent",
            evidence={"what": "another agent", "features": len(mean), "inputs": sorted(widths)},
            advice="Take the file that was saved with this checkpoint.",
        )
        return
    raw = sqrt(sum(m * m + v for m, v in zip(mean, variance, strict=True)) / len(mean))
    measured = [size for layer in policies if (size := checkpoint.signals[layer.name].input_rms) is not None]
    if measured and min(measured) > _LARGE and raw / _AGREEMENT <= min(measured) <= raw * _AGREEMENT:
        yield normalizer_statistics.finding(
            f"the moments show inputs with a root mean square of {estimate(min(measured))} in training, as large as "
            f"the raw observations of {shown(name)} ({estimate(raw)}): the agent was not trained behind it",
            evidence={"what": "raw observations", "input_rms": min(measured), "raw_rms": raw},
            advice="Use the agent without these statistics.",
        )
    count = statistics.get("count")
    if count and checkpoint.step and not 0.5 <= count / checkpoint.step <= 2 and count <= _MOST_COUNTED:
        yield normalizer_statistics.finding(
            f"{shown(name)} counts {count:,.0f} observations, the agent {checkpoint.step:,} steps: they may be of "
            "different moments, or runs",
            severity=Severity.NOTE,
            evidence={"what": "another moment", "count": count, "steps": checkpoint.step},
        )
