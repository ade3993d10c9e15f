"""Draws a series: its findings with their onset, its diagnoses over time, and its tensors as lines of small bars."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from checkpoint_doctor.builtin.reporters._grouping import FindingGroup, group_findings
from checkpoint_doctor.builtin.reporters._order import rank
from checkpoint_doctor.builtin.reporters._series_wording import (
    FIGURE_NAMES,
    FIGURE_OF,
    SHARES,
    choose_tensors,
    common_path,
    describe_series,
    evidence_without_onset,
    known,
    left_out_in_words,
    onset_of_row,
    settings_in_words,
    span_in_words,
    value_in_words,
    values_in_words,
)
from checkpoint_doctor.builtin.reporters._sparklines import sparkline
from checkpoint_doctor.builtin.reporters._terminal.layout import Column, Layout
from checkpoint_doctor.builtin.reporters._terminal.styles import SEVERITY_SIGNS, SEVERITY_STYLES
from checkpoint_doctor.builtin.reporters._wording import (
    BRIEF,
    evidence_in_words,
    names_in_words,
    one_line,
    subject_of,
    tally,
)
from checkpoint_doctor.results.findings import Finding
from checkpoint_doctor.results.report import Page
from checkpoint_doctor.results.series_report import SeriesRecord, SeriesReport, TensorRow
from checkpoint_doctor.text import printable, quantity

SHOWN = 24
"""How many tensors are shown, the worst first; the others are counted."""

LEFT_OUT_SHOWN = 10
"""How many checkpoints that belong to no series are named."""

BARS = 12
"""Characters of the widest line of bars."""

WIDE_SHARE = 0.1
"""Shares are drawn from 0 to this one at least, so that what is next to nothing looks like it."""

SMALLEST_SHARE = 0.01
"""Share below which a figure is not worth a column."""

LEVELS = ("zero_fraction", "vanished_fraction", "change", "norm", "dormant_fraction")
"""The figures that have a column of their own, by how long they stay where the page is narrow."""

_ASCII = str.maketrans("✖▲●▶◄│→–…×", "x!*>  >-.x")


def draw_series(report: SeriesReport, page: Page) -> str:
    """Draw every series of a report, then what could not be read and what was left out."""
    layout = Layout(page.width, page.color)
    for record in report.series:
        _draw_record(layout, record, page)
        layout.line()
    for examination in report.unreadable:
        error = (examination.error or "it could not be read").removeprefix(f"{examination.path} ")
        words = f"{printable(examination.path)}: {one_line(error)}"
        layout.paragraph(Text.assemble(("unreadable: ", "bold magenta"), words), hanging=2)
    left_out = report.left_out if page.verbose else report.left_out[:LEFT_OUT_SHOWN]
    for words in left_out_in_words(left_out):
        layout.paragraph(Text.assemble(("left out: ", "yellow"), words), hanging=2)
    if rest := len(report.left_out) - len(left_out):
        layout.line(Text(f"… {rest:,} more left out (--verbose shows all)", style="dim"))
    if page.verbose:
        for words in left_out_in_words(report.passed_over):
            layout.paragraph(Text.assemble(("passed over: ", "dim"), words), hanging=2)
    for unsearched in report.unsearched:
        if page.verbose or not unsearched.on_purpose:
            words = f"{printable(unsearched.path)}: {one_line(unsearched.why)}"
            layout.paragraph(Text.assemble(("not searched: ", "dim"), words), hanging=2)
    for remark in report.remarks:
        layout.paragraph(Text.assemble((f"{remark.title}: ", "yellow"), one_line(remark.message)), hanging=2)
    text = layout.render()
    return text.translate(_ASCII) if page.ascii_only else text


def _draw_record(layout: Layout, record: SeriesRecord, page: Page) -> None:
    heading = "DIFFERENCE" if record.is_pair else "SERIES"
    layout.paragraph(
        Text.assemble((heading, "bold"), " · ", common_path(record), (f" — {describe_series(record)}", "dim")),
        hanging=2,
    )
    findings = rank(record.counted)
    counts = Text(", ").join(
        Text(tally(each for each in findings if each.severity is severity), style=style)
        for severity, style in SEVERITY_STYLES.items()
        if any(each.severity is severity for each in findings)
    )
    layout.paragraph(counts if counts.plain else Text("no findings", style="green"), indent=2)
    for remark in record.remarks:
        layout.paragraph(Text.assemble(("remark: ", "dim"), one_line(remark)), indent=2, hanging=2)
    rows = {row.name: row for row in record.tensors}
    for group in group_findings(findings):
        layout.line()
        _draw_finding(layout, group, record, rows, page)
    _draw_illnesses(layout, record)
    settings = list(settings_in_words(record, 1000 if page.verbose else 12))
    if settings:
        layout.line()
        layout.paragraph(Text.assemble(("settings that changed: ", "dim"), ", ".join(settings)), indent=2, hanging=2)
    for label, names in (("appeared", record.appeared), ("vanished", record.vanished)):
        if names:
            listed = names_in_words(names)
            layout.paragraph(Text.assemble((f"tensors that {label}: ", "yellow"), listed), indent=2, hanging=2)
    layout.line()
    if record.is_pair and not page.tensors:
        _draw_difference(layout, record, page)
    elif page.tensors:
        _draw_zoom(layout, record, page)
    else:
        _draw_tensors(layout, record, page)


def _draw_finding(
    layout: Layout, group: FindingGroup, record: SeriesRecord, rows: dict[str, TensorRow], page: Page
) -> None:
    finding = group.first
    style = SEVERITY_STYLES[finding.severity]
    subject = f" · {subject_of(finding)}" if finding.subject else ""
    count = f" × {len(group.members):,}" if group.others else ""
    layout.paragraph(
        Text.assemble(
            (f"{SEVERITY_SIGNS[finding.severity]} {finding.severity.label}", f"bold {style}"),
            (f" {finding.title}{count}", style),
            subject,
        ),
        indent=2,
        hanging=4,
    )
    layout.paragraph(Text(one_line(finding.message)), indent=6)
    for label, words in _particulars(finding, record, rows, page):
        layout.paragraph(Text.assemble((f"{label}: ", "dim"), words), indent=6, hanging=2)
    if group.others:
        names = names_in_words(subject_of(other) for other in group.others)
        layout.paragraph(Text.assemble(("the same holds for: ", "dim"), names), indent=6, hanging=2)


def _particulars(
    finding: Finding, record: SeriesRecord, rows: dict[str, TensorRow], page: Page
) -> list[tuple[str, str]]:
    words = []
    row, figure = rows.get(finding.tensor or ""), FIGURE_OF.get(finding.code)
    onset = record.onset_of(finding)
    if row is not None and figure is not None:
        words.append((FIGURE_NAMES[figure], values_in_words(figure, getattr(row, figure), onset)))
    elif onset is not None and not finding.code.startswith("TRD"):
        words.append(("began", "at the first checkpoint" if onset == 0 else f"at {_name(record, onset)}"))
    evidence = evidence_in_words(evidence_without_onset(finding), None if page.verbose else BRIEF)
    words += [("evidence", evidence), ("advice", one_line(finding.advice))]
    return [(label, each) for label, each in words if each]


def _name(record: SeriesRecord, position: int) -> str:
    step = record.points[position].step
    return printable(record.points[position].path) if step is None else f"step {step:,}"


def _draw_illnesses(layout: Layout, record: SeriesRecord) -> None:
    if record.illnesses:
        layout.line()
        layout.line(Text("  diagnoses over time", style="bold"))
    for illness in record.illnesses:
        style = "dim" if illness.gone is not None else SEVERITY_STYLES[illness.severity]
        certainty = f" ({illness.certainty.label})" if illness.certainty else ""
        about = f" · {printable(illness.subject)}" if illness.subject else ""
        layout.paragraph(
            Text.assemble(
                (f"{SEVERITY_SIGNS[illness.severity]} {printable(illness.name)}", style),
                f"{certainty}{about}: {span_in_words(illness, record)}",
            ),
            indent=2,
            hanging=4,
        )
        if illness.gone is None:
            layout.paragraph(Text(one_line(illness.message)), indent=6)


def _draw_tensors(layout: Layout, record: SeriesRecord, page: Page) -> None:
    rows = [row for row in choose_tensors(record, ()) if page.verbose or not row.is_statistic]
    shown = rows if page.verbose else rows[:SHOWN]
    levels = [name for name in LEVELS if any(_says(name, getattr(row, name)) for row in shown)]
    cells = [_cells(row, record, levels, page) for row in shown]
    columns = [Column("tensor", 9)]
    columns += [Column(FIGURE_NAMES[name], 8 - place) for place, name in enumerate(levels)]
    columns += [Column("", 0)]
    if cells:
        layout.table(columns, cells, indent=2)
    if len(rows) > len(shown):
        more = quantity(len(rows) - len(shown), "more tensor")
        layout.paragraph(Text(f"… {more} (--verbose shows all, --tensor PATTERN some)", style="dim"), indent=2)


def _says(name: str, values: Sequence[float | None]) -> bool:
    """Return whether a figure is worth a column: it is known, and if it is a share, it is not next to 0 throughout."""
    return any((value or 0.0) >= SMALLEST_SHARE for value in values) if name in SHARES else known(tuple(values))


def _cells(row: TensorRow, record: SeriesRecord, levels: Sequence[str], page: Page) -> list[Text]:
    onset, codes = onset_of_row(row, record)
    worst = max((each.severity for each in record.counted if each.tensor == row.name), default=None)
    style = SEVERITY_STYLES[worst] if worst else ""
    cells = [Text(printable(row.name), style=style)]
    for name in levels:
        values = getattr(row, name)
        if not known(values):
            cells.append(Text(""))
            continue
        span = (0.0, WIDE_SHARE) if name in SHARES else None
        bars = sparkline(values, width=BARS, ascii_only=page.ascii_only, span=span)
        if onset:
            place = onset * len(bars) // len(values)
            bars = f"{bars[:place]}│{bars[place:]}"
        cells.append(Text.assemble((bars, style or "blue"), f" {value_in_words(name, values[-1])}"))
    began = f" since {_name(record, onset)}" if onset else ""
    cells.append(Text(f"◄ {' '.join(codes)}{began}" if codes else "", style=style or "dim"))
    return cells


def _draw_zoom(layout: Layout, record: SeriesRecord, page: Page) -> None:
    rows = choose_tensors(record, page.tensors)
    if not rows:
        layout.paragraph(Text(f"no tensor matches {printable(' '.join(page.tensors))}", style="yellow"), indent=2)
    for row in rows:
        onset, _ = onset_of_row(row, record)
        layout.paragraph(Text.assemble((printable(row.name), "bold"), (f"  {printable(row.kind)}", "dim")), indent=2)
        names = [name for name in FIGURE_NAMES if known(getattr(row, name))]
        columns = [Column("checkpoint", 9)]
        columns += [Column(FIGURE_NAMES[name], 9 - place, right=True) for place, name in enumerate(names)]
        cells = []
        for place, point in enumerate(record.points):
            label = printable(point.path) if point.step is None else f"{point.step:,}"
            mark = "▶ " if place == onset else "  "
            values = [Text(value_in_words(name, getattr(row, name)[place])) for name in names]
            cells.append([Text(mark + label, style="bold yellow" if place == onset else ""), *values])
        layout.table(columns, cells, indent=2)
        layout.line()


def _draw_difference(layout: Layout, record: SeriesRecord, page: Page) -> None:
    rows = [row for row in choose_tensors(record, ()) if page.verbose or not row.is_statistic]
    same = [row for row in rows if row.still_fraction[-1] == 1]
    moved = [row for row in rows if row not in same]
    shown = moved if page.verbose else moved[:SHOWN]
    columns = (
        Column("tensor", 9), Column("relative change", 8, right=True), Column("same bits", 6, right=True),
        Column("norm before", 5, right=True), Column("after", 5, right=True), Column("zeros", 4, right=True),
        Column("", 3),
    )  # fmt: skip
    cells = []
    for row in shown:
        _, codes = onset_of_row(row, record)
        cells.append(
            [
                Text(printable(row.name), style="yellow" if codes else ""),
                Text(value_in_words("change", row.change[-1])),
                Text(value_in_words("still_fraction", row.still_fraction[-1])),
                Text(value_in_words("norm", row.norm[0])),
                Text(value_in_words("norm", row.norm[-1])),
                Text(value_in_words("zero_fraction", row.zero_fraction[-1])),
                Text(f"◄ {' '.join(codes)}" if codes else ""),
            ]
        )
    if cells:
        layout.table(columns, cells, indent=2)
    if len(moved) > len(shown):
        more = quantity(len(moved) - len(shown), "more tensor")
        layout.paragraph(Text(f"… {more} (--verbose shows all)", style="dim"), indent=2)
    if same:
        words = f"{quantity(len(same), 'tensor')} of {len(rows):,} have the same bits: "
        names = names_in_words(row.name for row in same)
        layout.paragraph(Text.assemble((words, "dim"), names), indent=2, hanging=2)
