"""Whether a run resumes from a checkpoint: from where, and what would go wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite

from msgspec import Struct

from checkpoint_doctor.checkpoint import Checkpoint, Content
from checkpoint_doctor.results.diagnosis import Diagnosis
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.text import quantity

OTHERS = frozenset(("FIL001", "OPT002", "OPT003", "OPT006", "OPT007", "OPT010"))
"""Rules that tell how a run resumes, beside the family RES: damage, state that does not fit the model, is empty or not
finite, a rate of zero or below, and weights that are not those of the moments."""

NOTHING = "there is no run to resume: it does not hold a model and the state of its optimizer"


class Resumption(Struct, frozen=True):
    """From where a run resumes."""

    step: int | None = None
    """The step at which it goes on; ``None`` where the file does not tell."""
    learning_rates: tuple[float, ...] = ()
    """The learning rates of its optimizers, each once, the largest first."""
    problems: tuple[int, ...] = ()
    """Positions of the findings that tell what would go wrong, the worst first."""

    def describe(self) -> str:
        """Return from where it resumes, as in ``at step 12,000 with a learning rate of 0.0003``."""
        where = "from an unknown step" if self.step is None else f"at step {self.step:,}"
        if not self.learning_rates:
            return where
        first, rest = self.learning_rates[:2], self.learning_rates[2:]
        more = f" and {quantity(len(rest), 'other')}" if rest else ""
        return f"{where} with a learning rate of {' and '.join(f'{rate:.3g}' for rate in first)}{more}"

    def goes_on(self, findings: Sequence[Finding]) -> bool:
        """Return whether it goes on as it was: nothing but notes speaks against it."""
        return all(findings[position].severity <= Severity.NOTE for position in self.problems)


def find_resumption(checkpoint: Checkpoint, findings: Sequence[Finding]) -> Resumption | None:
    """Return from where a run resumes; ``None`` where there is no run to resume.

    There is one where a model and an optimizer are, readable or not, and in the folder of a trainer that lacks it.
    """
    if not checkpoint.tensors:
        return None
    is_run = checkpoint.optimizers or checkpoint.missing
    if not is_run and not any(part.content is Content.OPTIMIZER for part in checkpoint.parts):
        return None
    step = checkpoint.step
    if step is None:
        counts = (each.step for optimizer in checkpoint.optimizers for each in optimizer.parameters)
        step = max((count for count in counts if count is not None), default=None)
    groups = [group for optimizer in checkpoint.optimizers for group in optimizer.groups]
    rates = {group.learning_rate for group in groups if "lr" in group.options and isfinite(group.learning_rate)}
    problems = (position for position, each in enumerate(findings) if _concerns_resuming(each))
    return Resumption(
        step=step,
        learning_rates=tuple(sorted(rates, reverse=True)),
        problems=tuple(sorted(problems, key=lambda position: -findings[position].severity)),
    )


def _concerns_resuming(finding: Finding) -> bool:
    return finding.counts and (finding.code.startswith("RES") or finding.code in OTHERS)


def answer(resumption: Resumption | None, findings: Sequence[Finding], alerts: Iterable[Diagnosis | Finding]) -> str:
    """Return in one line from where a run resumes, or what would go wrong.

    ``alerts`` are what the checkpoint is judged by: errors among them that do not concern resuming are named as well.
    """
    if resumption is None:
        return NOTHING
    problems = [findings[position] for position in resumption.problems]
    why = "; ".join(f"{each.message} ({each.title})" for each in problems)
    if not problems:
        line = f"resumes {resumption.describe()}"
    elif resumption.goes_on(findings):
        line = f"resumes {resumption.describe()}, but {why}"
    else:
        line = f"does not resume as it was, {resumption.describe()}: {why}"
    ill = [each for each in alerts if each.severity is Severity.ERROR and not _is_said(each, resumption)]
    names = dict.fromkeys(each.cause if isinstance(each, Diagnosis) else each.title for each in ill)
    others = [name for name in names if name not in {each.title for each in problems}]
    return f"{line}; the checkpoint is ill: {', '.join(others)}" if others else line


def _is_said(alert: Diagnosis | Finding, resumption: Resumption) -> bool:
    return isinstance(alert, Diagnosis) and not set(resumption.problems).isdisjoint(alert.explains)
