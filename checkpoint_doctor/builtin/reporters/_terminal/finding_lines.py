"""The lines of a finding, as the reports on checkpoints, on series and on logs draw them."""

from __future__ import annotations

from rich.text import Text

from checkpoint_doctor.builtin.reporters._terminal.layout import Layout
from checkpoint_doctor.builtin.reporters._terminal.styles import SEVERITY_SIGNS, SEVERITY_STYLES
from checkpoint_doctor.builtin.reporters._wording import one_line
from checkpoint_doctor.results.findings import Finding


def draw_heading(layout: Layout, finding: Finding, subject: str = "", count: int = 1) -> None:
    """Draw how severe a finding is, its rule, what it is about and how often it was found; then its message."""
    style = SEVERITY_STYLES[finding.severity]
    layout.paragraph(
        Text.assemble(
            (f"{SEVERITY_SIGNS[finding.severity]} {finding.severity.label}", f"bold {style}"),
            (f" {finding.title}" + (f" × {count:,}" if count > 1 else ""), style),
            f" · {subject}" if subject else "",
        ),
        indent=2,
        hanging=4,
    )
    layout.paragraph(Text(one_line(finding.message)), indent=6)


def draw_particular(layout: Layout, label: str, words: str) -> None:
    """Draw what a finding has beside its message, such as the advice, behind its label."""
    layout.paragraph(label_words(label, words), indent=6, hanging=2)


def label_words(label: str, words: str) -> Text:
    """Return words behind their label; what can be fixed stands out."""
    return Text.assemble((f"{label}: ", "green" if label == "fix" else "dim"), words)
