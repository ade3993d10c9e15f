"""``ckdoc scan``."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from checkpoint_doctor.cli.completion import complete_reports
from checkpoint_doctor.cli.options import (
    ConfigFile,
    Engine,
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
from checkpoint_doctor.cli.outputs import refuse_outputs
from checkpoint_doctor.cli.reports import READ_BY_PEOPLE, check_format
from checkpoint_doctor.cli.scan_run import RESULTS, Run
from checkpoint_doctor.cli.streaming import refuse_binary_output
from checkpoint_doctor.errors import UsageError

if TYPE_CHECKING:
    from checkpoint_doctor.config.settings import Config
    from checkpoint_doctor.examination.earlier import EarlierResults
    from checkpoint_doctor.plugins.catalogue import Catalogue
    from checkpoint_doctor.results.baseline import Baseline
    from checkpoint_doctor.results.report import Report


ANSWERS = ("terminal", "json", "jsonl")
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
    resume_from: Annotated[
        str,
        typer.Option(metavar="FILE", help="Carry over what an earlier jsonl or json result says of unchanged files."),
    ] = "",
    jobs: Jobs = 0,
    engine: Engine = "",
    quiet: Quiet = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show all layers and hidden findings.")] = False,
    traceback: Traceback = False,
) -> None:
    """Examine checkpoints. Exit code: 0 healthy, 1 ill, 2 unreadable, incomplete or misused, 3 nothing to examine."""
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
    refuse_binary_output(outputs, catalogue)
    written = [*(path for _, path in outputs), write_baseline]
    refuse_outputs(written, [*uris, *configured.origins], tuple(catalogue.suffixes))
    refuse_outputs([path for _, path in outputs], [baseline])
    refuse_outputs([*(path for name, path in outputs if name not in RESULTS), write_baseline], [resume_from])
    known = _read_baseline(baseline) if baseline else None
    run = Run(
        uris,
        catalogue,
        configured,
        outputs,
        known=known,
        write_baseline=write_baseline,
        earlier=_open_earlier(resume_from, outputs, catalogue) if resume_from else None,
        page={"verbose": verbose, "resume": resume, "settings": settings},
        jobs=jobs or None,
        engine=engine or None,
        skip_foreign=skip_foreign,
    )
    result = run.carry_out(quiet=quiet)
    if not quiet:
        on_page = format in READ_BY_PEOPLE and output in ("", "-")
        if format not in ("terminal", "concise"):  # these pages end with the worst themselves
            for case in result.totals.worst_of_many:
                conclude(str(case), on_page=on_page)
        conclude(result.summary_line, on_page=on_page)
    raise typer.Exit(verdict(result))


# Few runs have a baseline or an earlier result, and importing what it needs takes a hundredth of a small scan.


def _read_baseline(file: str) -> Baseline:
    from checkpoint_doctor.results.baseline import read_baseline

    return read_baseline(file)


def _open_earlier(file: str, outputs: Sequence[tuple[str, str]], catalogue: Catalogue) -> EarlierResults | None:
    """Open the results of an earlier run; there are none yet where they are to be written to this very file."""
    from checkpoint_doctor.examination.earlier import EarlierResults

    if not os.path.lexists(file) and file in (path for _, path in outputs):
        return None
    earlier = EarlierResults(file, catalogue.rules)
    if earlier.is_cut_off:
        remark(f"ckdoc: the last line of {file} is cut off, so it is ignored")
    return earlier


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
