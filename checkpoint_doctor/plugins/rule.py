"""The declaration of a rule. Its documentation, configuration and metadata are derived from it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from msgspec import Struct, field

from checkpoint_doctor.checkpoint import Checkpoint, Layer, Optimizer, Series, Tensor, TensorSeries, TrainingLog
from checkpoint_doctor.plugins.declaration import read_descriptions, read_sections, read_summary
from checkpoint_doctor.results.findings import Finding, Identity, Repair, Safety, Severity

Subject = Tensor | Layer | Optimizer | Checkpoint | Series | TrainingLog
"""What a rule may be called with, one at a time."""

Examined = Checkpoint | Series | TrainingLog
"""What is examined as a whole."""

PARTS_OF_CHECKPOINTS = (Tensor, Layer, Optimizer, Checkpoint)
"""The subjects of rules that a scan runs; the others are examined by commands of their own."""

SECTIONS = ("Why it matters", "When it is normal", "What to do", "References")
"""The headings of a rule's docstring, in order, after the first line that says what it finds."""

OPTIONS = "Options"
"""The heading of one more section, before the last, of a rule that has options: ``name: what it is`` for each."""

_CODE = re.compile(r"[A-Z]{3}\d{3}")
_NAME = re.compile(r"[a-z]+(-[a-z0-9]+)*")


class Rule(Struct, frozen=True, eq=False, dict=True):
    """One check with its identity, its explanation and its options.

    ``check`` takes the subject, optionally the whole checkpoint as a second positional argument, and the rule's options
    as keyword-only arguments with defaults.
    """

    code: str
    """Three capitals and three digits, such as ``ZER003``."""
    name: str
    """The illness in lower-case words joined by hyphens, such as ``zero-bias``."""
    severity: Severity
    """What its findings have unless they say otherwise."""
    on: type[Subject]
    """What it is called with, one at a time."""
    check: Callable[..., Iterable[Finding]]
    """The decorated function."""
    fix: Safety | None = None
    """When its repairs may be made; ``None`` where its findings carry none."""
    identity: Identity = field(default_factory=Identity)
    """What it declares about sameness, growth and grouping of its findings."""
    preview: bool = False
    """True for one minor version after it arrived: its findings are shown and do not count."""
    worst: Severity | None = None
    """The severity that the evidence can raise its findings to; ``None`` where none is worse than ``severity``."""
    reads_values: bool = True
    """False where names, shapes, settings and checksums are enough. A scan that runs only such rules reads headers."""

    def __post_init__(self) -> None:
        if not _CODE.fullmatch(self.code):
            raise ValueError(f"a rule's code is three capitals and three digits, not {self.code!r}")
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"a rule's name is lower-case words joined by hyphens, not {self.name!r}")
        if self.worst is not None and self.worst <= self.severity:
            raise ValueError(f"worst must be worse than the rule's severity, {self.severity.label}")

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
    def examines_checkpoints(self) -> bool:
        """True where a scan runs it; False for rules about a series of checkpoints or a log."""
        return self.on in PARTS_OF_CHECKPOINTS

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
        found = read_sections(self.check, (*SECTIONS, OPTIONS))
        return {heading: body for heading, body in found.items() if heading != OPTIONS}

    @cached_property
    def option_descriptions(self) -> Mapping[str, str]:
        """What each option means, by its name, as the docstring's section *Options* says."""
        return read_descriptions(read_sections(self.check, (*SECTIONS, OPTIONS)).get(OPTIONS, ""))

    def examine(self, examined: Examined, options: Mapping[str, Any] | None = None) -> Iterator[Finding]:
        """Call the rule with each subject of its kind in a checkpoint, once for all its names, or with a series or log.

        Raises:
            TypeError: it yields something else than findings.
        """
        for subject in self._subjects(examined):
            arguments = (subject, examined) if self._wants_checkpoint else (subject,)
            for finding in self.check(*arguments, **(options or {})):
                if not isinstance(finding, Finding):
                    raise TypeError(f"it yields {type(finding).__name__}, and not a finding")
                yield finding

    def _subjects(self, checkpoint: Examined) -> Iterable[Subject]:
        if not isinstance(checkpoint, Checkpoint) or not self.examines_checkpoints:
            return (checkpoint,) if isinstance(checkpoint, self.on) else ()
        if self.on is Tensor:
            return checkpoint.distinct_tensors
        if self.on is Layer:
            return checkpoint.distinct_layers
        if self.on is Optimizer:
            return checkpoint.optimizers
        return (checkpoint,)

    def finding(
        self,
        message: str,
        subject: Subject | TensorSeries | None = None,
        *,
        severity: Severity | None = None,
        evidence: Mapping[str, Any] | None = None,
        repairs: Iterable[Repair] = (),
        advice: str = "",
    ) -> Finding:
        """Build a finding of this rule about a subject.

        ``severity`` overrides the rule's own; it may be milder, or as bad as the rule's ``worst``. ``evidence`` takes
        plain JSON values (str, int, float, bool, None, lists and dicts of them). Repairs make the finding fixable;
        ``advice`` says what to change upstream.
        """
        repairs = tuple(repairs)
        order = (Safety.SAFE, Safety.ON_REQUEST, Safety.UNSAFE)
        return Finding(
            code=self.code,
            name=self.name,
            severity=self.severity if severity is None else severity,
            message=message,
            tensor=subject.name if isinstance(subject, (Tensor, TensorSeries)) else None,
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
    worst: Severity | None = None,
    reads_values: bool = True,
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
        worst: the severity that the evidence can raise its findings to, ``None`` where none is worse than ``severity``.
        reads_values: False where names, shapes, settings and checksums are enough, so that the tensors of a checkpoint
            are not measured for this rule. Statistics that it asks for nevertheless are computed then.

    Raises:
        ValueError: the code is not three capitals and three digits, the name is not in kebab case, or ``worst`` is not
            worse than ``severity``.
    """

    def declare(check: Callable[..., Iterable[Finding]]) -> Rule:
        return Rule(code, name, severity, on, check, fix, Identity(part, worse, group_by), preview, worst, reads_values)

    return declare


def is_plain_option(default: object) -> bool:
    """Return whether a configuration file can set an option with this default: a scalar, or a tuple of scalars."""
    if isinstance(default, tuple):
        return all(isinstance(each, (bool, int, float, str)) for each in default)
    return isinstance(default, (bool, int, float, str))
