"""From a plan to files: copied, patched, proven, recorded, and named only then."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoint_doctor.checkpoint import Checkpoint, Patch
from checkpoint_doctor.errors import DoctorError, RepairFailed, UsageError
from checkpoint_doctor.plugins.protocols import Loader, Reindexer
from checkpoint_doctor.repair.changes import Plan
from checkpoint_doctor.repair.cross_check import CrossCheck
from checkpoint_doctor.repair.hashing import Digest, RunningDigest, sum_of
from checkpoint_doctor.repair.safe_copy import (
    REPORT_IT,
    Snapshot,
    brought_to_disk,
    check_target,
    copy_patched,
    reason,
    take_name,
    temporary_file,
    temporary_folder,
)
from checkpoint_doctor.repair.verification import (
    carry_over,
    compare_bytes,
    compare_findings,
    compare_tensors,
    hidden_layers,
)
from checkpoint_doctor.results.json import write_json
from checkpoint_doctor.results.report import Examination

RECORD_ENDING = ".ckdoc.json"
"""Follows the result's name in that of its record."""


@dataclass(frozen=True)
class Written:
    """A result that has its name."""

    examination: Examination
    """What is found in it."""
    facts: Mapping[str, Any]
    """What the record says about the files."""


@dataclass(frozen=True)
class Writer:
    """Writes one repaired checkpoint with its record; both get their names when the copy is proven."""

    checkpoint: Checkpoint
    examination: Examination
    plan: Plan
    loader: Loader
    snapshot: Snapshot
    """The input as it was before it was opened."""
    digest: RunningDigest
    """The input's sum, begun when the snapshot was taken."""
    target: Path
    force: bool
    rename: Callable[[str], str]
    """From the file name of a shard to that of its repaired copy."""
    examine: Callable[[Path, Callable[[Checkpoint], None]], tuple[Checkpoint, Examination]]
    """Opens a copy, does something with it before it is measured, and examines it."""
    plan_again: Callable[[Checkpoint, Examination], Plan]
    describe: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    """From what is known of the files to the whole record."""
    cross_check: CrossCheck

    def write(self) -> Written:
        """Do all of it.

        Raises:
            DoctorError: the result cannot be written or proven; nothing is left behind.
        """
        self._check(self.target, [self.snapshot.path])
        self._check(self._record, [self.snapshot.path])
        self.cross_check.call(self.checkpoint.format, self.plan.changes)
        patches = self._patch()
        if list(patches) == [self.snapshot.path]:
            return self._write_file(patches[self.snapshot.path])
        if isinstance(self.loader, Reindexer) and self.snapshot.path not in patches:
            return self._write_shards(self.loader, patches)
        raise RepairFailed(f"{self.snapshot.path} cannot be repaired: other files would have to change along with it")

    @property
    def _record(self) -> Path:
        return self.target.with_name(self.target.name + RECORD_ENDING)

    def _check(self, target: Path, inputs: Sequence[Path]) -> None:
        check_target(target, inputs, force=self.force)

    def _patch(self) -> dict[Path, Sequence[Patch]]:
        try:
            patches = self.loader.patch(self.checkpoint, self.plan.new_values)
        except DoctorError:
            raise
        except Exception as error:
            raise RepairFailed(
                f"the loader {self.loader.name} failed with {type(error).__name__}: {error}; nothing was written",
                REPORT_IT,
            ) from error
        if not patches:
            raise RepairFailed(f"the loader {self.loader.name} patches nothing, though there is something to change")
        return {Path(source.name): found for source, found in patches.items()}

    def _write_file(self, patches: Sequence[Patch]) -> Written:
        original, folder = self.snapshot.path, self.target.parent
        with temporary_file(folder, original.name) as copy, temporary_file(folder, original.name) as record:
            with RunningDigest(original, patches, self.digest) as digest:
                copy_patched(original, copy, patches)
                with brought_to_disk([copy]) as wait:
                    compare_bytes(original, copy, patches)
                    found, readers = self._prove(copy, {original: copy}, patches)
                    facts = {
                        "input": _describe_file(original, self.digest.wait()),
                        "output": _describe_file(self.target, digest.wait()),
                        "proof": _describe_proof(len(patches), readers),
                    }
                    _write_bytes(record, write_json(self.describe(facts)).encode())
                    wait()
            self.snapshot.verify()
            take_name(copy, self.target, force=self.force)
            take_name(record, self._record, force=self.force)
        return Written(found, facts)

    def _write_shards(self, loader: Reindexer, patches: Mapping[Path, Sequence[Patch]]) -> Written:
        index, folder = self.snapshot.path, self.target.parent
        if not os.path.samefile(index.parent, folder):
            raise UsageError(
                f"{self.target} would lie apart from the shards that do not change",
                "leave out --output, or name a file in the folder of the index",
            )
        targets = {shard: folder / self.rename(shard.name) for shard in patches}
        for target in targets.values():
            self._check(target, [index, *patches])
        snapshots = [self.snapshot, *map(Snapshot.take, patches)]
        with (
            temporary_folder(folder, index.name) as inside,
            temporary_file(folder, index.name) as new_index,
            temporary_file(folder, index.name) as record,
        ):
            digests = {shard: _copy_shard(shard, inside / shard.name, patches[shard]) for shard in patches}
            _stand_in(index.parent, inside)
            copies = {shard: inside / shard.name for shard in patches}
            with brought_to_disk(list(copies.values())) as wait:
                found, readers = self._prove(inside / index.name, copies)
                wait()
            _write_bytes(
                new_index,
                loader.reindex(self.checkpoint, {shard.name: target.name for shard, target in targets.items()}),
            )
            for snapshot in snapshots:
                snapshot.verify()
            facts = {
                "input": _describe_file(index, self.digest.wait()),
                "output": _describe_file(self.target, sum_of(new_index)),
                "shards": [
                    {"input": _describe_file(shard, before), "output": _describe_file(targets[shard], after)}
                    for shard, (before, after) in digests.items()
                ],
                "proof": _describe_proof(sum(map(len, patches.values())), readers),
            }
            _write_bytes(record, write_json(self.describe(facts)).encode())
            with _undone_on_failure() as named:
                for shard, target in targets.items():
                    take_name(inside / shard.name, target, force=self.force)
                    named.append(target)
                self._reopen(new_index, ())
                take_name(new_index, self.target, force=self.force)
            take_name(record, self._record, force=self.force)
        return Written(found, facts)

    def _prove(
        self, copy: Path, copies: Mapping[Path, Path], patches: Sequence[Patch] = ()
    ) -> tuple[Examination, tuple[str, ...]]:
        """Return what is found in the copy, and which libraries read it.

        Raises:
            RepairFailed: the copy is not what it should be.
        """
        reopened, found = self._reopen(copy, patches)
        again, hidden = self.plan_again(reopened, found), hidden_layers(self.checkpoint)
        compare_findings(self.examination, found, self.plan, again, hidden)
        return found, self.cross_check.ask(self.checkpoint.format, copies, self.plan.changes)

    def _reopen(self, copy: Path, patches: Sequence[Patch]) -> tuple[Checkpoint, Examination]:
        try:
            reopened, found = self.examine(copy, lambda opened: carry_over(self.checkpoint, opened, self.plan, patches))
        except DoctorError as error:
            raise RepairFailed(
                f"this is a fault in ckdoc: the copy cannot be read ({error.message}); nothing was written", REPORT_IT
            ) from None
        compare_tensors(self.checkpoint, reopened, self.plan)
        return reopened, found


