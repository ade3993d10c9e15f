"""SHA-256 sums that threads take beside other work, of files as they are and as they will be with patches."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from checkpoint_doctor.checkpoint import Patch
from checkpoint_doctor.errors import RepairFailed
from checkpoint_doctor.repair import hashing
from checkpoint_doctor.repair.hashing import Digest, RunningDigest, read_patched, sum_of

BYTES = bytes(range(256)) * 2


def patched(patches: list[Patch]) -> bytes:
    new = bytearray(BYTES)
    for patch in patches:
        new[patch.offset : patch.offset + len(patch.new)] = patch.new
    return bytes(new)


@some.composite
def disjoint_patches(draw: some.DrawFn) -> list[Patch]:
    cuts = sorted(draw(some.sets(some.integers(0, len(BYTES)), min_size=2, max_size=10)))
    spans = list(zip(cuts[::2], cuts[1::2], strict=False))
    patches = [
        Patch(start, BYTES[start:end], draw(some.binary(min_size=end - start, max_size=end - start)))
        for start, end in spans
    ]
    return draw(some.permutations(patches))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(hashing, "BLOCK", 16)
    monkeypatch.setattr(hashing, "MARK", 64)
    path = tmp_path / "model.pt"
    path.write_bytes(BYTES)
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(patches=disjoint_patches())
def test_both_sums_are_those_of_the_bytes(patches: list[Patch], file: Path) -> None:
    new = patched(patches)
    assert b"".join(bytes(block) for block in read_patched(file, patches)) == new
    with RunningDigest(file) as before, RunningDigest(file, patches, before) as after:
        assert [before.wait(), after.wait()] == [Digest(512, hashlib.sha256(each).hexdigest()) for each in (BYTES, new)]
    assert file.read_bytes() == BYTES


def test_a_copy_shares_its_originals_sum_up_to_the_first_patch(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = []
    original = hashing.read_patched

    def read(path: Path, patches: list[Patch], start: int = 0):
        starts.append(start)
        return original(path, patches, start)

    monkeypatch.setattr(hashing, "read_patched", read)
    patches = [Patch(400, BYTES[400:402], b"xy"), Patch(300, BYTES[300:302], b"xy")]
    with RunningDigest(file) as before, RunningDigest(file, patches, before) as after:
        after.wait()
    assert sorted(starts) == [0, 256]


def test_an_empty_file_has_a_sum(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert sum_of(tmp_path / "empty") == Digest(0, hashlib.sha256().hexdigest())


def test_a_patch_of_other_bytes_is_refused(file: Path) -> None:
    with RunningDigest(file, [Patch(3, b"xx", b"yy")]) as digest, pytest.raises(RepairFailed, match="does not fit"):
        digest.wait()


def test_a_file_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RepairFailed, match="no such file"):
        sum_of(tmp_path / "gone")


def test_a_sum_that_nobody_waits_for_is_abandoned(tmp_path: Path) -> None:
    path = tmp_path / "endless"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    last = [Patch((1 << 40) - 1, b"\0", b"\1")]
    with RunningDigest(path) as before, RunningDigest(path, last, before) as after:
        pass
    for each in (before, after):
        with pytest.raises(RuntimeError, match="abandoned"):
            each.wait()
    assert not [each for each in threading.enumerate() if each.name.startswith("SHA-256")]


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RepairFailed, match="cannot read"):
        sum_of(tmp_path / "pipe")
