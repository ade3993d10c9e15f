"""``ckdoc rules``, ``explain`` and ``plugins``: what there is and what it means."""

from __future__ import annotations

import sys
from enum import Enum
from typing import Annotated

import typer

from checkpoint_doctor.cli.output import page_width, say, wants_color
from checkpoint_doctor.errors import UsageError


class Listing(str, Enum):
    """How a list is printed."""

    TABLE = "table"
    JSON = "json"


def rules(
    format: Annotated[Listing, typer.Option("--format", "-f", help="How to print the list.")] = Listing.TABLE,
) -> None:
    """List every rule: code, name, severity, what it finds."""
    from checkpoint_doctor.plugins import discover

    catalogue = discover()
    if format is Listing.JSON:
        import json

        rows = [
            {
                "code": rule.code,
                "name": rule.name,
                "severity": rule.severity.label,
                "summary": rule.summary,
                "fix": rule.fix.value if rule.fix else None,
                "options": dict(rule.options),
                "package": rule.package,
            }
            for rule in catalogue.rules
        ]
        say(json.dumps(rows, indent=2))
        return
    _print_table(
        ("code", "name", "severity", "finds"),
        [(rule.code, rule.name, rule.severity.label, rule.summary) for rule in catalogue.rules],
    )


def explain(rule: Annotated[str, typer.Argument(metavar="CODE|NAME", help="A rule's code or name.")]) -> None:
    """Explain a rule: what it finds, why it matters, when it is normal, what to do."""
    from checkpoint_doctor.explanation import explain_rule
    from checkpoint_doctor.plugins import discover

    known = {name: each for each in discover().rules for name in (each.code, each.name)}
    found = known.get(rule) or known.get(rule.upper()) or known.get(rule.lower())
    if found is None:
        import difflib

        near = difflib.get_close_matches(rule.upper(), known, 1, 0.5) or difflib.get_close_matches(
            rule.lower(), known, 1
        )
        raise UsageError(
            f"there is no rule {rule!r}", f"did you mean {near[0]}?" if near else "`ckdoc rules` lists them all"
        )
    text = explain_rule(found)
    if not sys.stdout.isatty():
        say(text)
        return
    from rich.markdown import Markdown

    say(_draw(Markdown(text)))


def plugins() -> None:
    """List the installed loaders, analyzers and reporters, and what is wrong with any of them."""
    from checkpoint_doctor.plugins import discover

    catalogue = discover(lazily=False)
    _print_table(
        ("group", "name", "package", "version", "problem"),
        [
            (each.group.rpartition(".")[2], each.name, each.distribution, each.version, each.problem or "")
            for each in catalogue.plugins
        ],
    )


def _print_table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a table that a terminal shows well, or one line a row with tabs where a program reads."""
    if not sys.stdout.isatty():
        say("\n".join("\t".join(row).rstrip() for row in rows))
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading in ("code", "severity"))
    for row in rows:
        table.add_row(*row)
    say(_draw(table))


def _draw(what: object) -> str:
    import io

    from rich.console import Console

    text = io.StringIO()
    console = Console(file=text, width=page_width(), force_terminal=wants_color(sys.stdout), highlight=False)
    console.print(what)
    return text.getvalue()
