"""Draws a checkpoint's chart: its verdict, its diagnoses, the findings that none explains, and its layers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from rich.text import Text

from checkpoint_doctor.builtin.reporters._grouping import FindingGroup, group_findings
from checkpoint_doctor.builtin.reporters._layers import Row, layer_rows
from checkpoint_doctor.builtin.reporters._order import rank, worst_last
from checkpoint_doctor.builtin.reporters._terminal.finding_lines import draw_heading, draw_particular, label_words
from checkpoint_doctor.builtin.reporters._terminal.layer_table import draw_layers
from checkpoint_doctor.builtin.reporters._terminal.layout import Column, Layout
from checkpoint_doctor.builtin.reporters._terminal.styles import (
    SEVERITY_SIGNS,
    SEVERITY_STYLES,
    VERDICT_STYLES,
    VERDICT_WORDS,
)
from checkpoint_doctor.builtin.reporters._wording import (
    describe,
    explained_in_words,
    figure,
    names_in_words,
    one_line,
    particulars,
    parts_in_words,
    resumption_in_words,
    shape_in_words,
    subject_of,
    tally,
    unrecognized_in_words,
    unsearched_in_words,
)
from checkpoint_doctor.results.diagnosis import Diagnosis
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.report import Examination, Page, Report, Verdict, hidden_in_words
from checkpoint_doctor.results.totals import FLEET
from checkpoint_doctor.text import printable, quantity

FINDINGS_SHOWN = 25
"""How many findings of one checkpoint are shown in full, the worst first; the others are counted."""

HEALTHY_LISTED = 5
"""Of several checkpoints, up to so many healthy ones have a row each; more are counted in one row."""

SAME_LISTED = 12
"""How many names and patterns are listed of what a finding holds for as well."""

SETTINGS = (
    "learning_rate", "gamma", "batch_size", "n_steps", "n_epochs", "gae_lambda", "ent_coef", "vf_coef",
    "max_grad_norm", "tau", "weight_decay",
)  # fmt: skip
"""The settings that are shown where a checkpoint has them; a verbose page shows all that are numbers."""


def draw(report: Report, page: Page) -> str:
    """Draw the charts of a report.

    A single checkpoint always has a chart. Of several, only those with an error, a warning or something that could not
    be looked at have one, or all on a verbose page, and a table of all checkpoints follows. The worst come last, where
    a terminal stops scrolling. Of very many, a page that is not verbose shows the worst, and ends with why they are.
    """
    layout = Layout(page.width, page.color)
    several = len(report.checkpoints) != 1
    examinations = worst_last(report.checkpoints)
    needy = [each for each in examinations if _needs_attention(each)]
    left_out = {id(each) for each in needy[:-FLEET]} if len(needy) > FLEET and not page.verbose else set()
    for examination in examinations:
        if id(examination) not in left_out and (not several or page.verbose or _needs_attention(examination)):
            _draw_chart(layout, examination, page, with_layers=not several or page.verbose)
            if several:
                layout.line()
    if several and examinations:
        _draw_summary(layout, [each for each in examinations if id(each) not in left_out], page, len(left_out))
    _draw_others(layout, report, page)
    remarks = [remark for remark in report.remarks if remark.ignored is None]
    if remarks or report.configuration:
        if report.checkpoints:
            layout.line()
        layout.line(Text("about this run", style="bold"))
        if report.configuration:
            layout.paragraph(Text(one_line(report.configuration)), indent=2, hanging=2)
        _draw_findings(layout, rank(remarks), "", page)
    if report.totals.worst_of_many:
        layout.line()
        layout.line(Text("the worst", style="bold"))
        for case in report.totals.worst_of_many:
            layout.paragraph(Text(str(case)), indent=2, hanging=2)
    return layout.render()


def _draw_others(layout: Layout, report: Report, page: Page) -> None:
    """Draw what a search passed over, which a verbose page shows, and what it did not look at."""
    for passed in report.passed_over if page.verbose else ():
        words = f"{printable(passed.what)} {one_line(passed.why)}"
        layout.paragraph(label_words("passed over", words), hanging=2)
    if report.unrecognized and page.verbose:
        layout.paragraph(label_words("passed over", unrecognized_in_words(report)), hanging=2)
    for words, on_purpose in unsearched_in_words(report, all_names=page.verbose):
        style = "dim" if on_purpose else VERDICT_STYLES[Verdict.UNREADABLE]
        layout.paragraph(Text.assemble(("not searched: ", style), words), hanging=2)


def _needs_attention(examination: Examination) -> bool:
    return (
        examination.verdict is not Verdict.HEALTHY
        or bool(examination.in_preview)
        or bool(examination.skipped)
        or (examination.worst or Severity.NOTE) > Severity.NOTE
    )


def _draw_chart(layout: Layout, examination: Examination, page: Page, *, with_layers: bool) -> None:
    _draw_verdict(layout, examination, page)
    if examination.parts:
        layout.paragraph(label_words("parts", parts_in_words(examination)), indent=2, hanging=2)
    if examination.resumption:
        layout.paragraph(label_words("resumes", resumption_in_words(examination)), indent=2, hanging=2)
    if with_layers:
        _draw_settings(layout, examination, page)
    rows = {row.name: row for row in layer_rows(examination)}
    for diagnosis in examination.diagnoses:
        if diagnosis.counts:
            layout.line()
            _draw_diagnosis(layout, diagnosis, examination, page)
    findings = rank(examination.unexplained)
    groups = [FindingGroup((each,)) for each in findings] if page.verbose else group_findings(findings)
    shown = groups if page.verbose else groups[:FINDINGS_SHOWN]
    advised: set[str] = set()
    if examination.diagnoses and any(finding.severity > Severity.NOTE for finding in findings):
        layout.line()
        layout.line(Text("  cause not known", style="bold"))
    for layer, members in _group_by_layer(shown).items():
        layout.line()
        _draw_group(layout, layer, rows.get(layer or ""), members, page, advised)
    rest = [finding for each in groups[len(shown) :] for finding in each.members]
    if rest:
        counts = Counter(finding.title for finding in rest)
        layout.line()
        layout.paragraph(
            Text(
                f"… {quantity(len(rest), 'more finding')} (--verbose shows all): "
                + ", ".join(f"{count:,} × {rule}" for rule, count in counts.most_common()),
                style="dim",
            ),
            indent=2,
        )
    _draw_preview(layout, examination)
    if page.verbose:
        _draw_hidden(layout, examination)
        _draw_versions(layout, examination)
    if examination.skipped:
        layout.line()
        for skipped in examination.skipped:
            words = f"{printable(skipped.what)}, because {one_line(skipped.why)}"
            layout.paragraph(Text.assemble(("not looked at: ", "yellow"), words), indent=2, hanging=2)
    if rows and (with_layers or page.verbose):
        layout.line()
        draw_layers(layout, list(rows.values()), page)


def _draw_verdict(layout: Layout, examination: Examination, page: Page) -> None:
    verdict = (VERDICT_WORDS[examination.verdict], VERDICT_STYLES[examination.verdict])
    if examination.is_unreadable:
        layout.paragraph(Text.assemble(verdict, " · ", printable(examination.path)), hanging=2)
        # The message often begins with the path, which is in the line above.
        error = re.sub(rf"^{re.escape(examination.path)}(?= )", "it", examination.error or "it could not be read")
        layout.paragraph(Text(one_line(error)), indent=2)
        if examination.hint:
            layout.paragraph(label_words("hint", one_line(examination.hint)), indent=2, hanging=2)
        return
    if examination.verdict is Verdict.HEALTHY and examination.worst is Severity.WARNING:
        verdict = (f"{verdict[0]}, with warnings", "bold yellow")
    description = (f" — {describe(examination)}", "dim")
    layout.paragraph(Text.assemble(verdict, " · ", printable(examination.path), description), hanging=2)
    counts = Text(", ").join(
        Text(tally(each for each in examination.alerts if each.severity is severity), style=style)
        for severity, style in SEVERITY_STYLES.items()
        if any(each.severity is severity for each in examination.alerts)
    )
    hidden = ", ".join(hidden_in_words(examination.hidden - examination.known, examination.known))
    hint = "" if page.verbose else f" (--verbose shows {'it' if examination.hidden == 1 else 'them'})"
    layout.paragraph(
        Text.assemble(
            counts if counts.plain else ("no findings", "green"),
            (f"; {hidden}{hint}" if hidden else "", "dim"),
        ),
        indent=2,
        hanging=2,
    )


def _draw_diagnosis(layout: Layout, diagnosis: Diagnosis, examination: Examination, page: Page) -> None:
    """Draw a diagnosis with its findings folded to their names; a verbose page shows them beneath it."""
    style = SEVERITY_STYLES[diagnosis.severity]
    layout.paragraph(
        Text.assemble(
            (f"{SEVERITY_SIGNS[diagnosis.severity]} {diagnosis.severity.label}", f"bold {style}"),
            (f" {diagnosis.title}", f"bold {style}"),
            (f" ({diagnosis.certainty.label})", style),
            f" · {subject_of(diagnosis)}" if diagnosis.subject else "",
        ),
        indent=2,
        hanging=4,
    )
    layout.paragraph(Text(one_line(diagnosis.message)), indent=6)
    for label, words in particulars(diagnosis, examination, brief=not page.verbose):
        draw_particular(layout, label, words)
    more = "" if page.verbose else " (--verbose shows them)"
    draw_particular(layout, "explains", explained_in_words(diagnosis, examination) + more)
    for position in diagnosis.explains if page.verbose else ():
        finding = examination.findings[position]
        about = f" · {subject_of(finding)}" if finding.subject else ""
        head = (f"{SEVERITY_SIGNS[finding.severity]} {finding.title}", SEVERITY_STYLES[finding.severity])
        layout.paragraph(Text.assemble(head, f"{about}: {one_line(finding.message)}"), indent=8, hanging=2)


def _draw_settings(layout: Layout, examination: Examination, page: Page) -> None:
    known = {
        name: value
        for name, value in examination.hyperparameters.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    chosen = known if page.verbose else {name: known[name] for name in SETTINGS if name in known}
    if chosen:
        words = ", ".join(f"{name} {figure(value)}" for name, value in chosen.items())
        layout.paragraph(label_words("settings", one_line(words)), indent=2, hanging=2)


def _group_by_layer(found: Sequence[FindingGroup]) -> dict[str | None, list[FindingGroup]]:
    """Group findings by layer, the worst first.

    Those about the whole checkpoint come before those about a layer, and those about several layers after.
    """
    groups: dict[str | None, list[FindingGroup]] = {}
    for each in sorted(found, key=lambda each: (-each.first.severity, bool(each.layer), each.layer is None)):
        groups.setdefault(each.layer, []).append(each)
    return groups


def _draw_group(
    layout: Layout, layer: str | None, row: Row | None, members: Sequence[FindingGroup], page: Page, advised: set[str]
) -> None:
    if layer is None:
        count = len({finding.layer or finding.tensor for each in members for finding in each.members})
        heading = quantity(count, "layer")
    else:
        heading = printable(layer) or "the whole checkpoint"
    what = (f"  {row.kind} {shape_in_words(row.shape)}" if row else "", "dim")
    layout.paragraph(Text.assemble((heading, "bold"), what), indent=2, hanging=2)
    _draw_finding_groups(layout, members, layer or "", page, advised)


def _draw_findings(layout: Layout, findings: Sequence[Finding], layer: str, page: Page) -> None:
    _draw_finding_groups(layout, [FindingGroup((finding,)) for finding in findings], layer, page, set())


def _draw_finding_groups(
    layout: Layout, members: Sequence[FindingGroup], layer: str, page: Page, advised: set[str]
) -> None:
    for each in members:
        finding = each.first
        subject = "" if subject_of(finding) == printable(layer) else subject_of(finding)
        draw_heading(layout, finding, subject, len(each.members))
        if each.others:
            names = names_in_words((subject_of(other) for other in each.others), SAME_LISTED)
            draw_particular(layout, "the same holds for", names)
        for label, words in particulars(finding, brief=not page.verbose):
            again = label == "advice" and words in advised
            advised.add(words)
            draw_particular(layout, label, "as above" if again else words)


def _draw_preview(layout: Layout, examination: Examination) -> None:
    if examination.in_preview:
        layout.line()
        layout.line(Text("  in preview: shown, not counted", style="bold"))
    for alert in examination.in_preview:
        head = (
            f"{SEVERITY_SIGNS[alert.severity]} {alert.severity.label} {alert.title}",
            SEVERITY_STYLES[alert.severity],
        )
        about = f" · {subject_of(alert)}" if alert.subject else ""
        layout.paragraph(Text.assemble(head, f"{about}: {one_line(alert.message)}"), indent=2, hanging=4)


def _draw_hidden(layout: Layout, examination: Examination) -> None:
    hidden = [finding for finding in examination.findings if finding.ignored is not None]
    if hidden:
        layout.line()
    for finding in hidden:
        about = f" · {subject_of(finding)}" if subject_of(finding) else ""
        text = Text(f"hidden: {finding.severity.label} {finding.title}{about}", style="dim")
        layout.paragraph(text.append(f" ({one_line(finding.ignored or '')})"), indent=2, hanging=2)


def _draw_versions(layout: Layout, examination: Examination) -> None:
    if examination.versions:
        layout.line()
        words = ", ".join(f"{name} {version}" for name, version in examination.versions.items())
        layout.paragraph(label_words("saved with", one_line(words)), indent=2, hanging=2)


def _draw_summary(layout: Layout, examinations: Sequence[Examination], page: Page, left_out: int) -> None:
    columns = (
        Column("verdict", 8), Column("errors", 7, right=True), Column("warnings", 6, right=True),
        Column("notes", 5, right=True), Column("hidden", 4, right=True), Column("checkpoint", 9),
    )  # fmt: skip
    healthy = [each for each in examinations if not _needs_attention(each)]
    folded = len(healthy) > HEALTHY_LISTED and not page.verbose
    rows = [_summary_cells(each) for each in examinations if not folded or _needs_attention(each)]
    if folded:
        words = f"{len(healthy):,} checkpoints without errors and warnings (--verbose lists them)"
        verdict = Text(VERDICT_WORDS[Verdict.HEALTHY], style=VERDICT_STYLES[Verdict.HEALTHY])
        rows.insert(0, [verdict, *(Text("–", style="dim") for _ in SEVERITY_STYLES), Text(""), Text(words)])
    if left_out:
        words = f"{left_out:,} more, less severe (--verbose shows them, --format jsonl has a line for each)"
        rows.insert(folded, [Text("…"), *(Text("") for _ in SEVERITY_STYLES), Text(""), Text(words)])
    layout.table(columns, rows, folded=True)


def _summary_cells(examination: Examination) -> list[Text]:
    counts = Counter(alert.severity for alert in examination.alerts)
    return [
        Text(VERDICT_WORDS[examination.verdict], style=VERDICT_STYLES[examination.verdict]),
        *(
            Text(f"{counts[severity]:,}", style=style) if counts[severity] else Text("–", style="dim")
            for severity, style in SEVERITY_STYLES.items()
        ),
        Text(f"{examination.hidden:,}" if examination.hidden else "", style="dim"),
        Text(printable(examination.path)),
    ]
