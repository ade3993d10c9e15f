"""What a loader, a reporter and an engine must be able to do. Rules are declared with ``plugins.rule``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, BinaryIO, NoReturn, Protocol, TypeVar, runtime_checkable

from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Checkpoint, Patch, Tensor
from checkpoint_doctor.errors import NotACheckpoint
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.report import Examination, Page, Report
from checkpoint_doctor.sources import Folder, Source

if TYPE_CHECKING:
    from checkpoint_doctor.checkpoint.training_log import LogBuilder
    from checkpoint_doctor.results.log_report import LogReport
    from checkpoint_doctor.results.series_report import SeriesReport

Task = TypeVar("Task")
Result = TypeVar("Result")


class Loader(Protocol):
    """Reads one family of formats, and patches what it reads. An entry point names an instance."""

    name: str
    """The word that reports print as the format."""
    suffixes: tuple[str, ...]
    """File name endings, in any case, by which a folder is searched; content alone decides whether a file is opened."""

    def recognizes(self, source: Source) -> bool:
        """True where the first bytes (or the directory at the end) are of this loader's format. Never raises."""

    def open(self, source: Source) -> Checkpoint:
        """Open a checkpoint without executing anything in it; tensors stay on disk until they are asked for.

        Raises:
            UnreadableCheckpoint: it cannot be opened; the message says why, with expected and found byte counts.
        """

    def patch(self, checkpoint: Checkpoint, changes: Mapping[Tensor, NDArray]) -> Mapping[Source, Sequence[Patch]]:
        """Say which bytes of which files to replace so that tensors get new values and the container stays whole.

        ``changes`` maps tensors of this checkpoint (the model's, an optimizer's, or a ``ParameterGroup``'s settings) to
        arrays of the same shape, which are rounded to the tensor's type. The patches of a file are sorted, do not
        overlap and do not change its size; a file that needs none is left out.

        Raises:
            RepairFailed: the format or this file cannot be patched in place; the message says why. Such a checkpoint is
                opened with ``is_patchable=False``.
            UnreadableCheckpoint: the file can no longer be read.
        """


@runtime_checkable
class Reindexer(Protocol):
    """What a loader can do besides, if its format has an index that names the files of its shards."""

    def reindex(self, checkpoint: Checkpoint, renamed: Mapping[str, str]) -> bytes:
        """Return a checkpoint's index as it must be where some shards have other file names; the rest stays as it is.

        ``renamed`` maps the file name of a shard to the new one, both without a folder.

        Raises:
            RepairFailed: the checkpoint is a single file, or its index names no such shard.
            UnreadableCheckpoint: the index can no longer be read.
        """


@runtime_checkable
class FolderLoader(Protocol):
    """What a loader can do besides, if several files in a folder are one checkpoint of its format."""

    def claim_folder(self, folder: Folder) -> Collection[str]:
        """Return the names of the files and folders directly in a folder that are one checkpoint together.

        Nothing is returned where there is none of this loader's format. What is not claimed is examined by itself, or
        belongs to nobody. Every folder of a search is asked about, so names should decide where they can. Never raises.
        """

    def open_folder(self, folder: Folder) -> Checkpoint:
        """Open the checkpoint in a folder that this loader claimed; see ``Loader.open``.

        Every file of it is one of the checkpoint's ``parts``, with its ``file``. Damage to a part that the model can be
        examined without is a flaw whose ``member`` is the file.

        Raises:
            UnreadableCheckpoint: no part of the model can be read.
        """


class Reporter(Protocol):
    """Turns a report into text. An entry point names an instance; its name is the ``--format``."""

    def render(self, report: Report, rules: Sequence[Rule], page: Page) -> str:
        """Return the whole output; the command line writes it."""


class EntryWriter(Protocol):
    """Writes the report on a run checkpoint by checkpoint, so that none of them has to be kept."""

    def add(self, examination: Examination) -> None:
        """Write what there is to write of one more checkpoint."""

    def finish(self, report: Report) -> None:
        """Write what there is to write of the whole run. Its ``totals`` are known; its ``checkpoints`` are not kept."""


