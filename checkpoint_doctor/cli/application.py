"""The commands of ``ckdoc``; each imports what it needs when it runs, so that ``--help`` costs no more than it must."""

from __future__ import annotations

from typing import Annotated

import typer

from checkpoint_doctor.cli import catalogue, comparing, configuration, fixing, logs, scanning, watching
from checkpoint_doctor.cli.help import Command, Commands
from checkpoint_doctor.cli.output import say

app = typer.Typer(
    name="ckdoc",
    cls=Commands,
    help="The checkpoint doctor: finds out what is wrong with a trained network from its checkpoint.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from checkpoint_doctor import __version__
        from checkpoint_doctor.plugins.catalogue import OURS
        from checkpoint_doctor.plugins.entry_points import find_entry_points

        others = {
            f"{entry.distribution} {entry.version}"
            for entry in find_entry_points("checkpoint_doctor.")
            if entry.distribution != OURS
        }
        say("\n".join([f"ckdoc {__version__}", *(f"with {each}" for each in sorted(others))]))
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """The checkpoint doctor: finds out what is wrong with a trained network from its checkpoint."""


app.command(cls=Command)(scanning.scan)
app.command(cls=Command)(fixing.fix)
app.command(cls=Command)(comparing.compare)
app.command(cls=Command)(watching.watch)
app.command(cls=Command)(logs.log)
app.command(cls=Command)(catalogue.rules)
app.command(cls=Command)(catalogue.causes)
app.command(cls=Command)(catalogue.explain)
app.command(cls=Command)(catalogue.plugins)
app.command(cls=Command)(configuration.config)
