"""``ckdoc compare``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from checkpoint_doctor.cli.options import (
    ConfigFile,
    Exclude,
    FailsOn,
    Format,
    Ignore,
    Include,
    Jobs,
    Output,
    Preview,
    Quiet,
    Select,
    Traceback,
    Uris,
)
from checkpoint_doctor.cli.output import (
    FAILED,
    HEALTHY,
    ILL,
    conclude,
)
from checkpoint_doctor.cli.outputs import refuse_outputs
from checkpoint_doctor.cli.reports import READ_BY_PEOPLE, check_format, deliver, draw, make_page
from checkpoint_doctor.cli.scanning import prepare
from checkpoint_doctor.errors import UsageError

if TYPE_CHECKING:
    from checkpoint_doctor.plugins.catalogue import Catalogue
    from checkpoint_doctor.plugins.protocols import SeriesReporter
    from checkpoint_doctor.results.series_report import SeriesReport


def compare(
    uris: Uris,
    format: Format = "terminal",
    output: Output = "",
    tensor: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Show these tensors or layers at every checkpoint, such as 'actor.*'."),
    ] = None,
    select: Select = None,
    ignore: Ignore = None,
    exclude: Exclude = None,
    include: Include = None,
    fail_on: FailsOn = None,
    config: ConfigFile = "",
    preview: Preview = False,
    jobs: Jobs = 0,
    quiet: Quiet = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show all tensors and settings.")] = False,
    traceback: Traceback = False,
) -> None:
    """Compare the checkpoints of a run: what changed, and when it began. Two checkpoints are a difference.

    Exit code: 0 nothing found, 1 findings, 2 unreadable, incomplete or misused, 3 nothing to compare.
    """
    from checkpoint_doctor.acts.compare import compare as examine
    from checkpoint_doctor.cli.progress import show_progress

    catalogue, settings = prepare(config, select, ignore, fail_on, exclude, include, preview=preview)
    output = "" if output == "-" else output
    reporter = find_series_reporter(format, catalogue)
    refuse_outputs([output], [*uris, *settings.origins], tuple(catalogue.suffixes))
    with show_progress(quiet=quiet) as on_progress:
        report = examine(uris, catalogue=catalogue, config=settings, jobs=jobs or None, on_progress=on_progress)
    if output:
        refuse_outputs([output], report.files)
    text = _render(report, reporter, format, catalogue, tensor or [], to_file=bool(output), verbose=verbose)
    deliver(text, format, output)
    if not quiet:
        conclude(report.summary_line, on_page=format in READ_BY_PEOPLE and not output)
    raise typer.Exit(FAILED if not report.is_complete else ILL if report.failed else HEALTHY)


def find_series_reporter(name: str, catalogue: Catalogue) -> SeriesReporter:
    """Return the reporter of a format that can show a series, before any work is done.

    Raises:
        UsageError: no installed reporter has the name, or it cannot.
    """
    from checkpoint_doctor.plugins.protocols import SeriesReporter

    check_format(name, catalogue)
    reporter = catalogue.reporters[name]
    if isinstance(reporter, SeriesReporter):
        return reporter
    able = [each for each in catalogue.reporters if isinstance(catalogue.reporters[each], SeriesReporter)]
    raise UsageError(f"the format {name} does not show series of checkpoints", f"choose one of {', '.join(able)}")


def _render(
    report: SeriesReport,
    reporter: SeriesReporter,
    name: str,
    catalogue: Catalogue,
    tensors: list[str],
    *,
    to_file: bool,
    verbose: bool,
) -> str:
    page = make_page(
        to_file=to_file, verbose=verbose, ascii_only=not to_file and not _can_draw(), tensors=tuple(tensors)
    )
    return draw(name, lambda: reporter.render_series(report, catalogue.rules, page))


def _can_draw() -> bool:
    """Return whether standard output can show the characters of bars and signs."""
    try:
        "▁█✖│".encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True
