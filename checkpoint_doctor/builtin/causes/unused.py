"""Causes that are no fault of training: parts, rows and actions that never had their turn."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from checkpoint_doctor.builtin.causes._facts import (
    NEVER_TRAINED,
    Named,
    about,
    has_trained_twin,
    is_reinforcement_learning,
    layers_of,
    names_of,
    never_trained,
)
from checkpoint_doctor.builtin.causes._remedies import FIT_VOCABULARY
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.layers import RECURRENT, Kind
from checkpoint_doctor.plugins.cause import Claim, Symptoms, cause
from checkpoint_doctor.results.diagnosis import Certainty, Prognosis
from checkpoint_doctor.results.findings import Finding

_ABOUT_ROWS = ("NET002", "NET004", "NET006", "ZER003")
"""Rules that may speak of the same rows as NET007."""
_ROUTERS = re.compile(r"(^|\.)(router|gate|gating)\b", re.IGNORECASE)
"""Names of what chooses between parts: it receives no gradient while a single part is ever chosen."""


@cause("unused-part", Prognosis.POINTLESS)
def unused_part(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """An expert, a head or an adapter never had its turn, while others of its kind did.

    How we know:
        The whole part has no state, or second moments of exactly zero, and a part with the same shapes and a name that
        differs in its number only was trained; or the layers that were trained do without the part: it never ran, it
        ends in zeros, or none of them can read its output.

    What else it could be:
        A branch that is detached from the loss by mistake.

    What to do:
        For experts, look at the balance of the router. For heads of several tasks, look at whether each task has data.

    References:
        Rule OPT001.
    """
    findings = [each for each in symptoms.of("OPT001", cause=NEVER_TRAINED) if has_trained_twin(each, checkpoint)]
    waiting = list(symptoms.of("OPT001", "OPT006", cause="waiting"))
    if waiting:
        names = [str(each.evidence.get("branch") or each.evidence.get("optimizer")) for each in waiting]
        yield unused_part.claim(
            waiting,
            f"not used so far: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}; the rest works without",
            consequences=_around(waiting, symptoms),
            certainty=Certainty.LIKELY,
        )
    if findings:
        names = [str(each.evidence.get("branch") or each.subject) for each in findings]
        yield unused_part.claim(
            findings,
            f"{', '.join(names[:3])}{' …' if len(names) > 3 else ''} never had a turn: others of the kind were trained",
            consequences=_around(findings, symptoms),
            certainty=Certainty.LIKELY,
        )


@cause("unused-rows", Prognosis.POINTLESS)
def unused_rows(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """Classes, tokens, positions or hidden states never had their turn.

    How we know:
        The second moments of their rows are exactly zero, or fade as they do without gradients, and those of the other
        rows are alive.

    What else it could be:
        Outputs that a mask removes (``masked``), or data from which they are missing.

    What to do:
        Compare with the data: the classes or tokens that occur. A tokenizer with more entries than the data uses is
        normal.

    References:
        Rule NET007.
    """
    others = Named(symptoms.of(*_ABOUT_ROWS))
    for finding in symptoms.of("NET007"):
        if not _is_masked(finding, checkpoint) and not _is_single_token(finding):
            is_vocabulary = any(layer.kind is Kind.EMBEDDING for layer in layers_of(finding, checkpoint))
            yield unused_rows.claim(
                [finding],
                consequences=others.about(names_of(finding)),
                remedy=FIT_VOCABULARY.line(checkpoint) if is_vocabulary else "",
            )


@cause("masked", Prognosis.POINTLESS)
def masked(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """Actions or outputs are always masked, so that their rows are never trained.

    How we know:
        Rows of an action head, or few rows of a small head, received no gradient while the others did. A softmax gives
        every output a gradient, unless its logit is masked.

    What else it could be:
        Classes that never occur under a loss for each class by itself.

    What to do:
        Look at the mask: an action that is never allowed can be removed.

    References:
        Rule NET007. Invalid action masking: Huang and Ontañón 2006.14171.
    """
    others = Named(symptoms.of(*_ABOUT_ROWS))
    for finding in symptoms.of("NET007"):
        if _is_masked(finding, checkpoint):
            is_agent = is_reinforcement_learning(checkpoint)
            yield masked.claim(
                [finding],
                consequences=others.about(names_of(finding)),
                certainty=Certainty.PROVEN if is_agent else Certainty.LIKELY,
            )


@cause("unused-recurrence", Prognosis.POINTLESS)
def unused_recurrence(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """The hidden state of a recurrent layer was always zero, so that it never learned to remember.

    How we know:
        The hidden-to-hidden weights never received a gradient, and the input-to-hidden weights did. The gradient of the
        former is the gate's gradient times the previous hidden state.

    What else it could be:
        The backward direction of a layer that is read at its last step makes a single step from a zero state.

    What to do:
        Train on sequences longer than one step, and hand the state on from step to step instead of resetting it.

    References:
        Rule OPT001; RNN004 for the backward direction.
    """
    others = Named(symptoms.of("RNN004", "RNN005", "NET007"))
    for finding in symptoms.of("OPT001", cause=(NEVER_TRAINED, "waiting")):
        names = [str(each) for each in finding.evidence.get("tensors", ())]
        layers = layers_of(finding, checkpoint)
        if names and all("weight_hh" in name for name in names) and all(each.kind in RECURRENT for each in layers):
            yield unused_recurrence.claim(
                [finding],
                f"the hidden state in front of {', '.join(names)} was always zero: nothing is remembered",
                consequences=others.about(names),
            )
    reverse = symptoms.of("RNN004", cause="one step")
    if reverse:
        yield unused_recurrence.claim(reverse, certainty=Certainty.LIKELY)


def _around(parts: Iterable[Finding], symptoms: Symptoms) -> Iterator[Finding]:
    """Yield what else is said of parts that had no turn, and of the router that did not choose them."""
    yield from about(never_trained(symptoms), {name for each in parts for name in names_of(each)})
    yield from (each for each in symptoms.of("OPT001") if _ROUTERS.search(str(each.evidence.get("branch"))))


def _is_masked(finding: Finding, checkpoint: Checkpoint) -> bool:
    layers = layers_of(finding, checkpoint)
    if not layers or not layers[0].is_output or layers[0].kind is Kind.EMBEDDING:
        return False
    if is_reinforcement_learning(checkpoint):
        return True
    count, rows = finding.evidence.get("count"), finding.evidence.get("rows")
    return isinstance(count, int) and isinstance(rows, list) and 2 * len(rows) <= count


def _is_single_token(finding: Finding) -> bool:
    """True where one row of many was ever used: all inputs were the same token."""
    count, rows = finding.evidence.get("count"), finding.evidence.get("rows")
    return isinstance(count, int) and isinstance(rows, list) and count >= 8 and len(rows) == count - 1
