"""The doctor's chart: verdict, findings by layer, what could not be looked at, and a table of layers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from math import inf

from rich.text import Text

from checkpoint_doctor.reporters._grouping import FindingGroup, group_findings
from checkpoint_doctor.reporters._layers import Row, choose_remarkable, layer_rows
from checkpoint_doctor.reporters._layout import Column, Layout
from checkpoint_doctor.reporters._order import rank, worst_first
from checkpoint_doctor.reporters._wording import (
    describe,
    figure,
    one_line,
    particulars,
    percentage,
    shape_in_words,
    subject_of,
    tally,
)
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.report import Examination, Page, Report, Verdict
from checkpoint_doctor.text import printable, quantity

FINDINGS_SHOWN = 25
"""Findings of one checkpoint that are shown in full; the worst are."""
LAYERS_SHOWN = 24
"""Up to so many layers all get their row."""

SETTINGS = (
    "learning_rate", "gamma", "batch_size", "n_steps", "n_epochs", "gae_lambda", "ent_coef", "vf_coef",
    "max_grad_norm", "tau", "weight_decay",
)  # fmt: skip
"""The settings that are told where a checkpoint has them; a verbose page tells all that are numbers."""

_VERDICT_WORDS = {verdict: verdict.value.upper() for verdict in Verdict}
_VERDICT_STYLES = {
    Verdict.HEALTHY: "bold green",
    Verdict.ILL: "bold red",
    Verdict.INCOMPLETE: "bold magenta",
    Verdict.UNREADABLE: "bold magenta",
}
_SEVERITY_STYLES = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
_SEVERITY_SIGNS = {Severity.ERROR: "✖", Severity.WARNING: "▲", Severity.NOTE: "●"}


def draw(report: Report, page: Page) -> str:
    """Draw the charts of a report.

    One checkpoint always gets its chart. Of several, those get one that have an error, a warning or something that
    could not be looked at, or all of them on a verbose page; a table with the worst first follows.
    """
    layout = Layout(page.width, page.color)
    several = len(report.checkpoints) != 1
    for examination in report.checkpoints:
        if not several or page.verbose or _needs_a_word(examination):
            _draw_chart(layout, examination, page, with_layers=not several or page.verbose)
            if several:
                layout.line()
    if several and report.checkpoints:
        _draw_summary(layout, report)
    remarks = [remark for remark in report.remarks if remark.ignored is None]
    if remarks:
        if report.checkpoints:
            layout.line()
        layout.line(Text("about this run", style="bold"))
        _draw_findings(layout, rank(remarks), "", page)
    return layout.render()


def _needs_a_word(examination: Examination) -> bool:
    return (
        examination.verdict is not Verdict.HEALTHY
        or bool(examination.skipped)
        or (examination.worst or Severity.NOTE) > Severity.NOTE
    )


def _draw_chart(layout: Layout, examination: Examination, page: Page, *, with_layers: bool) -> None:
    _draw_verdict(layout, examination, page)
    if with_layers:
        _draw_settings(layout, examination, page)
    rows = {row.name: row for row in layer_rows(examination)}
    findings = rank(examination.counted)
    groups = [FindingGroup((each,)) for each in findings] if page.verbose else group_findings(findings)
    shown = groups if page.verbose else groups[:FINDINGS_SHOWN]
    advised: set[str] = set()
    for layer, members in _group_by_layer(shown).items():
        layout.line()
        _draw_group(layout, layer, rows.get(layer or ""), members, page, advised)
    rest = [finding for each in groups[len(shown) :] for finding in each.members]
    if rest:
        counts = Counter(f"{finding.code} {finding.name}" for finding in rest)
        layout.line()
        layout.paragraph(
            Text(
                f"… {quantity(len(rest), 'more finding')} (--verbose shows all): "
                + ", ".join(f"{count:,} × {rule}" for rule, count in counts.most_common()),
                style="dim",
            ),
            indent=2,
        )
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
        _draw_layers(layout, list(rows.values()), page)


def _draw_verdict(layout: Layout, examination: Examination, page: Page) -> None:
    verdict = (_VERDICT_WORDS[examination.verdict], _VERDICT_STYLES[examination.verdict])
    if examination.is_unreadable:
        layout.paragraph(Text.assemble(verdict, " · ", printable(examination.path)), hanging=2)
        # The sentence often begins with the path, which stands right above.
        error = re.sub(rf"^{re.escape(examination.path)}(?= )", "it", examination.error or "it could not be read")
        layout.paragraph(Text(one_line(error)), indent=2)
        if examination.hint:
            layout.paragraph(_labelled("hint", one_line(examination.hint)), indent=2, hanging=2)
        return
    if examination.verdict is Verdict.HEALTHY and examination.worst is Severity.WARNING:
        verdict = (f"{verdict[0]}, with warnings", "bold yellow")
    description = (f" — {describe(examination)}", "dim")
    layout.paragraph(Text.assemble(verdict, " · ", printable(examination.path), description), hanging=2)
    counts = Text(", ").join(
        Text(tally(each for each in examination.counted if each.severity is severity), style=style)
        for severity, style in _SEVERITY_STYLES.items()
        if any(each.severity is severity for each in examination.counted)
    )
    hidden = sum(finding.ignored is not None for finding in examination.findings)
    hint = "" if page.verbose else f" (--verbose shows {'it' if hidden == 1 else 'them'})"
    layout.paragraph(
        Text.assemble(
            counts if counts.plain else ("no findings", "green"),
            (f"; {hidden:,} hidden by config{hint}" if hidden else "", "dim"),
        ),
        indent=2,
        hanging=2,
    )


def _draw_settings(layout: Layout, examination: Examination, page: Page) -> None:
    known = {
        name: value
        for name, value in examination.hyperparameters.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    chosen = known if page.verbose else {name: known[name] for name in SETTINGS if name in known}
    if chosen:
        words = ", ".join(f"{name} {figure(value)}" for name, value in chosen.items())
        layout.paragraph(_labelled("settings", one_line(words)), indent=2, hanging=2)


def _group_by_layer(found: Sequence[FindingGroup]) -> dict[str | None, list[FindingGroup]]:
    """Group by layer in the order of severity; what concerns the whole checkpoint, or several layers, goes first."""
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
        style = _SEVERITY_STYLES[finding.severity]
        subject = "" if subject_of(finding) in ("", printable(layer)) else f" · {subject_of(finding)}"
        count = f" × {len(each.members):,}" if each.others else ""
        layout.paragraph(
            Text.assemble(
                (f"{_SEVERITY_SIGNS[finding.severity]} {finding.severity.label}", f"bold {style}"),
                (f" {finding.code} {finding.name}{count}", style),
                subject,
            ),
            indent=2,
            hanging=4,
        )
        layout.paragraph(Text(one_line(finding.message)), indent=6)
        if each.others:
            names = ", ".join(subject_of(other) for other in each.others)
            layout.paragraph(_labelled("the same holds for", names), indent=6, hanging=2)
        for label, words in particulars(finding, brief=not page.verbose):
            again = label == "advice" and words in advised
            advised.add(words)
            layout.paragraph(_labelled(label, "as above" if again else words), indent=6, hanging=2)


def _labelled(label: str, words: str) -> Text:
    return Text.assemble((f"{label}: ", "green" if label == "fix" else "dim"), words)


def _draw_hidden(layout: Layout, examination: Examination) -> None:
    hidden = [finding for finding in examination.findings if finding.ignored is not None]
    if hidden:
        layout.line()
    for finding in hidden:
        about = f" · {subject_of(finding)}" if subject_of(finding) else ""
        text = Text(f"hidden: {finding.severity.label} {finding.code} {finding.name}{about}", style="dim")
        layout.paragraph(text.append(f" ({one_line(finding.ignored or '')})"), indent=2, hanging=2)


def _draw_versions(layout: Layout, examination: Examination) -> None:
    if examination.versions:
        layout.line()
        words = ", ".join(f"{name} {version}" for name, version in examination.versions.items())
        layout.paragraph(_labelled("saved with", one_line(words)), indent=2, hanging=2)


def _draw_layers(layout: Layout, layers: Sequence[Row], page: Page) -> None:
    repeated = [] if page.verbose else [row for row in layers if row.is_repeated and not row.codes]
    rows = [row for row in layers if row not in repeated]
    chosen = list(rows) if page.verbose or len(rows) <= LAYERS_SHOWN else choose_remarkable(rows, LAYERS_SHOWN)
    held = any(row.updates for row in rows)
    # A single bar would compare a layer with itself.
    largest = (max(row.rms or 0.0 for row in rows) if len(rows) > 1 else 0.0) or inf
    cells = []
    for row in chosen:
        parts = row.parts if page.verbose else tuple(part for part in row.parts if _deserves_a_row(part))
        cells.append(_cells(row, held, row.rms and row.rms / largest, leave_codes_to=parts))
        cells.extend(_cells(part, held, None, within=row) for part in parts)
    columns = (
        Column("layer", 9), Column("kind", 1), Column("shape", 2), Column("updates", 3, right=True),
        Column("zeros", 6, right=True), Column("rms", 5, right=True), Column("", 0), Column("", 4),
    )  # fmt: skip
    layout.table(columns, cells, indent=2)
    names = {row.name for row in chosen}
    rest = [row for row in rows if row.name not in names]
    if rest:
        ill = sum(row.severity is not None for row in rest)
        remark = f"{ill:,} of them with findings" if ill else "without remark"
        layout.paragraph(
            Text(
                f"… {quantity(len(rest), 'more layer')}{',' if ill else ''} {remark} (--verbose shows all)", style="dim"
            ),
            indent=2,
        )
    if repeated:
        layout.paragraph(Text(f"the same tensors again: {_name_some(repeated)}", style="dim"), indent=2, hanging=2)
    if not held:
        layout.paragraph(
            Text("updates are not known: no optimizer in this file holds these tensors", style="dim"), indent=2
        )
    elif any(row.updates is None for row in chosen):
        layout.paragraph(Text("– updates: not held by an optimizer", style="dim"), indent=2)


def _name_some(rows: Sequence[Row], most: int = 3) -> str:
    names = [printable(row.name) for row in rows[:most]]
    return ", ".join(names) + (f" and {len(rows) - most:,} more" if len(rows) > most else "")


def _deserves_a_row(part: Row) -> bool:
    """True for a tensor that its layer's row would hide: one with a finding of its own, all zeros, or not finite."""
    return bool(part.codes) or part.zeros == 1 or part.nonfinite > 0


