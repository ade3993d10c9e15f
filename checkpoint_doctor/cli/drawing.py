"""What the catalogue's commands show: drawn where a person looks, plain where a program reads."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from checkpoint_doctor.cli.output import is_terminal, page_width, say, wants_color
from checkpoint_doctor.text import printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from checkpoint_doctor.plugins.cause import Cause
    from checkpoint_doctor.plugins.rule import Rule

SEVERITY_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan", "off": "dim"}
"""Colours by the words of severity."""

LONGEST_LINE = 100
"""Columns beyond which running text is hard to read, however wide the terminal is."""


GAP = 2
"""Blank columns between the columns of a table."""


def show_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    styles: Mapping[str, str] = SEVERITY_STYLES,
    whole: Iterable[str] = (),
) -> None:
    """Print a table; where nobody looks, one line a row with a tab between the cells and no headings.

    ``styles`` colours the cells that hold one of its words; ``whole`` names the columns that are never broken. On a
    terminal that is too narrow for the words of all columns, each row is a paragraph.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    if not is_terminal(sys.stdout):
        say("\n".join("\t".join(row).rstrip() for row in rows))
        return
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    texts = [[Text(cell, style=styles.get(cell, "")) for cell in row] for row in rows]
    unbroken = [heading in set(whole) for heading in headings]
    columns = zip(unbroken, zip(headings, *rows, strict=True), strict=True)
    needed = sum(max(len(word) for cell in cells for word in _split(cell, keep)) + GAP for keep, cells in columns) - GAP
    if needed > page_width():
        named = unbroken if any(unbroken) else [True, *unbroken[1:]]
        parts: list[RenderableType] = []
        for row in texts:
            shown = [(cell, of_name) for cell, of_name in zip(row, named, strict=True) if cell.plain]
            parts.append(Text("  ").join(cell for cell, of_name in shown if of_name))
            parts += [Padding(cell, (0, 0, 0, GAP)) for cell, of_name in shown if not of_name]
        say(_draw(Group(*parts)))
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    for heading, keep in zip(headings, unbroken, strict=True):
        table.add_column(heading, overflow="fold", no_wrap=keep)
    for row in texts:
        table.add_row(*row)
    say(_draw(table))


def _split(cell: str, keep: bool) -> Sequence[str]:
    return [cell] if keep else cell.split() or [""]


def show_rule(rule: Rule, severity: str, family: str, repair: str) -> None:
    """Print a rule's explanation as a page for reading."""
    from rich.console import Group
    from rich.markdown import Markdown
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    title = Text.assemble((f"{rule.code} {rule.name}", "bold"), "  ", (severity, SEVERITY_STYLES[rule.severity.label]))
    parts = _draw_sections(title, rule.summary, rule.sections)
    if rule.options:
        parts += ["", Text.assemble(("Options", "bold"), (f"  in [options.{rule.code}] of ckdoc.toml", "dim"))]
        options = Table.grid(padding=(0, 2, 0, 0))
        for name, default in rule.options.items():
            description = Markdown(rule.option_descriptions.get(name, ""))
            options.add_row(name.replace("_", "-"), Text(spell(default), "cyan"), description)
        parts.append(Padding(options, (0, 0, 0, 2)))
    closing = [f"Family: {family}", f"Repair: {repair}", f"Package: {rule.package}"]
    parts += ["", Markdown(" · ".join(closing), style="dim")]
    say(_draw(Group(*parts), width=LONGEST_LINE))


def show_cause(cause: Cause) -> None:
    """Print a cause's explanation as a page for reading."""
    from rich.console import Group
    from rich.markdown import Markdown
    from rich.text import Text

    from checkpoint_doctor.plugins.explanation import PROGNOSES

    parts = _draw_sections(Text(cause.name, style="bold"), cause.summary, cause.sections)
    closing = f"Repair: {PROGNOSES[cause.prognosis]} · Package: {cause.package}"
    parts += ["", Markdown(closing, style="dim")]
    say(_draw(Group(*parts), width=LONGEST_LINE))


def _draw_sections(title: Text, summary: str, sections: Mapping[str, str]) -> list[RenderableType]:
    from rich.markdown import Markdown
    from rich.padding import Padding
    from rich.text import Text

    parts: list[RenderableType] = [title, Markdown(summary)]
    for heading, body in sections.items():
        parts += ["", Text(heading, style="bold"), Padding(Markdown(body), (0, 0, 0, 2))]
    return parts


def spell(value: Any) -> str:
    """Spell a plain value as a configuration file has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {spell(each)}" for key, each in value.items()) + " }"
    if isinstance(value, Sequence):
        return f"[{', '.join(map(spell, value))}]"
    return str(value)


def _draw(what: RenderableType, *, width: int | None = None) -> str:
    import io

    from rich.console import Console
    from rich.theme import Theme

    text = io.StringIO()
    color = wants_color(sys.stdout)
    console = Console(
        file=text,
        width=min(page_width(), width or page_width()),
        force_terminal=color,
        no_color=not color,
        highlight=False,
        theme=Theme({"markdown.code": "cyan", "markdown.strong": "bold"}),
    )
    console.print(what)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
