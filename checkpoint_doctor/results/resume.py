"""Whether a run resumes from a checkpoint, in one line."""

from __future__ import annotations

from collections.abc import Sequence

from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.text import quantity

OF_OPTIMIZERS = ("OPT002", "OPT003")
"""Rules about optimizers that tell how a run resumes, beside the family RES."""


def describe_resume(checkpoint: Checkpoint, findings: Sequence[Finding]) -> str:
    """Return from where a run resumes, or what keeps it from going on as it was; empty where there is no run to resume.

    A run can be resumed where a model and an optimizer's state are there, or the folder of a trainer that lacks it.
    """
    held = [each for each in checkpoint.optimizers if each.has_state]
    if not checkpoint.tensors:
        return ""
    if not held and not checkpoint.missing:
        return ""
    step = checkpoint.step
    if step is None:
        step = max(
            (each.step for optimizer in held for each in optimizer.parameters if each.step is not None), default=None
        )
    rates = sorted({abs(group.learning_rate) for optimizer in held for group in optimizer.groups}, reverse=True)
    where = "from an unknown step" if step is None else f"at step {step:,}"
    shown = " and ".join(f"{rate:.3g}" for rate in rates[:2]) + (
        f" and {quantity(len(rates) - 2, 'other')}" if rates[2:] else ""
    )
    text = f"{where} with a learning rate of {shown}" if rates else where
    found = [each for each in findings if each.counts and (each.code[:3] == "RES" or each.code in OF_OPTIMIZERS)]
    if not found:
        return text
    titles = ", ".join(dict.fromkeys(f"{each.code} {each.name}" for each in found))
    word = "not as it was" if max(each.severity for each in found) > Severity.NOTE else "but see"
    return f"{text}; {word}: {titles}"
