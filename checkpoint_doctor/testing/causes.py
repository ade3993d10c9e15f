"""Asks a single cause, and checks its declaration and its claims."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.diagnosis.competition import choose_diagnoses
from checkpoint_doctor.plugins.cause import SECTIONS, Cause, Claim, Symptoms
from checkpoint_doctor.results.diagnosis import Diagnosis
from checkpoint_doctor.results.findings import Finding
from checkpoint_doctor.testing.declarations import find_invalid_values, judge_docstring


def diagnoses_of(
    causes: Cause | Iterable[Cause], checkpoint: Checkpoint, findings: Iterable[Finding]
) -> tuple[Diagnosis, ...]:
    """Ask a cause, or let several compete, for the findings in a checkpoint, and return the diagnoses.

    Raises:
        AssertionError: a claim is invalid: it explains a finding that it was not given, its evidence is not plain JSON,
            its message is not one line, or it speaks for another cause.
    """
    findings = list(findings)
    claims = []
    for cause in [causes] if isinstance(causes, Cause) else causes:
        made = list(cause.claims(checkpoint, Symptoms(findings)))
        problems = [problem for claim in made for problem in _judge_claim(claim, cause, findings)]
        assert not problems, f"{cause.name}: {'; '.join(problems)}"
        claims += made
    return choose_diagnoses(claims, findings)


def check_cause(cause: Cause) -> None:
    """Check a cause's declaration, from which its documentation is derived.

    Its docstring must begin with one sentence that says what it is (at most 120 characters, ending in a full stop),
    followed by the sections *How we know*, *What else it could be*, *What to do* and *References*, in this order. It
    must take the checkpoint and the symptoms, and nothing else.

    Raises:
        AssertionError: the declaration is invalid; the message lists everything that is missing or wrong.
    """
    import inspect

    problems = list(judge_docstring(cause.summary, cause.sections, SECTIONS))
    parameters = inspect.signature(cause.explain).parameters.values()
    if [each.kind for each in parameters] != [each.POSITIONAL_OR_KEYWORD for each in parameters] or len(
        parameters
    ) != 2:
        problems.append("it must take the checkpoint and the symptoms, and nothing else")
    assert not problems, f"{cause.name}: {'; '.join(problems)}"


def _judge_claim(claim: Claim, cause: Cause, findings: list[Finding]) -> Iterator[str]:
    given = {id(finding) for finding in findings}
    if claim.cause is not cause:
        yield f"a claim speaks for {claim.cause.name}: build it with {cause.explain.__name__}.claim(…)"
    if any(id(each) not in given for each in (*claim.proof, *claim.consequences)):
        yield "a claim explains a finding that is not among the symptoms"
    if not claim.message.strip() or "\n" in claim.message:
        yield f"the message {claim.message!r} is not one line of text"
    for place in find_invalid_values(claim.evidence, "evidence"):
        yield f"{place} is not a plain JSON value"
