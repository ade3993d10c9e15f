"""Draws the table of a checkpoint's layers."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from rich.text import Text

from checkpoint_doctor.builtin.reporters._layers import Row, choose_remarkable
from checkpoint_doctor.builtin.reporters._terminal.layout import Column, Layout
from checkpoint_doctor.builtin.reporters._terminal.styles import SEVERITY_STYLES
from checkpoint_doctor.builtin.reporters._wording import figure, percentage, shape_in_words
from checkpoint_doctor.results.report import Page
from checkpoint_doctor.text import printable, quantity

LARGE_INPUTS = 100.0
"""Input RMS that is coloured: from it on, most published agents have half their units dormant (INP001)."""
LAYERS_SHOWN = 24
"""Up to so many layers are all shown."""


def draw_layers(layout: Layout, layers: Sequence[Row], page: Page) -> None:
    """Draw a table of a checkpoint's layers: all on a verbose page, else those with findings and the extremes."""
    repeated = [] if page.verbose else [row for row in layers if row.is_repeated and not row.codes]
    rows = [row for row in layers if row not in repeated]
    shows_all = page.verbose or len(rows) <= LAYERS_SHOWN
    # Where all layers are alike, or no values were read, the first ones stand for the others.
    chosen = rows if shows_all else choose_remarkable(rows, LAYERS_SHOWN) or rows[:LAYERS_SHOWN]
    held = any(row.updates for row in rows)
    # The bar of a single layer would have nothing to compare with.
    largest = (max(row.rms or 0.0 for row in rows) if len(rows) > 1 else 0.0) or inf
    cells = []
    for row in chosen:
        parts = row.parts if page.verbose else tuple(part for part in row.parts if _needs_own_row(part))
        cells.append(_cells(row, held, row.rms and row.rms / largest, leave_codes_to=parts))
        cells.extend(_cells(part, held, None, within=row) for part in parts)
    columns = (
        Column("layer", 9), Column("kind", 1), Column("shape", 3), Column("updates", 4, right=True),
        Column("zeros", 8, right=True), Column("rms", 7, right=True), Column("input rms", 6, right=True),
        Column("gradient rms", 2, right=True), Column("update ratio", 2, right=True), Column("", 0), Column("", 5),
    )  # fmt: skip
    layout.table(columns, cells, indent=2)
    names = {row.name for row in chosen}
    rest = [row for row in rows if row.name not in names]
    if rest:
        ill = sum(row.severity is not None for row in rest)
        remark = f"{ill:,} of them with findings" if ill else "without findings"
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


def _needs_own_row(part: Row) -> bool:
    """Return whether a tensor needs a row of its own: it has a finding, is all zeros, or has non-finite values."""
    return bool(part.codes) or part.zeros == 1 or part.nonfinite > 0


def _cells(
    row: Row, held: bool, length: float | None, within: Row | None = None, leave_codes_to: Sequence[Row] = ()
) -> list[Text]:
    name = printable(row.name)
    if within is not None:
        role = row.name.removeprefix(within.name)
        name = f"  {printable(role if role.startswith('.') else row.name)}"
    shown_below = {code for part in leave_codes_to for code in part.codes}
    remark = " ".join(filter(None, (*(code for code in row.codes if code not in shown_below), row.remark)))
    style = SEVERITY_STYLES[row.severity] if row.severity else ""
    updates = ""
    if held:
        fewest, most = row.updates or (None, None)
        updates = figure(fewest) if fewest == most else f"{figure(fewest)}–{figure(most)}"
    return [
        Text(name, style=style),
        Text("" if within else row.kind, style="dim"),
        Text(shape_in_words(row.shape)),
        Text(updates),
        Text(percentage(row.zeros), style="red" if row.zeros == 1 else "yellow" if row.zeros else ""),
        Text(f"{row.nonfinite:,} not finite", style="red") if row.nonfinite else Text(figure(row.rms)),
        Text(_known(row.input_rms, within), style="yellow" if (row.input_rms or 0.0) >= LARGE_INPUTS else ""),
        Text(_known(row.gradient_rms, within)),
        Text(_known(row.update_ratio, within)),
        Text(_bar(length or 0.0), style="blue"),
        Text(f"◄ {remark}" if row.codes and remark else remark, style=style or "dim"),
    ]


def _known(value: float | None, within: Row | None) -> str:
    """Return a figure of a layer, nothing where it is not known or the row is a part's."""
    return "" if value is None or within else figure(value)


def _bar(length: float) -> str:
    """Draw a share of ten columns, rounded to half a column."""
    whole, half = divmod(round(length * 20), 2)
    return "━" * whole + "╸" * half
