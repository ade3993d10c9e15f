"""Lets causes compete for the findings in a checkpoint, so that one illness has one diagnosis.

Every cause claims what it can explain. The best claim is taken, its findings are explained by it, and the others
compete for the rest. A claim is better than another where it is more certain, and among equally certain ones where it
explains more: the errors count first, then the warnings, then the notes. A cause that only names an outcome
(``is_outcome``) comes after all others. A claim whose proofs all belong to better claims falls, and a finding that
nobody claims stays without a diagnosis.

A cause in preview sees all findings and competes for what is left, and its diagnosis takes no finding away. The others
do not see the findings of rules in preview, so that nothing new decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush

from msgspec.structs import replace

from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.plugins.cause import Cause, Claim, Symptoms
from checkpoint_doctor.plugins.self_checks import report_crash
from checkpoint_doctor.results.diagnosis import Diagnosis, Prognosis, by_severity_and_certainty
from checkpoint_doctor.results.findings import Finding, Severity


def collect_claims(
    checkpoint: Checkpoint, findings: Iterable[Finding], causes: Iterable[Cause]
) -> tuple[list[Claim], list[Finding]]:
    """Ask every cause what it explains, and return the claims with a finding for each cause that crashed.

    Hidden findings are not shown to the causes.

    Raises:
        UnreadableCheckpoint: the bytes of a tensor that a cause needs cannot be read.
    """
    everything = [finding for finding in findings if finding.ignored is None and not finding.is_about_ckdoc]
    shown = {True: Symptoms(everything), False: Symptoms(each for each in everything if each.counts)}
    claims: list[Claim] = []
    crashes = []
    for cause in causes:
        symptoms = shown[cause.preview]
        if not symptoms:
            continue
        try:
            claims += list(cause.claims(checkpoint, symptoms))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a cause may even call sys.exit
            if type(error) is UnreadableCheckpoint:
                raise
            crashes.append(report_crash(cause, error))
    return claims, crashes


def choose_diagnoses(
    claims: Sequence[Claim], findings: Sequence[Finding], *, with_preview: bool = False
) -> tuple[Diagnosis, ...]:
    """Return the diagnoses that win, the worst first. Each of the findings belongs to one of them at most.

    Causes in preview compete last, and their diagnoses are marked, unless ``with_preview`` lets them count.
    """
    unexplained = {id(finding) for finding in findings}
    first = [claim for claim in claims if with_preview or not claim.cause.preview]
    last = [claim for claim in claims if not with_preview and claim.cause.preview]
    chosen = _compete(first, findings, unexplained)
    chosen += [replace(each, preview=True) for each in _compete(last, findings, unexplained)]
    return tuple(sorted(chosen, key=by_severity_and_certainty))


def _compete(claims: Sequence[Claim], findings: Sequence[Finding], unexplained: set[int]) -> list[Diagnosis]:
    """Return the diagnoses that win, and take what they explain out of what is unexplained."""
    positions = {id(finding): position for position, finding in enumerate(findings)}
    chosen = []
    # The best first; among equal ones the first. What a claim explains can only become less while it waits, so only the
    # foremost is weighed again.
    waiting = [(_weigh(claim, unexplained), place) for place, claim in enumerate(claims)]
    heapify(waiting)
    while waiting:
        weight, place = heappop(waiting)
        claim = claims[place]
        if not any(id(each) in unexplained for each in claim.proof):
            continue
        if (now := _weigh(claim, unexplained)) != weight:
            heappush(waiting, (now, place))
            continue
        explained = [each for each in (*claim.proof, *claim.consequences) if id(each) in unexplained]
        unexplained -= {id(each) for each in explained}
        chosen.append(_diagnose(claim, explained, positions))
    return chosen


def _weigh(claim: Claim, unexplained: set[int]) -> tuple[int, ...]:
    """Return what is lower where a claim is better."""
    gained = Counter(each.severity for each in (*claim.proof, *claim.consequences) if id(each) in unexplained)
    return (
        claim.cause.is_outcome,
        -claim.certainty,
        *(-gained[each] for each in sorted(Severity, reverse=True)),
    )


def _diagnose(claim: Claim, explained: Sequence[Finding], positions: Mapping[int, int]) -> Diagnosis:
    return Diagnosis(
        cause=claim.cause.name,
        certainty=claim.certainty,
        severity=claim.severity or max(each.severity for each in explained),
        message=claim.message,
        explains=tuple(dict.fromkeys(positions[id(each)] for each in explained)),
        summary=claim.cause.summary,
        subject=claim.subject,
        evidence=claim.evidence,
        advice=claim.advice,
        remedy=claim.remedy,
        prognosis=claim.prognosis if any(each.fix for each in explained) else Prognosis.POINTLESS,
    )
