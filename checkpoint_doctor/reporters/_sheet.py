"""A sheet of terminal lines: paragraphs and tables that fit a width without breaking names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

GAP = 2
"""Blank columns between the columns of a table."""


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    keep: int
    """The higher, the longer it is kept when the width gets short. The first column always stays and is shortened."""
    right: bool = False


class Sheet:
    """Lines of styled text, gathered and then rendered at once."""

    def __init__(self, width: int, color: bool) -> None:
        self.width = max(width, 20)
        self._color = color
        self._output = StringIO()
        # The environment is not asked (COLUMNS, NO_COLOR, TERM …): the page says it all.
        self._console = Console(
            file=self._output, width=self.width, force_terminal=color, no_color=not color,
            color_system="standard" if color else None, highlight=False, markup=False, emoji=False,
            legacy_windows=False, _environ={},
        )  # fmt: skip

    def line(self, text: Text | str = "") -> None:
        """Add one line as it is."""
        text = text.copy() if isinstance(text, Text) else Text(text)
        text.rstrip()
        self._console.print(text, no_wrap=True, overflow="ignore", crop=False, soft_wrap=True)

    def paragraph(self, text: Text, indent: int = 0, hanging: int = 0) -> None:
        """Add a text wrapped at its spaces; what is longer than a line is folded. Later lines hang further in."""
        if self.width - indent - hanging < 16:
            hanging = 0
        first, rest = text, None
        lines = text.wrap(self._console, max(self.width - indent, 8), overflow="fold")
        if hanging and len(lines) > 1:
            first = lines[0]
            rest = text[len(first.plain) :]
            rest = rest[len(rest.plain) - len(rest.plain.lstrip()) :]
            lines = rest.wrap(self._console, max(self.width - indent - hanging, 8), overflow="fold")
            self.line(Text(" " * indent) + first)
        for each in lines:
            self.line(Text(" " * (indent + (hanging if rest is not None else 0))) + each)

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[Text]], indent: int = 0) -> None:
        """Add a table.

        Columns that say nothing are left out, and others, the least kept first, until the names in the first have room.
        """
        room = self.width - indent
        widths = [
            max([cell_len(column.title), *(row[index].cell_len for row in rows)])
            for index, column in enumerate(columns)
        ]
        shown = [
            index
            for index, width in enumerate(widths)
            if index == 0 or any(row[index].plain.strip("–") for row in rows)
        ]
        least = min(widths[0], max(12, room // 3))
        while len(shown) > 1 and least + sum(widths[index] + GAP for index in shown[1:]) > room:
            shown.remove(min(shown[1:], key=lambda index: columns[index].keep))
        widths[0] = min(widths[0], room - sum(widths[index] + GAP for index in shown[1:]))
        header = [Text(column.title, style="dim") for column in columns]
        for row in [header, *rows]:
            line = Text(" " * indent)
            for index in shown:
                cell = shorten(row[index], widths[index])
                cell.align("right" if columns[index].right else "left", widths[index])
                line += cell + " " * GAP
            self.line(line)

    def render(self) -> str:
        """Return all lines."""
        return self._output.getvalue()


def shorten(text: Text, width: int) -> Text:
    """Cut a text in its middle so that its ends, which tell a name from others, stay. Width counts terminal columns."""
    if text.cell_len <= width:
        return text.copy()
    tail = max(width - 1, 0) * 3 // 5
    end = set_cell_size(text.plain[::-1], tail)[::-1].strip()
    start = set_cell_size(text.plain, max(width - 1 - cell_len(end), 0)).rstrip()
    return Text(f"{start}…{end}", style=text.style or (text.spans[0].style if text.spans else ""))
