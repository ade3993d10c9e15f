"""Draws the settings of checkpoints with their values, the ranges that are known of them, verdicts and sources."""

from __future__ import annotations

from rich.text import Text

from checkpoint_doctor.builtin.reporters._terminal.layout import Column, Layout
from checkpoint_doctor.builtin.reporters._wording import describe, one_line
from checkpoint_doctor.checkpoint.reviewed_settings import ReviewedSetting, Verdict
from checkpoint_doctor.results.report import Examination, Page, Report
from checkpoint_doctor.text import printable

_STYLES = {
    Verdict.HIGH: "yellow", Verdict.LOW: "yellow", Verdict.UNTUNED: "cyan", Verdict.UNPUBLISHED: "cyan",
    Verdict.ABSENT: "cyan", Verdict.FIGURE: "dim", Verdict.UNKNOWN: "dim",
}  # fmt: skip


def draw_settings(report: Report, page: Page) -> str:
    """Draw a table of settings for each checkpoint, or paragraphs where the page is too narrow for it."""
    layout = Layout(page.width, page.color)
    for number, examination in enumerate(report.checkpoints):
        if number:
            layout.line()
        _draw(layout, examination)
    return layout.render()


def _draw(layout: Layout, examination: Examination) -> None:
    heading = Text.assemble((printable(examination.path), "bold"), (f" — {describe(examination)}", "dim"))
    layout.paragraph(heading, hanging=2)
    if examination.is_unreadable:
        layout.paragraph(Text(one_line(examination.error or "it could not be read")), indent=2)
        return
    if not examination.settings:
        layout.paragraph(Text("it holds no settings that are known"), indent=2)
        return
    columns = (
        Column("setting", 9), Column("value", 8, right=True), Column("range", 6), Column("verdict", 7),
        Column("source", 5),
    )  # fmt: skip
    rows = [_cells(each) for each in examination.settings]
    if layout.has_room_for(columns, rows, indent=2):
        layout.table(columns, rows, indent=2, folded=True)
        return
    for name, value, limits, verdict, source in rows:
        judged = (": ", verdict) if verdict.plain else ()
        known = (" (", limits, ")") if limits.plain else ()
        layout.paragraph(Text.assemble(name, "  ", value, *judged, *known), indent=2, hanging=4)
        if source.plain:
            layout.paragraph(source, indent=4)


def _cells(setting: ReviewedSetting) -> list[Text]:
    return [
        Text(printable(setting.name)),
        Text("–" if setting.value is None else write_value(setting.value)),
        Text(setting.range.describe() if setting.range else ""),
        Text(setting.verdict.value, style=_STYLES.get(setting.verdict, "")),
        Text(one_line(setting.source), style="dim"),
    ]


def write_value(value: float) -> str:
    """Return a setting with all of its digits, as it was given: ``2.678e-05``, ``1,000,000``, ``0.99``."""
    return f"{int(value):,}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"
