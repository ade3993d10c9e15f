"""``ckdoc scan``."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Annotated

import typer

from checkpoint_doctor.cli.completion import complete_reports
from checkpoint_doctor.cli.options import (
    ConfigFile,
    Exclude,
    FailOn,
    FailsOn,
    Format,
    Ignore,
    Include,
    Jobs,
    Output,
    Preview,
    Quiet,
    ScannedUris,
    Select,
    Traceback,
)
from checkpoint_doctor.cli.output import (
    FAILED,
    HEALTHY,
    ILL,
    conclude,
    remark,
)
from checkpoint_doctor.cli.outputs import refuse_outputs, write
from checkpoint_doctor.cli.reports import READ_BY_PEOPLE, check_format, deliver, draw, make_page
from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.text import quantity

if TYPE_CHECKING:
    from checkpoint_doctor.config.settings import Config
    from checkpoint_doctor.plugins.catalogue import Catalogue
    from checkpoint_doctor.results.baseline import Baseline
    from checkpoint_doctor.results.report import Report


ANSWERS = ("terminal", "json")
"""The formats that say whether a run resumes, and that list settings."""


def scan(
    uris: ScannedUris = None,
    format: Format = "terminal",
    output: Output = "",
    report: Annotated[
        list[str] | None,
        typer.Option(
            "--report",
            metavar="FORMAT=FILE",
            help="Also write a report in this format to this file.",
            autocompletion=complete_reports,
        ),
    ] = None,
    select: Select = None,
    ignore: Ignore = None,
    exclude: Exclude = None,
    include: Include = None,
    fail_on: FailsOn = None,
    config: ConfigFile = "",
    preview: Preview = False,
    baseline: Annotated[str, typer.Option(metavar="FILE", help="Hide the findings that this baseline contains.")] = "",
    write_baseline: Annotated[
        str, typer.Option(metavar="FILE", help="Write all findings to this file as a baseline.")
    ] = "",
    statistics: Annotated[
        bool, typer.Option("--statistics", help="Print how often each cause and rule spoke: --format statistics.")
    ] = False,
    skip_foreign: Annotated[
        bool, typer.Option("--skip-foreign", help="Skip intact files that are not checkpoints.")
    ] = False,
    settings: Annotated[
        bool, typer.Option("--settings", help="Print the settings, their ranges, and where these come from.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Answer in one line per checkpoint whether its run resumes.")
    ] = False,
    jobs: Jobs = 0,
    quiet: Quiet = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show all layers and hidden findings.")] = False,
    traceback: Traceback = False,
) -> None:
    """Examine checkpoints. Exit code: 0 healthy, 1 ill, 2 unreadable, incomplete or misused, 3 nothing to examine."""
    from checkpoint_doctor.cli.progress import show_progress
    from checkpoint_doctor.scan import scan as examine

    catalogue, configured = prepare(config, select, ignore, fail_on, exclude, include, preview=preview)
    uris = uris or list(configured.examined)
    if not uris:
        raise UsageError(
            "nothing to examine is named",
            "name files or folders, or set `files` in ckdoc.toml; see `ckdoc scan --help`",
        )
    if statistics:
        if format not in ("terminal", "statistics"):
            raise UsageError(
                f"--statistics and --format {format} are two formats for one output",
                f"for both, use --format {format} --report statistics=FILE",
            )
        format = "statistics"
    outputs = [(format, output), *(_split_report(each) for each in report or [])]
    outputs = [(name, "" if path == "-" else path) for name, path in outputs]
    for name, _ in outputs:
        check_format(name, catalogue)
        if resume and name not in ANSWERS:
            raise UsageError(f"--resume is not answered as {name}", f"choose one of {', '.join(ANSWERS)}")
        if settings and name not in ANSWERS:
            raise UsageError(f"--settings are not printed as {name}", f"choose one of {', '.join(ANSWERS)}")
    written = [*(path for _, path in outputs), write_baseline]
    refuse_outputs(written, [*uris, *configured.origins], tuple(catalogue.suffixes))
    refuse_outputs([path for _, path in outputs], [baseline])
    known = _read_baseline(baseline) if baseline else None
    with show_progress(quiet=quiet) as on_progress:
        result = examine(
            uris,
            catalogue=catalogue,
            config=configured,
            jobs=jobs or None,
            on_progress=on_progress,
            skip_foreign=skip_foreign,
            histograms=any(draws_histograms(name, catalogue) for name, _ in outputs),
            with_settings=settings,
        )
    if result.diagnoses:
        from checkpoint_doctor.log import take_up_logs

        result = take_up_logs(result, catalogue, configured)
    if known:
        result = _hide_known(result, known, configured, catalogue)
    refuse_outputs(written, result.files)
    if write_baseline:
        _write_baseline(result, write_baseline, quiet=quiet)
    # Files come first: nobody may be there to read standard output.
    for name, path in sorted(outputs, key=lambda each: not each[1]):
        text = render(result, catalogue, name, to_file=bool(path), verbose=verbose, resume=resume, settings=settings)
        deliver(text, name, path)
    if not quiet:
        conclude(result.summary_line, on_page=format in READ_BY_PEOPLE and output in ("", "-"))
    raise typer.Exit(verdict(result))


# Few runs have a baseline, and importing what it needs takes a hundredth of a small scan.


def _read_baseline(file: str) -> Baseline:
    from checkpoint_doctor.results.baseline import read_baseline

    return read_baseline(file)


def _hide_known(report: Report, known: Baseline, config: Config, catalogue: Catalogue) -> Report:
    from checkpoint_doctor.config.unused import remark_stale_entries
    from checkpoint_doctor.results.baseline import apply_baseline

    return remark_stale_entries(apply_baseline(report, known), known, config, catalogue.rules, catalogue.causes)


def _write_baseline(report: Report, file: str, *, quiet: bool) -> None:
    import json

    from checkpoint_doctor.results.baseline import write_baseline

    text = write_baseline(report, file)
    write(text, file)
    if not quiet:
        count = len(json.loads(text)["findings"])
        remark(f"wrote a baseline with {quantity(count, 'entry', 'entries')} to {file}")


def prepare(
    config: str,
    select: list[str] | None,
    ignore: list[str] | None,
    fail_on: FailOn | None,
    exclude: list[str] | None,
    include: list[str] | None,
    *,
    preview: bool,
) -> tuple[Catalogue, Config]:
    """Find the plugins, warn of those that are left out, and read the configuration with the command line on top.

    Raises:
        UsageError: a part of ckdoc is broken, or an option names something that does not exist.
    """
    from checkpoint_doctor.config.file import load_config
    from checkpoint_doctor.plugins.catalogue import discover

    catalogue = discover()
    warn_of_broken_plugins(catalogue)
    settings = load_config(
        catalogue.rules,
        causes=catalogue.causes,
        file=config or None,
        select=split_selectors(select),
        ignore=split_selectors(ignore),
        fail_on=fail_on.value if fail_on else None,
        preview=preview or None,
        exclude=exclude or (),
        include=include or (),
    )
    # Start-up ends here. Checkpoints come and go, and their garbage is collected; what stays is not searched again.
    gc.freeze()
    gc.enable()
    return catalogue, settings


def verdict(report: Report) -> int:
    """Return the exit code of a report; the output format makes no difference."""
    if not report.is_complete:
        return FAILED
    return ILL if report.failed else HEALTHY


def render(
    report: Report,
    catalogue: Catalogue,
    name: str,
    *,
    to_file: bool,
    verbose: bool,
    resume: bool,
    settings: bool = False,
) -> str:
    """Render a report in a format for standard output or for a file.

    Raises:
        UsageError: the reporter fails.
    """
    page = make_page(to_file=to_file, verbose=verbose, resume=resume, settings=settings)
    return draw(name, lambda: catalogue.reporters[name].render(report, catalogue.rules, page))


def draws_histograms(name: str, catalogue: Catalogue) -> bool:
    """Return whether the reports of a format draw how the values of ill tensors are distributed."""
    from checkpoint_doctor.plugins.protocols import HistogramReporter

    reporter = catalogue.reporters[name]
    return isinstance(reporter, HistogramReporter) and reporter.draws_histograms


def split_selectors(values: list[str] | None) -> list[str]:
    """Take ``--select A,B --select C`` as three."""
    return [part.strip() for value in values or [] for part in value.split(",") if part.strip()]


def _split_report(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise UsageError(f"--report takes FORMAT=FILE, not {text!r}", "for example --report sarif=ckdoc.sarif")
    return name, path


def warn_of_broken_plugins(catalogue: Catalogue) -> None:
    """Say which plugins are left out of the run, and why.

    Raises:
        UsageError: a part of ckdoc itself is broken, so that a clean run would prove nothing.
    """
    from checkpoint_doctor.plugins.opening import refuse_broken_parts

    refuse_broken_parts(catalogue)
    for plugin in catalogue.broken:
        remark(f"ckdoc: plugin {plugin.name} of {plugin.distribution} is left out: {plugin.problem}")
