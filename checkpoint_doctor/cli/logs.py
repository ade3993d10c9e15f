"""``ckdoc log``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from checkpoint_doctor.cli.options import ConfigFile, FailOn, Ignore, Preview, Quiet, Traceback
from checkpoint_doctor.cli.output import conclude, page_width, say, say_document, wants_color
from checkpoint_doctor.cli.outputs import refuse_outputs, write
from checkpoint_doctor.cli.scanning import READ_BY_PEOPLE, check_format, prepare, verdict
from checkpoint_doctor.errors import DoctorError, UsageError
from checkpoint_doctor.text import describe_error

if TYPE_CHECKING:
    from checkpoint_doctor.plugins.catalogue import Catalogue
    from checkpoint_doctor.results.log_report import LogReport


def log(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Training logs, folders to search for them, globs.", show_default=False),
    ],
    format: Annotated[
        str, typer.Option("--format", "-f", help="Output format: terminal, json, markdown, sarif …")
    ] = "terminal",
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Write the report to a file instead of stdout.")
    ] = "",
    select: Annotated[
        list[str] | None, typer.Option(metavar="CODE", help="Run only these rules (code, family or name).")
    ] = None,
    ignore: Ignore = None,
    fail_on: Annotated[
        FailOn | None,
        typer.Option(help="Lowest severity that fails the run; error unless configured.", show_default=False),
    ] = None,
    config: ConfigFile = "",
    preview: Preview = False,
    quiet: Quiet = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show all metrics and figures.")] = False,
    traceback: Traceback = False,
) -> None:
    """Examine training logs. Exit code: 0 healthy, 1 ill, 2 unreadable or misused, 3 nothing to examine."""
    from checkpoint_doctor.cli.progress import show_progress
    from checkpoint_doctor.log import examine_logs

    catalogue, settings = prepare(config, select, ignore, fail_on, None, None, preview=preview)
    check_format(format, catalogue)
    output = "" if output == "-" else output
    refuse_outputs([output], [*files, *settings.origins])
    with show_progress(quiet=quiet, unit="bytes") as on_progress:
        result = examine_logs(files, catalogue=catalogue, config=settings, on_progress=on_progress)
    text = _render(result, catalogue, format, to_file=bool(output), verbose=verbose)
    if output:
        write(text, output)
    elif format in READ_BY_PEOPLE:
        say(text)
    else:
        say_document(text)
    if not quiet:
        conclude(result.summary_line, on_page=format in READ_BY_PEOPLE and not output)
    raise typer.Exit(verdict(result.report))


def _render(result: LogReport, catalogue: Catalogue, name: str, *, to_file: bool, verbose: bool) -> str:
    from checkpoint_doctor.plugins.protocols import LogReporter
    from checkpoint_doctor.results.report import Page

    color = wants_color(sys.stdout) and not to_file
    page = Page(width=80 if to_file else page_width(), color=color, verbose=verbose)
    reporter = catalogue.reporters[name]
    try:
        if isinstance(reporter, LogReporter):
            return reporter.render_logs(result, catalogue.rules, page)
        return reporter.render(result.report, catalogue.rules, page)
    except (DoctorError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if "--traceback" in sys.argv:
            raise
        raise UsageError(
            f"the reporter {name} failed with {describe_error(error)}, so there is no report",
            "choose another --format; `ckdoc plugins` names the package of the reporter",
        ) from error
