"""The help of the program and of each command, with examples, and where the docs are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from checkpoint_doctor.cli.output import say

EXAMPLES: Mapping[str, Sequence[str]] = {
    "ckdoc": ("ckdoc scan model.zip", "ckdoc fix model.zip --dry-run", "ckdoc explain ZER003"),
    "scan": (
        "ckdoc scan model.zip",
        "ckdoc scan runs/ --verbose",
        "ckdoc scan model.pt --format concise",
        "ckdoc scan model.zip --settings",
        "ckdoc scan models --report junit=ckdoc.xml --fail-on warning",
    ),
    "fix": (
        "ckdoc fix model.zip --dry-run",
        "ckdoc fix model.zip --output model_repaired.zip",
        "ckdoc fix runs/ --recycle --output repaired/",
    ),
    "compare": (
        "ckdoc compare runs/ppo",
        "ckdoc compare runs/ppo --tensor 'value_net*'",
        "ckdoc compare base.pt fine_tuned.pt --format json",
    ),
    "watch": (
        "ckdoc watch runs/ppo --stalled 30m",
        "ckdoc watch runs/ppo --fail-on warning --exit-on-alarm",
        "ckdoc watch runs/ppo --exec 'mail -s \"$CKDOC_PATH is $CKDOC_VERDICT\" me@example.org'",
    ),
    "log": (
        "ckdoc log progress.csv",
        "ckdoc log logs/ --fail-on warning",
        "ckdoc log trainer_state.json --format json",
    ),
    "rules": ("ckdoc rules", "ckdoc rules --format json"),
    "causes": ("ckdoc causes", "ckdoc causes --format json"),
    "explain": ("ckdoc explain ZER003", "ckdoc explain bias-collapse", "ckdoc explain overwritten"),
    "plugins": ("ckdoc plugins", "ckdoc plugins --format json"),
    "config": ("ckdoc config", "ckdoc config models/actor.zip --changed", "ckdoc config --schema"),
}

PAGES = {
    "fix": "fix",
    "compare": "compare",
    "log": "logs",
    "rules": "rules",
    "causes": "causes",
    "explain": "rules",
    "plugins": "plugins",
    "config": "ci",
    "watch": "watch",
}
"""The page of the docs for each command; the others have the front page."""


class _Help:
    """Help that ends with examples and an address, and is printed as every result is."""

    name: str | None

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option that prints the help."""
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None:
            option.callback = _print_help
        return option

    def get_short_help_str(self, limit: int = 45) -> str:
        """Return the first sentence whole: where it is too long for a line of the list, it is folded and not cut."""
        return super().get_short_help_str(max(limit, 200))  # type: ignore[misc, no-any-return]

    def format_epilog(self, ctx: object, formatter: Any) -> None:
        """Write the examples as they are typed, then the address of the docs."""
        from checkpoint_doctor.plugins.explanation import find_docs

        name = self.name or ""
        formatter.write("\nExamples:\n" + "".join(f"  {each}\n" for each in EXAMPLES.get(name, ())))
        if docs := find_docs():
            page = f"{PAGES[name]}/" if name in PAGES else ""
            formatter.write(f"\nDocs: {docs}/{page}\n")


class Command(_Help, TyperCommand):
    """A command."""


class Commands(_Help, TyperGroup):
    """The program with all of its commands."""


def _print_help(context: typer.Context, option: object, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        say(context.get_help())
        raise typer.Exit
