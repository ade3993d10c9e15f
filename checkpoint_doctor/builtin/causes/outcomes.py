"""What became of units and values where nothing further upstream can be shown."""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint_doctor.builtin.causes._facts import never_trained, reads_zeros
from checkpoint_doctor.builtin.causes._remedies import clip_gradients
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.plugins.cause import Claim, Symptoms, cause
from checkpoint_doctor.results.diagnosis import Certainty, Prognosis
from checkpoint_doctor.results.findings import Finding, Severity


@cause("dead-relu", Prognosis.CURED, is_outcome=True)
def dead_relu(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """Units with a rectified activation have an output of 0 for every input, and receive no gradient any more.

    How we know:
        The layers that read the units learn, and receive nothing from them: the second moments of the columns that read
        the units fade as they do without gradients, and so do those of the units' own rows.

    What else it could be:
        Units that respond to rare inputs only. In agents that play well, 13 to 76 % of the units are dormant.

    What to do:
        Lower the learning rate, put a layer norm before the activation, or use an activation with a gradient on both
        sides. ``ckdoc fix --recycle`` makes the units able to learn again.

    References:
        Rule NET001. Sokar et al. 2302.12902.
    """
    findings = [each for each in symptoms.of("NET001") if _count(each, "dead") > _count(each, "saturated")]
    if any(each.severity > Severity.NOTE for each in findings):
        yield dead_relu.claim(findings, _describe(findings, "dead"), certainty=Certainty.LIKELY)
    silent = [layer for layer in checkpoint.layers if reads_zeros(layer, checkpoint)]
    untrained = symptoms.of("OPT001", cause="never trained")
    if silent and untrained:
        yield dead_relu.claim(
            untrained,
            f"{silent[0].name} learned its bias alone, since everything that it reads is zero: the units in front of "
            "it are dead, and pass no gradient",
            consequences=[*never_trained(symptoms), *symptoms.of("NET001", "NET006")],
            certainty=Certainty.LIKELY,
            subject=silent[0].name,
        )


@cause("saturated", Prognosis.POINTLESS, is_outcome=True)
def saturated(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """Units or gates are at the limit of their activation, where no gradient passes.

    How we know:
        The layers that read the units receive a signal from them and learn, and no gradient passes back through them;
        or gate biases are far beyond what a sigmoid can tell apart.

    What else it could be:
        Inputs that are too large, initial values that are too wide, a learning rate that is too high: these have a
        diagnosis of their own where the file shows them.

    What to do:
        Normalise the inputs, lower the learning rate, and draw the saturated layers anew.

    References:
        Rules NET001, RNN003 and VAL002.
    """
    findings = [each for each in symptoms.of("NET001") if _count(each, "saturated") >= max(_count(each, "dead"), 1)]
    gates = [*symptoms.of("RNN003")]
    if any(each.severity > Severity.NOTE for each in (*findings, *gates)):
        proof = [*findings, *gates]
        yield saturated.claim(
            proof,
            _describe(findings, "saturated") if findings else gates[0].message,
            consequences=symptoms.of("RNN005", "VAL002", "NET005", "OPT008"),
            certainty=Certainty.LIKELY,
        )


@cause("exploded", Prognosis.POINTLESS, is_outcome=True)
def exploded(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """Weights have grown far beyond those of any trained layer.

    How we know:
        The root mean square of weights, times the root of the fan-in, is above that of trained layers by orders of
        magnitude.

    What else it could be:
        Values that were stored in another unit or without their scale (``rounded``), or a damaged file.

    What to do:
        Go back to a checkpoint before the growth; clip gradients and lower the learning rate.

    References:
        Rule VAL002.
    """
    findings = symptoms.of("VAL002")
    if findings:
        yield exploded.claim(
            findings,
            f"weights have exploded: {findings[0].subject}: {findings[0].message}",
            consequences=symptoms.of("NET001", "NET005", "OPT004", "OPT007", "OPT008", "RNN005", "VAL003"),
            certainty=Certainty.PROVEN if findings[0].severity is Severity.ERROR else Certainty.LIKELY,
            remedy=clip_gradients(checkpoint),
        )


def _count(finding: Finding, kind: str) -> int:
    units = finding.evidence.get(kind)
    return len(units) if isinstance(units, list) else 0


def _describe(findings: list[Finding], word: str) -> str:
    units = sum(_count(each, "units") for each in findings)
    layers = ", ".join(str(each.subject) for each in findings[:3]) + (" …" if len(findings) > 3 else "")
    return f"{units:,} units receive no gradient, most of them {word}, in {layers}"
