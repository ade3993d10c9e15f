"""Writing a patched copy of a checkpoint, a file or a folder, which gets its name only when it is found right.

``write_copy`` yields the copy under a temporary name. Inside the ``with`` block it is opened, examined and compared;
``Copy.publish`` then gives it its name, and its record. Without that call nothing is left behind.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from checkpoint_doctor.checkpoint import Checkpoint, Patch
from checkpoint_doctor.errors import DoctorError, RepairFailed, UsageError
from checkpoint_doctor.plugins.protocols import Loader, Reindexer
from checkpoint_doctor.repair.changes import Plan
from checkpoint_doctor.repair.hashing import Digest, RunningDigest, sum_of
from checkpoint_doctor.repair.safe_copy import (
    REPORT_IT,
    Snapshot,
    check_target,
    copy_patched,
    reason,
    synced_in_background,
    take_folder_name,
    take_name,
)
from checkpoint_doctor.repair.verification import compare_bytes
from checkpoint_doctor.sources.targets import temporary_file, temporary_folder
from checkpoint_doctor.text import describe_error

RECORD_ENDING = ".ckdoc.json"
"""Follows the result's name in that of its record."""


class Job(Struct, frozen=True):
    """What to write where."""

    checkpoint: Checkpoint
    plan: Plan
    loader: Loader
    snapshot: Snapshot
    """The input as it was before it was opened."""
    digest: RunningDigest | None
    """The input's SHA-256, begun when the snapshot was taken; ``None`` of a folder."""
    target: Path
    shard_names: Callable[[str], str]
    """From the file name of a shard to that of its repaired copy."""
    inputs: Sequence[Path] = ()
    """All checkpoints of the run: none of them is ever replaced."""
    force: bool = False

    @property
    def record(self) -> Path:
        """Where the record goes."""
        return self.target.with_name(self.target.name + RECORD_ENDING)

    def check_target(self, target: Path) -> None:
        """Make sure that a file may take a name. Raises as ``safe_copy.check_target``."""
        check_target(target, [self.snapshot.path, *self.inputs], force=self.force)


class Copy(Struct, frozen=True):
    """A patched copy under a temporary name."""

    path: Path
    """What to open."""
    copies: Mapping[Path, Path]
    """Original file to its copy."""
    patches: Sequence[Patch]
    """Of a single file; empty for shards."""
    count: int
    """How many patches there are in all files."""
    describe: Callable[[], dict[str, Any]]
    """Returns the paths, sizes and SHA-256 of the files for the record, once the copy is on the disk."""
    publish: Callable[[str], None]
    """Gives the files their names, and writes the record with a text."""


@contextlib.contextmanager
def write_copy(job: Job) -> Iterator[Copy]:
    """Write the copy and compare its bytes; yield it for further checks. What was not published is removed.

    Raises:
        UsageError: a name is taken or too long, or the folder cannot be written to.
        RepairFailed: the copy cannot be written, or differs from what was announced.
    """
    for target in (job.target, job.record):
        job.check_target(target)
    patches = _find_patches(job)
    if job.digest is None:
        copy = _write_folder(job, patches)
    elif list(patches) == [job.snapshot.path]:
        copy = _write_file(job, job.digest, patches[job.snapshot.path])
    elif isinstance(job.loader, Reindexer) and job.snapshot.path not in patches:
        copy = _write_shards(job, job.loader, job.digest, patches)
    else:
        raise RepairFailed(f"{job.snapshot.path} cannot be repaired: other files would have to change along with it")
    with copy as written:
        yield written


