"""Reports that are written while the run goes on, so that no examination has to be kept for them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, BinaryIO, cast

from checkpoint_doctor.cli.output import DocumentStream, ReaderGone, remark, say
from checkpoint_doctor.cli.outputs import OutputFile
from checkpoint_doctor.cli.reports import READ_BY_PEOPLE, draw, make_page
from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.plugins.protocols import StreamReporter
from checkpoint_doctor.text import quantity

if TYPE_CHECKING:
    from checkpoint_doctor.examination.earlier import EarlierResults
    from checkpoint_doctor.plugins.catalogue import Catalogue
    from checkpoint_doctor.results.report import Examination, Report

Target = tuple[str, str]
"""A format, and the path that it is written to; empty for standard output."""


def is_streamed(name: str, catalogue: Catalogue) -> bool:
    """Return whether the entries of a format are written one by one."""
    return isinstance(catalogue.reporters[name], StreamReporter)


def refuse_binary_output(targets: Iterable[Target], catalogue: Catalogue) -> None:
    """Make sure that a format that is no text goes to a file.

    Raises:
        UsageError: it would be printed.
    """
    for name, path in targets:
        reporter = catalogue.reporters[name]
        if not path and isinstance(reporter, StreamReporter) and reporter.is_binary:
            raise UsageError(f"{name} is not text, so it is not printed", f"write it to a file with -o report.{name}")


class StreamedOutput:
    """One report that is written while the run goes on."""

    def __init__(self, name: str, path: str, catalogue: Catalogue) -> None:
        self.name = name
        self.file = OutputFile(path) if path else None
        self._is_for_people = not path and name in READ_BY_PEOPLE
        self._reader_gone: ReaderGone | None = None
        self._stream = self._open()
        reporter = cast(StreamReporter, catalogue.reporters[name])
        page = make_page(to_file=bool(path))
        self._writer = draw(name, lambda: reporter.open_stream(self._stream, catalogue.rules, page))

    def _open(self) -> BinaryIO:
        if self.file:
            return self.file.stream
        return io.BytesIO() if self._is_for_people else cast(BinaryIO, DocumentStream())

    def add(self, examination: Examination) -> None:
        """Write the entry of one more checkpoint. Raises as ``say``; for a reader that has gone, in ``finish``."""
        if self._reader_gone is None:
            try:
                draw(self.name, lambda: self._writer.add(examination))
            except ReaderGone as gone:
                self._reader_gone = gone

    @property
    def is_read(self) -> bool:
        """False once the reader of standard output has gone."""
        return self._reader_gone is None

    def finish(self, report: Report) -> None:
        """Write the end, and give a file its name. Raises as ``say``."""
        if self._reader_gone:
            raise self._reader_gone
        draw(self.name, lambda: self._writer.finish(report))
        if self._is_for_people:
            say(cast(io.BytesIO, self._stream).getvalue().decode())
        if self.file:
            self.file.commit()


class StreamedOutputs:
    """All reports of a run that are written while it goes on."""

    def __init__(self, outputs: list[StreamedOutput], earlier: EarlierResults | None) -> None:
        self._outputs = outputs
        self._earlier = earlier
        self._written: set[str] = set()

    def add(self, examination: Examination, *, is_last_use: bool) -> None:
        """Write the entries of one more checkpoint.

        ``is_last_use`` says that nothing else comes of the run, so that it ends where nobody reads it any more.
        """
        for output in self._outputs:
            output.add(examination)
        self._written.add(examination.path)
        if is_last_use and self._outputs and not any(output.is_read for output in self._outputs):
            raise ReaderGone("the reader of standard output has closed it")

    def finish(self, report: Report) -> None:
        """Write the ends of all reports, that on standard output last: nobody may be there to read it."""
        for output in sorted(self._outputs, key=lambda each: each.file is None):
            output.finish(report)

    def keep_unfinished(self) -> None:
        """After an interruption, give the files their names that a later run can go on from.

        A file that was there before is only replaced where it is the earlier result of this run, whose other entries
        are written too.
        """
        for output in self._outputs:
            if output.file and output.name == "jsonl" and self._written:
                if self._earlier and self._earlier.is_file_at(output.file.path):
                    for line in self._earlier.list_lines(besides=self._written):
                        output.file.stream.write(line)
                elif output.file.replaces:
                    continue
                output.file.commit()
                remark(
                    f"ckdoc: {output.file.path} holds what was found in {quantity(len(self._written), 'checkpoint')}: "
                    f"go on with --resume-from {output.file.path}"
                )


@contextmanager
def open_outputs(
    targets: Iterable[Target], catalogue: Catalogue, earlier: EarlierResults | None
) -> Iterator[StreamedOutputs]:
    """Open the reports of some formats; what does not come to its end leaves no file, but see ``keep_unfinished``.

    Raises:
        UsageError: a file cannot be written, or the library that writes its format is not installed.
    """
    with ExitStack() as stack:
        opened: list[StreamedOutput] = []
        for name, path in targets:
            output = StreamedOutput(name, path, catalogue)
            if output.file:
                stack.callback(output.file.discard)
            opened.append(output)
        outputs = StreamedOutputs(opened, earlier)
        try:
            yield outputs
        except KeyboardInterrupt:
            outputs.keep_unfinished()
            raise