def _cells(
    row: Row, held: bool, length: float | None, within: Row | None = None, leave_codes_to: Sequence[Row] = ()
) -> list[Text]:
    name = printable(row.name)
    if within is not None:
        role = row.name.removeprefix(within.name)
        name = f"  {printable(role if role.startswith('.') else row.name)}"
    told = {code for part in leave_codes_to for code in part.codes}
    remark = " ".join(filter(None, (*(code for code in row.codes if code not in told), row.remark)))
    style = _SEVERITY_STYLES[row.severity] if row.severity else ""
    updates = ""
    if held:
        fewest, most = row.updates or (None, None)
        updates = figure(fewest) if fewest == most else f"{figure(fewest)}–{figure(most)}"
    return [
        Text(name, style=style),
        Text("" if within else row.kind, style="dim"),
        Text(shape_in_words(row.shape)),
        Text(updates),
        Text(percentage(row.zeros), style="" if row.zeros == 0 else "red" if row.zeros == 1 else "yellow"),
        Text(f"{row.nonfinite:,} not finite", style="red") if row.nonfinite else Text(figure(row.rms)),
        Text(_bar(length or 0.0), style="blue"),
        Text(f"◄ {remark}" if row.codes and remark else remark, style=style or "dim"),
    ]


def _bar(length: float) -> str:
    """Draw a share of ten columns, to half a column."""
    whole, half = divmod(round(length * 20), 2)
    return "━" * whole + "╸" * half


def _draw_summary(layout: Layout, report: Report) -> None:
    columns = (
        Column("verdict", 8), Column("errors", 7, right=True), Column("warnings", 6, right=True),
        Column("notes", 5, right=True), Column("hidden", 4, right=True), Column("checkpoint", 9),
    )  # fmt: skip
    layout.table(columns, [_summary_cells(each) for each in worst_first(report.checkpoints)], folded=True)


def _summary_cells(examination: Examination) -> list[Text]:
    counts = Counter(finding.severity for finding in examination.counted)
    hidden = sum(finding.ignored is not None for finding in examination.findings)
    return [
        Text(_VERDICT_WORDS[examination.verdict], style=_VERDICT_STYLES[examination.verdict]),
        *(
            Text(f"{counts[severity]:,}", style=style) if counts[severity] else Text("–", style="dim")
            for severity, style in _SEVERITY_STYLES.items()
        ),
        Text(f"{hidden:,}" if hidden else "", style="dim"),
        Text(printable(examination.path)),
    ]
