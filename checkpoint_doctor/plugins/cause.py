"""The declaration of a cause. Its documentation and metadata are derived from it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any

from msgspec import Struct

from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.plugins.declaration import read_sections, read_summary
from checkpoint_doctor.results.diagnosis import Certainty, Prognosis
from checkpoint_doctor.results.findings import Finding, Severity

SECTIONS = ("How we know", "What else it could be", "What to do", "References")
"""The headings of a cause's docstring, in order, after the first line that says what it is."""

_NAME = re.compile(r"[a-z]+(-[a-z0-9]+)*")


class Symptoms(Sequence[Finding]):
    """The findings in a checkpoint that are to be explained: those that nothing hides, the worst first."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self._findings = tuple(findings)
        self._by_code: dict[str, list[tuple[int, Finding]]] = {}
        for place, finding in enumerate(self._findings):
            self._by_code.setdefault(finding.code, []).append((place, finding))

    def __getitem__(self, index: Any) -> Any:
        return self._findings[index]

    def __len__(self) -> int:
        return len(self._findings)

    def of(self, *codes: str, **evidence: object) -> tuple[Finding, ...]:
        """Return the findings of some rules, by code, whose evidence has these values.

        A tuple or set of values means any of them.
        """
        found = sorted((each for code in set(codes) for each in self._by_code.get(code, ())), key=itemgetter(0))
        return tuple(
            finding
            for _, finding in found
            if all(_matches(finding.evidence.get(key), each) for key, each in evidence.items())
        )


class Claim(Struct, frozen=True, eq=False):
    """A cause's claim to explain some findings. Claims of all causes compete; see ``diagnosis``."""

    cause: Cause
    """The cause that claims."""
    message: str
    """What is wrong, in one sentence."""
    proof: tuple[Finding, ...]
    """The findings whose evidence shows the cause. Where a better claim explains all of them, this one falls."""
    consequences: tuple[Finding, ...]
    """The findings that follow from the cause, which it explains too."""
    certainty: Certainty
    """How well the cause is known."""
    severity: Severity | None
    """Overrides that of the worst finding that is explained; ``None`` where it does not."""
    subject: str | None
    """The tensor, layer or optimizer that it is about; ``None`` for the whole checkpoint."""
    evidence: Mapping[str, Any]
    """Plain JSON values."""
    advice: str
    """What to change in the training code or the data."""
    remedy: str
    """The line of code to write, where it is known; empty otherwise."""
    prognosis: Prognosis
    """What ``ckdoc fix`` can do about it."""


class Cause(Struct, frozen=True, eq=False, dict=True):
    """One cause of illness with its explanation.

    ``explain`` takes a checkpoint and the symptoms found in it, and yields claims.
    """

    name: str
    """Lower-case words joined by hyphens, such as ``unscaled-inputs``."""
    explain: Callable[[Checkpoint, Symptoms], Iterable[Claim]]
    """The decorated function."""
    prognosis: Prognosis
    """What ``ckdoc fix`` can do about it, unless a claim says otherwise."""
    is_outcome: bool = False
    """True for what became of units or values: it explains only what no other cause does."""
    preview: bool = False
    """True for one minor version after it arrived: its diagnoses are shown and do not count."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"a cause's name is lower-case words joined by hyphens, not {self.name!r}")

    @property
    def package(self) -> str:
        """The top-level package that the cause comes from."""
        return self.explain.__module__.partition(".")[0]

    @cached_property
    def summary(self) -> str:
        """The first line of the docstring: what the cause is."""
        return read_summary(self.explain)

    @cached_property
    def sections(self) -> Mapping[str, str]:
        """The docstring's sections by heading, in the order of ``SECTIONS``; missing ones are left out."""
        return read_sections(self.explain, SECTIONS)

    def claims(self, checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
        """Yield what the cause claims to explain in a checkpoint.

        Raises:
            TypeError: it yields something else than claims.
        """
        for claim in self.explain(checkpoint, symptoms):
            if not isinstance(claim, Claim):
                raise TypeError(f"it yields {type(claim).__name__}, and not a claim")
            yield claim

    def claim(
        self,
        proof: Iterable[Finding],
        message: str = "",
        *,
        consequences: Iterable[Finding] = (),
        certainty: Certainty = Certainty.PROVEN,
        severity: Severity | None = None,
        subject: str | None = None,
        evidence: Mapping[str, Any] | None = None,
        advice: str = "",
        remedy: str = "",
        prognosis: Prognosis | None = None,
    ) -> Claim:
        """Build a claim of this cause.

        Args:
            proof: the findings that show the cause, the most telling first; at least one.
            message: what is wrong, in one sentence; by default that of the first proof.
            consequences: the findings that follow from the cause.
            certainty: how well the cause is known.
            severity: overrides that of the worst finding that is explained.
            subject: the tensor, layer or optimizer that it is about; by default that of the only proof.
            evidence: plain JSON values; by default those of the first proof.
            advice: what to change upstream; by default that of the first proof.
            remedy: the line of code to write.
            prognosis: overrides the cause's own.

        Raises:
            ValueError: there is no proof.
        """
        proof = tuple(proof)
        if not proof:
            raise ValueError(f"a claim of {self.name} has no finding that proves it")
        first = proof[0]
        shown = {id(each) for each in proof}
        return Claim(
            cause=self,
            message=message or first.message,
            proof=proof,
            consequences=tuple(each for each in consequences if id(each) not in shown),
            certainty=certainty,
            severity=severity,
            subject=subject or (first.subject if len(proof) == 1 else None),
            evidence=dict(first.evidence if evidence is None else evidence),
            advice=advice or first.advice,
            remedy=remedy,
            prognosis=prognosis or self.prognosis,
        )


def cause(
    name: str, prognosis: Prognosis, *, is_outcome: bool = False, preview: bool = False
) -> Callable[[Callable[[Checkpoint, Symptoms], Iterable[Claim]]], Cause]:
    """Declare a cause: decorate a generator of claims and get the ``Cause`` under the same name.

    Args:
        name: the cause in lower-case words joined by hyphens.
        prognosis: what ``ckdoc fix`` can do about it, unless a claim says otherwise.
        is_outcome: True for what became of units or values, such as ``exploded``. It only explains what no other cause
            does, whatever its certainty.
        preview: True for the minor version that the cause arrives with: its diagnoses are shown beside the findings
            that they explain, which go on counting by themselves, unless ``--preview`` lets it compete.

    Raises:
        ValueError: the name is not in kebab case.
    """

    def declare(explain: Callable[[Checkpoint, Symptoms], Iterable[Claim]]) -> Cause:
        return Cause(name, explain, prognosis, is_outcome, preview)

    return declare


def _matches(value: object, wanted: object) -> bool:
    return value in wanted if isinstance(wanted, (tuple, set, frozenset)) else value == wanted