def _find_patches(job: Job) -> dict[Path, Sequence[Patch]]:
    try:
        patches = job.loader.patch(job.checkpoint, job.plan.new_values)
    except (DoctorError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise RepairFailed(
            f"the loader {job.loader.name} failed with {describe_error(error)}; nothing was written", REPORT_IT
        ) from error
    if not patches:
        raise RepairFailed(f"the loader {job.loader.name} patches nothing, though there is something to change")
    return {Path(source.name): found for source, found in patches.items()}


@contextlib.contextmanager
def _write_file(job: Job, before: RunningDigest, patches: Sequence[Patch]) -> Iterator[Copy]:
    original, folder = job.snapshot.path, job.target.parent
    with (
        temporary_file(folder, original.name) as copy,
        temporary_file(folder, original.name) as record,
        RunningDigest(original, patches, before) as digest,
    ):
        copy_patched(original, copy, patches)
        with synced_in_background([copy]) as wait:
            compare_bytes(original, copy, patches)

            def describe() -> dict[str, Any]:
                wait()
                return {
                    "input": _describe_file(original, before.wait()),
                    "output": _describe_file(job.target, digest.wait()),
                }

            def publish(text: str) -> None:
                _write_bytes(record, text.encode(), like=original)
                job.snapshot.verify()
                with _named_together(force=job.force) as give_name:
                    give_name(copy, job.target)
                    give_name(record, job.record)

            yield Copy(copy, {original: copy}, patches, len(patches), describe, publish)


class _Shards(Struct, frozen=True):
    """The repaired shards of a checkpoint in a temporary folder, beside a new index and links to all other files."""

    job: Job
    before: RunningDigest
    """Of the index."""
    inside: Path
    targets: Mapping[Path, Path]
    """Original shard to the name of its repaired copy."""
    digests: dict[Path, tuple[Digest, Digest]] = field(default_factory=dict)

    @property
    def index(self) -> Path:
        """The new index."""
        return self.inside / self.job.target.name

    def copy_of(self, shard: Path) -> Path:
        """Return where the repaired copy of a shard lies."""
        return self.inside / self.targets[shard].name

    def write(self, loader: Reindexer, patches: Mapping[Path, Sequence[Patch]]) -> None:
        """Write the repaired shards and the index that names them."""
        for shard in patches:
            self.digests[shard] = _copy_shard(shard, self.copy_of(shard), patches[shard])
        renamed = {shard.name: target.name for shard, target in self.targets.items()}
        _write_bytes(self.index, loader.reindex(self.job.checkpoint, renamed), like=self.job.snapshot.path)
        for each in self.job.snapshot.path.parent.resolve().iterdir():
            link = self.inside / each.name
            if each.is_file() and not each.name.startswith(".") and not link.exists():
                link.symlink_to(each)

    def describe(self) -> dict[str, Any]:
        """Return the paths, sizes and sums of all files."""
        return {
            "input": _describe_file(self.job.snapshot.path, self.before.wait()),
            "output": _describe_file(self.job.target, sum_of(self.index)),
            "shards": [
                {"input": _describe_file(shard, before), "output": _describe_file(self.targets[shard], after)}
                for shard, (before, after) in self.digests.items()
            ],
        }

    def publish(self, record: Path, snapshots: Sequence[Snapshot]) -> None:
        """Give the shards, then the index that names them, then the record their names."""
        for snapshot in snapshots:
            snapshot.verify()
        with _named_together(force=self.job.force) as give_name:
            for shard, target in self.targets.items():
                give_name(self.copy_of(shard), target)
            give_name(self.index, self.job.target)
            give_name(record, self.job.record)


@contextlib.contextmanager
def _write_shards(
    job: Job, loader: Reindexer, before: RunningDigest, patches: Mapping[Path, Sequence[Patch]]
) -> Iterator[Copy]:
    index, folder = job.snapshot.path, job.target.parent
    if not os.path.samefile(index.parent, folder):
        raise UsageError(
            f"{job.target} would not lie beside the shards that do not change",
            "leave out --output, or name a file in the folder of the index",
        )
    targets = {shard: folder / job.shard_names(shard.name) for shard in patches}
    for target in targets.values():
        check_target(target, [index, *patches, *job.inputs], force=job.force)
    snapshots = [job.snapshot, *map(Snapshot.take, patches)]
    with temporary_folder(folder, index.name) as inside, temporary_file(folder, index.name) as record:
        shards = _Shards(job, before, inside, targets)
        shards.write(loader, patches)
        copies = {shard: shards.copy_of(shard) for shard in patches}
        with synced_in_background([*copies.values()]) as wait:

            def describe() -> dict[str, Any]:
                wait()
                return shards.describe()

            def publish(text: str) -> None:
                _write_bytes(record, text.encode(), like=index)
                shards.publish(record, snapshots)

            yield Copy(shards.index, copies, (), sum(map(len, patches.values())), describe, publish)


@contextlib.contextmanager
def _write_folder(job: Job, patches: Mapping[Path, Sequence[Patch]]) -> Iterator[Copy]:
    """Copy the files of a checkpoint to a new folder, under the same names, so that it loads as the input does."""
    folder = job.snapshot.path
    names = [part.file for part in job.checkpoint.files]
    if unknown := patches.keys() - {folder / name for name in names}:
        raise RepairFailed(f"{folder} cannot be repaired: {min(unknown)} would have to change along with it")
    if job.target.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{job.target} would lie in {folder}, which is never written to", "name another --output")
    snapshots = [job.snapshot, *(Snapshot.take(folder / name) for name in names)]
    with (
        temporary_folder(job.target.parent, folder.name) as inside,
        temporary_file(job.target.parent, folder.name) as record,
    ):
        digests: dict[str, tuple[Digest, Digest]] = {}
        for name in names:
            (inside / name).parent.mkdir(parents=True, exist_ok=True)
            digests[name] = _copy_shard(folder / name, inside / name, patches.get(folder / name, ()))
        os.chmod(inside, stat.S_IMODE(os.stat(folder).st_mode) & 0o777)
        copies = {original: inside / original.relative_to(folder) for original in patches}
        with synced_in_background([inside / name for name in names]) as wait:

            def describe() -> dict[str, Any]:
                wait()
                return {
                    "input": {"path": str(folder)},
                    "output": {"path": str(job.target)},
                    "files": [
                        {
                            "input": _describe_file(folder / name, before),
                            "output": _describe_file(job.target / name, after),
                        }
                        for name, (before, after) in digests.items()
                    ],
                }

            def publish(text: str) -> None:
                _write_bytes(record, text.encode(), like=folder)
                for snapshot in snapshots:
                    snapshot.verify()
                with _named_together(force=job.force) as give_name:
                    give_name(inside, job.target)
                    give_name(record, job.record)

            yield Copy(inside, copies, (), sum(map(len, patches.values())), describe, publish)


def _copy_shard(shard: Path, copy: Path, patches: Sequence[Patch]) -> tuple[Digest, Digest]:
    with RunningDigest(shard) as before, RunningDigest(shard, patches, before) as after:
        copy_patched(shard, copy, patches)
        compare_bytes(shard, copy, patches)
        return before.wait(), after.wait()


@contextlib.contextmanager
def _named_together(*, force: bool) -> Iterator[Callable[[Path, Path], None]]:
    """Yield what gives a finished file or folder its name; if the block fails, all that were named lose it again."""
    named: list[tuple[Path, Path, os.stat_result]] = []

    def give_name(temporary: Path, target: Path) -> None:
        named.append((temporary, target, os.stat(temporary)))
        if temporary.is_dir():
            take_folder_name(temporary, target)
        else:
            take_name(temporary, target, force=force)

    try:
        yield give_name
    except BaseException:
        for temporary, target, status in named:
            # The name may also have been taken by somebody else, and that may be why the block failed.
            with contextlib.suppress(OSError):
                if os.path.samestat(os.lstat(target), status):
                    os.rename(target, temporary)
        raise


def _describe_file(path: Path, digest: Digest) -> dict[str, Any]:
    return {"path": str(path), "size": digest.size, "sha256": digest.sha256}


def _write_bytes(path: Path, content: bytes, *, like: Path) -> None:
    """Write a file that those may read and write who may do so with another file or folder."""
    try:
        with open(path, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(path, stat.S_IMODE(os.stat(like).st_mode) & 0o666)
    except OSError as error:
        raise RepairFailed(f"cannot write {path}: {reason(error)}", "make room on the disk") from None
