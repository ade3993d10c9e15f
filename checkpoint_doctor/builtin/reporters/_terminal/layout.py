"""Paragraphs and tables of a fixed width, which shorten or fold names instead of overflowing."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

from msgspec import Struct
from rich.cells import cell_len, chop_cells, set_cell_size
from rich.color import ColorSystem
from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from checkpoint_doctor.builtin.reporters._names import shorten_name

GAP = 2
"""Blank columns between the columns of a table."""


READABLE = 32
"""Columns for text that an indentation leaves, where the page is that wide."""


class Column(Struct, frozen=True):
    """A column of a table."""

    title: str
    keep: int
    """Priority when the page is too narrow: columns with lower numbers are left out first."""
    right: bool = False


class Layout:
    """Lines of styled text, which are collected and then rendered at once."""

    def __init__(self, width: int, color: bool) -> None:
        self.width = max(width, 20)
        self._color = color
        self._lines: list[str] = []
        # The console only looks up styles. Printing with it would take twice as long, and the environment (COLUMNS,
        # NO_COLOR, TERM …) would override the page.
        self._console = Console(file=StringIO(), width=self.width, _environ={})

    def line(self, text: Text | str = "") -> None:
        """Add one line without wrapping it."""
        text = text.copy() if isinstance(text, Text) else Text(text)
        text.rstrip()
        self._lines.append("".join(map(self._paint, text.render(self._console))) if self._color else text.plain)

    def _paint(self, segment: Segment) -> str:
        style = segment.style
        return style.render(segment.text, color_system=ColorSystem.STANDARD) if style else segment.text

    def paragraph(self, text: Text, indent: int = 0, hanging: int = 0) -> None:
        """Add a text that is wrapped at its spaces; lines after the first are indented by ``hanging`` more columns.

        A name too long for a line is folded, at a ``/`` or ``.`` if possible. A narrow page has narrow indentations.
        """
        indent = min(indent, max(self.width - READABLE, 2))
        hanging = hanging if self.width - indent - hanging >= 16 else 0
        room = max(self.width - indent, 8)
        for number, line in enumerate(_wrap(text, room, room - hanging)):
            self.line(Text(" " * (indent + (hanging if number else 0))) + line)

    def table(
        self, columns: Sequence[Column], rows: Sequence[Sequence[Text]], indent: int = 0, *, folded: bool = False
    ) -> None:
        """Add a table of at least two columns.

        Empty columns are left out. Others are left out in the order of ``keep`` until the first column, whose names are
        shortened, has enough room. With ``folded`` the last column gets the room instead, and its names are folded.
        """
        widths = [
            max(cell_len(column.title), *(row[index].cell_len for row in rows)) for index, column in enumerate(columns)
        ]
        elastic = len(columns) - 1 if folded else 0
        room = self.width - indent
        least = min(widths[elastic], max(8 if folded else 12, room // 3))
        others = [index for index in range(len(columns)) if index != elastic and any(row[index].plain for row in rows)]
        while others and least + sum(widths[index] + GAP for index in others) > room:
            others.remove(min(others, key=lambda index: columns[index].keep))
        widths[elastic] = max(room - sum(widths[index] + GAP for index in others), 8)
        if not folded:
            named = max(cell_len(columns[elastic].title), *(row[elastic].cell_len for row in rows))
            widths[elastic] = min(widths[elastic], named)
        header = [Text(column.title, style="dim") for column in columns]
        for row in [header, *rows]:
            line = Text(" " * indent)
            for index in sorted([*others, *([] if folded else [elastic])]):
                cell = shorten(row[index], widths[index], is_name=index == elastic)
                cell.align("right" if columns[index].right else "left", widths[index])
                line += cell + " " * GAP
            if folded:
                first, *rest = _wrap(row[elastic], widths[elastic], widths[elastic])
                self.line(line + first)
                for each in rest:
                    self.line(Text(" " * line.cell_len) + each)
            else:
                self.line(line)

    def has_room_for(self, columns: Sequence[Column], rows: Sequence[Sequence[Text]], indent: int = 0) -> bool:
        """Tell whether a folded table would leave out no column that has something in it, and be readable."""
        widths = [
            max(cell_len(column.title), *(row[index].cell_len for row in rows))
            for index, column in enumerate(columns)
            if any(row[index].plain for row in rows)
        ]
        return indent + sum(widths[:-1]) + GAP * (len(widths) - 1) + min(widths[-1], READABLE) <= self.width

    def render(self) -> str:
        """Return all lines."""
        return "".join(f"{line}\n" for line in self._lines)


def _wrap(text: Text, first_room: int, room: int) -> list[Text]:
    return list(text.divide(_find_breaks(text.plain, first_room, room))) or [Text()]


def _find_breaks(text: str, first_room: int, room: int) -> list[int]:
    """Return where lines end so that the first is at most ``first_room`` columns wide and the others ``room``."""
    breaks: list[int] = []
    start, width = 0, first_room
    while start < len(text):
        # A lone combining character fits into no width.
        fitting = next(iter(chop_cells(text[start : start + 4 * width], width)), "")
        end = start + max(len(fitting), 1)
        if end >= len(text):
            break
        space = text.rfind(" ", start, end + 1)
        if space > start:
            end = space + 1
        else:
            # Prefer to break a long path or a dotted name between its parts, and a part between its words.
            parts = (max(text.rfind(mark, start, end) for mark in marks) for marks in ("/.", "_-"))
            end = next((part + 1 for part in parts if part > start + width // 4), end)
        breaks.append(end)
        start, width = end, room
    return breaks


def shorten(text: Text, width: int, *, is_name: bool = False) -> Text:
    """Shorten a text to a width in terminal columns: a tensor's name by its parts, else by cutting its end."""
    if text.cell_len <= width:
        return text.copy()
    style = text.style or (text.spans[0].style if text.spans else "")
    if is_name:
        return Text(shorten_name(text.plain, width), style=style)
    return Text(f"{set_cell_size(text.plain, max(width - 1, 0)).rstrip()}…", style=style)
