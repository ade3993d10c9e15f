"""The declaration of a rule. Its documentation, configuration and metadata are derived from it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from checkpoint_doctor.checkpoint import Checkpoint, Layer, Optimizer, Tensor, TrainingLog
from checkpoint_doctor.plugins.declaration import read_sections, read_summary
from checkpoint_doctor.results.findings import Finding, Identity, Repair, Safety, Severity

Subject = Tensor | Layer | Optimizer | Checkpoint | TrainingLog
"""What a rule may be called with, one at a time."""

Examined = Checkpoint | TrainingLog
"""What is examined as a whole."""

SECTIONS = ("Why it matters", "When it is normal", "What to do", "References")
"""The headings of a rule's docstring, in order, after the first line that says what it finds."""

_CODE = re.compile(r"[A-Z]{3}\d{3}")
_NAME = re.compile(r"[a-z]+(-[a-z0-9]+)*")


@dataclass(frozen=True, eq=False)
class Rule:
    """One check with its identity, its explanation and its options.

    ``check`` takes the subject, optionally the whole checkpoint as a second positional argument, and the rule's options
    as keyword-only arguments with defaults.
    """

    code: str
    name: str
    severity: Severity
    on: type[Subject]
    check: Callable[..., Iterable[Finding]]
    fix: Safety | None = None
    identity: Identity = field(default_factory=Identity)
    preview: bool = False
    """True for one minor version after it arrived: its findings are shown and do not count."""

    def __post_init__(self) -> None:
        if not _CODE.fullmatch(self.code):
            raise ValueError(f"a rule's code is three capitals and three digits, not {self.code!r}")
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"a rule's name is lower-case words joined by hyphens, not {self.name!r}")

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """The options' names and default values."""
        parameters = inspect.signature(self.check).parameters.values()
        return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}

    @cached_property
    def _wants_checkpoint(self) -> bool:
        parameters = inspect.signature(self.check).parameters.values()
        return sum(each.kind is not each.KEYWORD_ONLY for each in parameters) > 1

    @property
    def package(self) -> str:
        """The top-level package that the rule comes from."""
        return self.check.__module__.partition(".")[0]

    @property
    def family(self) -> str:
        """The three letters of the code."""
        return self.code[:3]

    @cached_property
    def summary(self) -> str:
        """The first line of the docstring: what the rule finds."""
        return read_summary(self.check)

    @cached_property
    def sections(self) -> Mapping[str, str]:
        """The docstring's sections by heading, in the order of ``SECTIONS``; missing ones are left out."""
        return read_sections(self.check, SECTIONS)

    @property
    def examines(self) -> type[Examined]:
        """What it is run on: checkpoints, with all that is in them, or training logs."""
        return TrainingLog if self.on is TrainingLog else Checkpoint

    def examine(self, examined: Examined, options: Mapping[str, Any] | None = None) -> Iterator[Finding]:
        """Call the rule with a log, or with every subject of its kind in a checkpoint: those with several names once.

        Raises:
            TypeError: it yields something else than findings.
        """
        for subject in self._subjects(examined):
            arguments = (subject, examined) if self._wants_checkpoint else (subject,)
            for finding in self.check(*arguments, **(options or {})):
                if not isinstance(finding, Finding):
                    raise TypeError(f"it yields {type(finding).__name__}, and not a finding")
                yield finding

    def _subjects(self, examined: Examined) -> Iterable[Subject]:
        if not isinstance(examined, self.examines):
            return ()
        if isinstance(examined, Checkpoint):
            if self.on is Tensor:
                return examined.distinct_tensors
            if self.on is Layer:
                return examined.distinct_layers
            if self.on is Optimizer:
                return examined.optimizers
        return (examined,)

    def finding(
        self,
        message: str,
        subject: Subject | None = None,
        *,
        severity: Severity | None = None,
        evidence: Mapping[str, Any] | None = None,
        repairs: Iterable[Repair] = (),
        advice: str = "",
    ) -> Finding:
        """Build a finding of this rule about a subject.

        ``severity`` overrides the rule's own. ``evidence`` takes plain JSON values (str, int, float, bool, None, lists
        and dicts of them). Repairs make the finding fixable; ``advice`` says what to change upstream.
        """
        repairs = tuple(repairs)
        order = (Safety.SAFE, Safety.ON_REQUEST, Safety.UNSAFE)
        return Finding(
            code=self.code,
            name=self.name,
            severity=self.severity if severity is None else severity,
            message=message,
            tensor=subject.name if isinstance(subject, Tensor) else None,
            layer=subject.name if isinstance(subject, Layer) else None,
            evidence=dict(evidence or {}),
            repairs=repairs,
            fix=min((repair.safety for repair in repairs), key=order.index, default=None),
            advice=advice,
            identity=self.identity,
            preview=self.preview,
        )


def rule(
    code: str,
    name: str,
    severity: Severity,
    *,
    on: type[Subject],
    fix: Safety | None = None,
    part: tuple[str, ...] = (),
    worse: tuple[str, ...] = (),
    group_by: tuple[str, ...] | None = None,
    preview: bool = False,
) -> Callable[[Callable[..., Iterable[Finding]]], Rule]:
    """Declare a rule: decorate a generator of findings and get the ``Rule`` under the same name.

    Args:
        code: three capitals and three digits.
        name: the illness in lower-case words joined by hyphens.
        severity: what its findings have unless they say otherwise.
        on: what the function is called with, one at a time.
        fix: when its repairs may be made, ``None`` where its findings carry none.
        part: evidence that tells two findings about one subject apart, such as ``("gate",)``.
        worse: evidence that is worse when it is more: a larger number, a longer list. A known finding whose evidence
            grows counts again.
        group_by: evidence that several findings must share to be shown as one; ``None`` where each is shown by itself.
        preview: True for the minor version that the rule arrives with: its findings are shown, and count only where
            ``--preview`` asks for it.

    Raises:
        ValueError: the code is not three capitals and three digits, or the name is not in kebab case.
    """

    def declare(check: Callable[..., Iterable[Finding]]) -> Rule:
        return Rule(code, name, severity, on, check, fix, Identity(part, worse, group_by), preview)

    return declare


def is_plain_option(default: object) -> bool:
    """Return whether a configuration file can set an option with this default: a scalar, or a tuple of scalars."""
    if isinstance(default, tuple):
        return all(isinstance(each, (bool, int, float, str)) for each in default)
    return isinstance(default, (bool, int, float, str))
