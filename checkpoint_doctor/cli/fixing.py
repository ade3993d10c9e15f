"""``ckdoc fix``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from checkpoint_doctor.cli.completion import complete_rules
from checkpoint_doctor.cli.options import (
    ConfigFile,
    Exclude,
    FailOn,
    Ignore,
    Include,
    Jobs,
    Preview,
    Quiet,
    Traceback,
    Uris,
)
from checkpoint_doctor.cli.output import FAILED, HEALTHY, ILL, conclude, is_terminal, page_width, say, say_document
from checkpoint_doctor.cli.scanning import prepare
from checkpoint_doctor.text import printable

if TYPE_CHECKING:
    from checkpoint_doctor.acts.fix import FixResult
    from checkpoint_doctor.repair.changes import Unfixed
    from checkpoint_doctor.repair.record import ChangeRecord, Figures
    from checkpoint_doctor.results.findings import Severity


class Form(str, Enum):
    """How the result is printed."""

    TERMINAL = "terminal"
    JSON = "json"


def fix(
    uris: Uris,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Name of the result, or folder for the results.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show the plan, write nothing.")] = False,
    recycle: Annotated[
        bool, typer.Option("--recycle", help="Also recycle dormant units, so that they can learn again.")
    ] = False,
    unsafe: Annotated[
        bool, typer.Option("--unsafe", help="Also reinitialise unrecoverable values (NaN, zeroed matrices).")
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Random seed; the same input and seed give the same bytes.")
    ] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing result, never the input.")] = False,
    format: Annotated[Form, typer.Option("--format", "-f", help="How to print the result.")] = Form.TERMINAL,
    select: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODE", help="Fix only findings of these rules, notes included.", autocompletion=complete_rules
        ),
    ] = None,
    ignore: Ignore = None,
    exclude: Exclude = None,
    include: Include = None,
    fail_on: Annotated[
        FailOn | None,
        typer.Option(
            help="Lowest severity of a remaining finding that fails the run; error unless configured.",
            show_default=False,
        ),
    ] = None,
    config: ConfigFile = "",
    preview: Preview = False,
    jobs: Jobs = 0,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Write repaired copies, <stem>_FIXED<suffix>. Exit code: 0 fixed, 1 ill or relieved, 2 failed, 3 nothing found."""
    from checkpoint_doctor.acts.fix import FixOptions
    from checkpoint_doctor.acts.fix import fix as repair
    from checkpoint_doctor.cli.progress import show_progress

    catalogue, settings = prepare(config, select, ignore, fail_on, exclude, include, preview=preview)
    options = FixOptions(recycle, unsafe, seed, notes=bool(select), force=force, dry_run=dry_run, output=output)
    with show_progress(quiet=quiet) as on_progress:
        results = repair(
            uris, options, catalogue=catalogue, config=settings, jobs=jobs or None, on_progress=on_progress
        )
    if format is Form.JSON:
        from checkpoint_doctor.repair.record import head
        from checkpoint_doctor.results.json import write_json

        say_document(write_json({**head(), "operations": [dict(each.record) for each in results]}))
    else:
        for result in results:
            say("\n".join(draw(result)))
    if not quiet:
        conclude(_sum_up(results), on_page=format is Form.TERMINAL)
    raise typer.Exit(FAILED if catalogue.left_out else _verdict(results, settings.fail_on))


def _verdict(results: Sequence[FixResult], fail_on: Severity | None) -> int:
    examined = [result.examination for result in results if result.examination is not None]
    if any(result.error is not None for result in results) or any(each.crashes for each in examined):
        return FAILED
    return ILL if any(result.leaves_illness(fail_on) for result in results) else HEALTHY


def _sum_up(results: Sequence[FixResult]) -> str:
    from collections import Counter

    from checkpoint_doctor.acts.fix import Outcome
    from checkpoint_doctor.repair.changes import Purpose
    from checkpoint_doctor.text import quantity

    counts = Counter(result.outcome for result in results)
    parts = [f"{number:,} {outcome.value}" for outcome, number in counts.items()]
    changes = [each for result in results for each in result.summary.changes]
    moments = sum(each.purpose is Purpose.MOMENT for each in changes)
    what = quantity(len(changes) - moments, "tensor") + (f" and {quantity(moments, 'moment')}" if moments else "")
    done = "to change" if counts[Outcome.PLANNED] else "changed"
    return f"{quantity(len(results), 'checkpoint')}: {', '.join(parts)}; {what} {done}"