@runtime_checkable
class StreamReporter(Protocol):
    """What a reporter can do besides, if the entries of its format can be written one by one."""

    is_binary: bool
    """True where the format is no text: it is written to files only, and ``render`` raises ``UsageError``."""

    def open_stream(self, stream: BinaryIO, rules: Sequence[Rule], page: Page) -> EntryWriter:
        """Return what writes to a stream, which is flushed and closed by others.

        Raises:
            UsageError: the library that writes the format is not installed.
        """


@runtime_checkable
class SeriesReporter(Protocol):
    """What a reporter can do besides, if its format shows series of checkpoints: ``ckdoc compare``."""

    def render_series(self, report: SeriesReport, rules: Sequence[Rule], page: Page) -> str:
        """Return the whole output; the command line writes it."""


@runtime_checkable
class HistogramReporter(Protocol):
    """What a reporter can do besides, if it draws how the values of ill tensors are distributed."""

    draws_histograms: bool
    """True where tensors with findings need a ``histogram``, which costs another pass over each of them."""


class FoldersOnly:
    """What a loader answers about files where all of its checkpoints are folders."""

    def recognizes(self, source: Source) -> bool:
        """Return false: a file by itself is for the loader of its format."""
        return False

    def open(self, source: Source) -> NoReturn:
        """Raise: there is no file that this loader recognizes.

        Raises:
            NotACheckpoint: always.
        """
        raise NotACheckpoint(f"{source.name} is not a folder", "name the folder that it is in")


class LogReader(Protocol):
    """Reads one kind of training log. An entry point names an instance."""

    name: str
    """The word by which ``ckdoc plugins`` lists it."""
    patterns: tuple[str, ...]
    """Patterns of file names by which a folder is searched; content alone decides whether a file is read."""

    def recognizes(self, source: Source) -> bool:
        """True where the first bytes are those of such a log. Never raises."""

    def read(self, source: Source, builder: LogBuilder, on_read: Callable[[int], None] | None) -> None:
        """Read a log into a builder, in memory that does not grow with the file.

        ``on_read`` is called with the bytes read so far.

        Raises:
            UnreadableCheckpoint: it cannot be read; the message says why.
        """


@runtime_checkable
class LogReporter(Protocol):
    """What a reporter can do besides, if it has a page of its own for training logs."""

    def render_logs(self, report: LogReport, rules: Sequence[Rule], page: Page) -> str:
        """Return the whole output about training logs."""


class LostTask(Struct, frozen=True):
    """Stands in the place of a task's result where the workers that were at it were lost, several in a row."""

    why: str
    """The reason, without a full stop: ``3 workers were lost in a row at this: killed by SIGKILL``."""


class Workers(Protocol):
    """Where an engine carries out tasks, as long as it is started."""

    count: int
    """Tasks that run at the same time. With 1 there is nothing to spread: the scan then does the work itself, on
    threads of its own process."""

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result | LostTask]:
        """Yield what a function returns for each task, in the order of the tasks.

        Function, tasks and results can be pickled; the function is at the top level of a module that workers import.
        Paths in tasks may be relative to the working folder of the driver, in which workers run. Tasks are taken one by
        one, and only a bounded number ahead of the results that were asked for. A task whose worker is lost is begun
        again, on another one; where that does not help, a ``LostTask`` stands in the place of its result. There is one
        call at a time: before the next, this one comes to its end or is closed, and its tasks are ended.

        Raises:
            DoctorError: the function raised it, or there are no workers any more.
        """


class Engine(Protocol):
    """Starts workers. An entry point names an instance; its name is the ``--engine``."""

    name: str
    """The word by which it is chosen."""

    def start(self, jobs: int | None = None) -> AbstractContextManager[Workers]:
        """Return a context in which there are workers: as many as ``jobs``, by default one per core.

        When the context is left, also by an exception, all that was started is ended.

        Raises:
            UsageError: a library or a cluster that it needs is not there.
        """
