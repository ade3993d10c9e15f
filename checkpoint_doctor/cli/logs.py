"""``ckdoc log``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from checkpoint_doctor.cli.options import ConfigFile, FailsOn, Format, Ignore, Output, Preview, Quiet, Select, Traceback
from checkpoint_doctor.cli.output import conclude
from checkpoint_doctor.cli.outputs import ExistingOutputs, refuse_outputs
from checkpoint_doctor.cli.reports import READ_BY_PEOPLE, check_format, deliver, draw, make_page
from checkpoint_doctor.cli.scanning import prepare, verdict

if TYPE_CHECKING:
    from checkpoint_doctor.plugins.catalogue import Catalogue
    from checkpoint_doctor.results.log_report import LogReport


def log(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Training logs, folders to search for them, globs.", show_default=False),
    ],
    format: Format = "terminal",
    output: Output = "",
    select: Select = None,
    ignore: Ignore = None,
    fail_on: FailsOn = None,
    config: ConfigFile = "",
    preview: Preview = False,
    quiet: Quiet = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show all metrics and figures.")] = False,
    traceback: Traceback = False,
) -> None:
    """Examine training logs. Exit code: 0 healthy, 1 ill, 2 unreadable or misused, 3 nothing to examine."""
    from checkpoint_doctor.acts.log import examine_logs
    from checkpoint_doctor.cli.progress import show_progress

    catalogue, settings = prepare(config, select, ignore, fail_on, None, None, preview=preview)
    check_format(format, catalogue)
    output = "" if output == "-" else output
    refuse_outputs([output], [*files, *settings.origins], tuple(catalogue.suffixes))
    existing = ExistingOutputs([output])
    with show_progress(quiet=quiet, unit="bytes") as on_progress:
        result = examine_logs(files, catalogue=catalogue, config=settings, on_progress=on_progress)
    existing.refuse(each.path for each in result.report.checkpoints)
    text = _render(result, catalogue, format, to_file=bool(output), verbose=verbose)
    deliver(text, format, output)
    if not quiet:
        conclude(result.summary_line, on_page=format in READ_BY_PEOPLE and not output)
    raise typer.Exit(verdict(result.report))


def _render(result: LogReport, catalogue: Catalogue, name: str, *, to_file: bool, verbose: bool) -> str:
    from checkpoint_doctor.plugins.protocols import LogReporter

    page = make_page(to_file=to_file, verbose=verbose)
    reporter = catalogue.reporters[name]
    if isinstance(reporter, LogReporter):
        return draw(name, lambda: reporter.render_logs(result, catalogue.rules, page))
    return draw(name, lambda: reporter.render(result.report, catalogue.rules, page))
