"""``ckdoc rules``, ``ckdoc causes``, ``ckdoc explain`` and ``ckdoc plugins``."""

from __future__ import annotations

import sys
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from checkpoint_doctor.cli.completion import complete_explained
from checkpoint_doctor.cli.output import is_terminal, say
from checkpoint_doctor.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from checkpoint_doctor.plugins.catalogue import Catalogue
    from checkpoint_doctor.plugins.cause import Cause
    from checkpoint_doctor.plugins.rule import Rule


PREVIEW = "(in preview) "
"""Before the summary of what is new and does not count yet."""


class Listing(str, Enum):
    """How a list is printed."""

    TABLE = "table"
    JSON = "json"


ListingOption = Annotated[Listing, typer.Option("--format", "-f", help="How to print the list.")]


def rules(format: ListingOption = Listing.TABLE) -> None:
    """List all rules with code, name, severity and what they find."""
    from checkpoint_doctor.plugins.catalogue import discover

    catalogue = discover()
    if format is Listing.JSON:
        _say_json(
            {
                "code": rule.code,
                "name": rule.name,
                "severity": rule.severity.label,
                "worst": (rule.worst or rule.severity).label,
                "preview": rule.preview,
                "summary": rule.summary,
                "fix": rule.fix.value if rule.fix else None,
                "options": dict(rule.options),
                "package": rule.package,
            }
            for rule in catalogue.rules
        )
        return
    from checkpoint_doctor.cli.drawing import show_table

    show_table(
        ("code", "name", "severity", "up to", "finds"),
        [
            (
                rule.code,
                rule.name,
                rule.severity.label,
                rule.worst.label if rule.worst else "",
                f"{PREVIEW if rule.preview else ''}{rule.summary}",
            )
            for rule in catalogue.rules
        ],
        whole=("code", "name", "severity", "up to"),
    )


def causes(format: ListingOption = Listing.TABLE) -> None:
    """List all causes that a diagnosis can name, and what `ckdoc fix` can do about each."""
    from checkpoint_doctor.plugins.catalogue import discover

    known = discover().causes
    if format is Listing.JSON:
        _say_json(
            {
                "name": cause.name,
                "summary": cause.summary,
                "prognosis": cause.prognosis.value,
                "preview": cause.preview,
                "package": cause.package,
            }
            for cause in known
        )
        return
    from checkpoint_doctor.cli.drawing import show_table

    show_table(
        ("cause", "fix", "is"),
        [(cause.name, cause.prognosis.value, f"{PREVIEW if cause.preview else ''}{cause.summary}") for cause in known],
        whole=("cause", "fix"),
    )


def explain(
    name: Annotated[
        str,
        typer.Argument(
            metavar="CODE|NAME",
            help="A rule's code or name, or a cause's name.",
            autocompletion=complete_explained,
        ),
    ],
) -> None:
    """Explain a rule or a cause: what it is, how it is known, when it is normal, what to do."""
    from checkpoint_doctor.plugins.catalogue import discover
    from checkpoint_doctor.plugins.explanation import (
        describe_repair,
        describe_severity,
        explain_cause,
        explain_rule,
        name_family,
    )
    from checkpoint_doctor.plugins.rule import Rule

    if sys.flags.optimize > 1:
        raise UsageError(
            "Python runs without docstrings, which are the explanations", "leave -OO and PYTHONOPTIMIZE out"
        )
    catalogue = discover()
    found = _find_explained(name, catalogue)
    if not is_terminal(sys.stdout):
        say(explain_rule(found) if isinstance(found, Rule) else explain_cause(found))
        return
    from checkpoint_doctor.cli.drawing import show_cause, show_rule

    if isinstance(found, Rule):
        show_rule(found, describe_severity(found), name_family(found), describe_repair(found))
    else:
        show_cause(found)


def plugins(format: ListingOption = Listing.TABLE) -> None:
    """List the installed plugins: loaders, rules, causes, reporters, log readers and engines, with any problem."""
    from checkpoint_doctor.plugins.catalogue import discover

    catalogue = discover(lazily=False)
    rows = [
        (plugin.group.rpartition(".")[2], plugin.name, plugin.distribution, plugin.version, plugin.problem or "")
        for plugin in catalogue.plugins
    ]
    headings = ("group", "name", "package", "version", "problem")
    if format is Listing.JSON:
        _say_json({**dict(zip(headings, row, strict=True)), "problem": row[-1] or None} for row in rows)
        return
    from checkpoint_doctor.cli.drawing import show_table

    shown = len(headings) if catalogue.broken else len(headings) - 1
    show_table(headings[:shown], [row[:shown] for row in rows], whole=headings[:4])


def _find_explained(wanted: str, catalogue: Catalogue) -> Rule | Cause:
    known: dict[str, Rule | Cause] = {cause.name: cause for cause in catalogue.causes}
    known |= {name: rule for rule in catalogue.rules for name in (rule.code, rule.name)}
    found = known.get(wanted) or known.get(wanted.upper()) or known.get(wanted.lower())
    if found is not None:
        return found
    import difflib

    near = [
        *difflib.get_close_matches(wanted.upper(), known, 1, 0.5),
        *difflib.get_close_matches(wanted.lower(), known, 1),
    ]
    raise UsageError(
        f"there is no rule or cause {wanted!r}",
        f"did you mean {near[0]}?" if near else "`ckdoc rules` and `ckdoc causes` list them all",
    )


def _say_json(rows: Iterable[object]) -> None:
    import json

    say(json.dumps(list(rows), indent=2))