def _copy_shard(shard: Path, copy: Path, patches: Sequence[Patch]) -> tuple[Digest, Digest]:
    with RunningDigest(shard) as before, RunningDigest(shard, patches, before) as after:
        copy_patched(shard, copy, patches)
        compare_bytes(shard, copy, patches)
        return before.wait(), after.wait()


@contextlib.contextmanager
def _undone_on_failure() -> Iterator[list[Path]]:
    """Yield a list of files that are removed if what follows fails."""
    named: list[Path] = []
    try:
        yield named
    except BaseException:
        for path in named:
            path.unlink(missing_ok=True)
        raise


def _stand_in(folder: Path, inside: Path) -> None:
    """Let a folder show the files of another that it does not hold itself."""
    for each in folder.resolve().iterdir():
        stand_in = inside / each.name
        if each.is_file() and not each.name.startswith(".") and not stand_in.exists():
            stand_in.symlink_to(each)


def _describe_file(path: Path, digest: Digest) -> dict[str, Any]:
    return {"path": str(path), "size": digest.size, "sha256": digest.sha256}


def _describe_proof(patches: int, readers: Sequence[str]) -> dict[str, Any]:
    return {"patches": patches, "read_by": list(readers)}


def _write_bytes(path: Path, content: bytes) -> None:
    try:
        with open(path, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(path, 0o644)
    except OSError as error:
        raise RepairFailed(f"cannot write {path}: {reason(error)}", "make room on the disk") from None