def draw(result: FixResult) -> Iterator[str]:
    """Yield the lines about one checkpoint: what was changed, what does not last, what is not fixed, where it is."""
    from checkpoint_doctor.acts.fix import Outcome
    from checkpoint_doctor.repair.changes import Purpose

    title = {
        Outcome.FIXED: "FIXED",
        Outcome.RELIEVED: "RELIEVED, NOT FIXED",
        Outcome.PLANNED: "PLAN",
        Outcome.NOTHING: "NOTHING TO FIX",
        Outcome.FAILED: "FAILED",
    }
    yield f"{title[result.outcome]} · {printable(result.path)}"
    if result.error is not None:
        yield from _wrap(result.error, "  ")
        if result.hint:
            yield from _wrap(f"hint: {result.hint}", "  ")
        return
    summary = result.summary
    tensors = [each for each in summary.changes if each.purpose is not Purpose.MOMENT]
    if tensors:
        yield ""
        yield from _draw_table(tensors)
    moments = summary.counted(Purpose.MOMENT)
    if moments:
        entries = sum(each.entries for each in moments)
        yield ""
        yield from _wrap(
            f"also {entries:,} entries in {len(moments):,} of the optimizer's moments: first moments and momentum "
            "become 0, second moments the median of the healthy entries",
            "  ",
        )
    for diagnosis in result.treated:
        yield ""
        state = "the cause remains" if diagnosis in result.lasting else "cured, unless it is done again"
        yield from _wrap(f"{state}: {diagnosis.cause} ({diagnosis.certainty.label}): {diagnosis.message}", "  ! ")
        for words in (diagnosis.advice, f"write: {diagnosis.remedy}" if diagnosis.remedy else ""):
            if words:
                yield from _wrap(words, "    ")
    findings = result.examination.findings if result.examination else ()
    explained = {findings[position].advice for diagnosis in result.treated for position in diagnosis.explains}
    for advice in dict.fromkeys(each.advice for each in summary.upstream if each.advice not in explained):
        subjects = _list([each.subject for each in summary.upstream if each.advice == advice])
        yield ""
        yield from _wrap(f"does not last in {subjects} while the cause remains. {advice}", "  ! ")
    yield from _draw_unfixed(summary.unfixed)
    yield ""
    if result.outcome in (Outcome.FIXED, Outcome.RELIEVED):
        yield from _wrap(f"written and verified: {result.output}", "  ")
        yield from _wrap(f"record: {result.output}.ckdoc.json", "  ")
    elif result.outcome is Outcome.PLANNED:
        yield from _wrap(f"nothing was written; without --dry-run the result would be {result.output}", "  ")
    elif summary.unfixed:
        yield from _wrap("none of its findings can be fixed with these options, so nothing was written", "  ")
    else:
        yield from _wrap("nothing needs a repair, so nothing was written", "  ")


def _draw_unfixed(unfixed: Sequence[Unfixed]) -> Iterator[str]:
    """Yield what is not fixed, and why; of findings that share rule, reason and advice, the first with its figures."""
    groups: dict[tuple[str, ...], list[Unfixed]] = {}
    for each in unfixed:
        groups.setdefault((each.code, each.why, each.advice), []).append(each)
    for left, *others in groups.values():
        yield ""
        yield from _wrap(f"not fixed: {left.code} {left.name} in {left.subject}, because {left.why}", "  – ")
        yield from _wrap(left.message, "    ")
        if others:
            yield from _wrap(f"the same holds for {_list([each.subject for each in others])}", "    ")
        if left.advice:
            yield from _wrap(f"advice: {left.advice}", "    ")


def _list(subjects: Sequence[str]) -> str:
    return ", ".join(subjects[:3]) + (f" and {len(subjects) - 3:,} more" if len(subjects) > 3 else "")


def _draw_table(changes: Sequence[ChangeRecord]) -> Iterator[str]:
    """Yield the plan as a table that fits the page: two lines for each tensor where one is too short."""
    width = page_width()
    rows = [
        (_name(each), " ".join(each.rules), printable(each.init_rule), _share(each), _span(each)) for each in changes
    ]
    if width >= 120:
        columns = [min(max(len(row[column]) for row in rows), limit) for column, limit in enumerate((60, 16, 44, 18))]
        for row in rows:
            cells = [cell.ljust(size) for cell, size in zip(row, columns, strict=False)]
            yield f"  {'  '.join(cells)}  {row[4]}".rstrip()
        return
    for name, codes, init_rule, share, span in rows:
        yield from _wrap(f"{name}  {codes}".rstrip(), "  ")
        yield from _wrap(f"{share}: {init_rule}", "      ")
        yield from _wrap(span, "      ")


def _name(change: ChangeRecord) -> str:
    return f"{printable(change.tensor)} (as {printable(change.of)})" if change.of else printable(change.tensor)


def _share(change: ChangeRecord) -> str:
    return f"all {change.size:,}" if change.entries == change.size else f"{change.entries:,} of {change.size:,}"


def _span(change: ChangeRecord) -> str:
    return f"{_figures(change.before)} → {_figures(change.after)}"


def _figures(figures: Figures) -> str:
    if figures.minimum is None or figures.maximum is None:
        words = "not a finite number"
    elif figures.minimum == figures.maximum:
        words = f"{figures.minimum:.3g}"
    else:
        words = f"{figures.minimum:.3g} to {figures.maximum:.3g}"
    zeros = f", {figures.zeros:,} zero" if figures.zeros else ""
    nonfinite = f", {figures.nonfinite:,} not finite" if figures.nonfinite else ""
    return f"[{words}{zeros}{nonfinite}]"


def _wrap(text: str, indent: str) -> Iterator[str]:
    import textwrap

    width = min(page_width(), 120) if is_terminal(sys.stdout) else page_width()
    yield from textwrap.wrap(
        printable(text),
        width,
        initial_indent=indent,
        subsequent_indent=" " * len(indent),
        break_long_words=False,
        break_on_hyphens=False,
    )
