"""Copies of small files: their bytes, their permissions, their names, and what is left behind when something fails."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from checkpoint_doctor.checkpoint import Patch
from checkpoint_doctor.errors import RepairFailed, UsageError
from checkpoint_doctor.repair import safe_copy
from checkpoint_doctor.repair.changes import Purpose
from checkpoint_doctor.repair.planning import plan_repairs
from checkpoint_doctor.repair.record import Figures, Summary, describe_repair
from checkpoint_doctor.repair.safe_copy import (
    Snapshot,
    check_target,
    copy_patched,
    synced_in_background,
    take_name,
)
from checkpoint_doctor.results.json import write_json
from checkpoint_doctor.sources.targets import temporary_file, temporary_folder
from tests.test_planning import BIAS, SQUARES, finding, to, with_state

OLD = bytes(range(200))
PATCHES = [Patch(40, OLD[40:43], b"abc"), Patch(197, OLD[197:200], b"xyz")]
NEW = OLD[:40] + b"abc" + OLD[43:197] + b"xyz"


@pytest.fixture
def original(tmp_path: Path) -> Path:
    path = tmp_path / "original.bin"
    path.write_bytes(OLD)
    return path


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("mode", [0o640, 0o444, 0o755])
def test_a_copy_has_the_patches_and_the_permissions(exists: bool, mode: int, original: Path) -> None:
    original.chmod(mode)
    copy = original.with_name("copy")
    if exists:
        copy.write_bytes(b"")
    copy_patched(original, copy, PATCHES)
    assert copy.read_bytes() == NEW
    assert copy.stat().st_mode & 0o7777 == mode


def refuse(code: int) -> Any:
    def call(*_: Any, **__: Any) -> int:
        raise OSError(code, os.strerror(code))

    return call


CODES = [errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF]


@pytest.mark.parametrize("call", [*map(refuse, CODES), lambda *_, **__: 0], ids=[*map(errno.errorcode.get, CODES), "0"])
def test_where_the_system_does_not_copy_it_is_done_by_hand(
    call: Any, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "copy_file_range", call)
    written = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, offset: written(file, bytes(content)[:7], offset))
    copy_patched(original, original.with_name("copy"), PATCHES)
    assert original.with_name("copy").read_bytes() == NEW


def test_a_disk_that_fails_is_one_sentence(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "copy_file_range", refuse(errno.EIO))
    with pytest.raises(RepairFailed, match=r"cannot write the repaired copy of .*: input/output error"):
        copy_patched(original, original.with_name("copy"), [])


def test_large_files_are_copied_in_pieces(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_copy, "CHUNK", 64)
    sizes: list[int] = []
    whole = os.copy_file_range

    def call(source: int, target: int, count: int, *offsets: int) -> int:
        sizes.append(count)
        return whole(source, target, count, *offsets)

    monkeypatch.setattr(os, "copy_file_range", call)
    copy_patched(original, original.with_name("copy"), PATCHES)
    assert original.with_name("copy").read_bytes() == NEW
    assert sizes == [64, 64, 64, 8]


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        (Patch(40, b"zzz", b"abc"), "are not those that were examined"),
        (Patch(40, OLD[40:43], b"ab"), "changes the file's length"),
        (Patch(199, b"\xc7\xc8", b"ab"), "are not those that were examined"),
    ],
)
def test_a_patch_that_does_not_fit_is_refused(patch: Patch, words: str, original: Path) -> None:
    with pytest.raises(RepairFailed, match=words):
        copy_patched(original, original.with_name("copy"), [patch])


def test_an_input_that_changes_is_noticed(original: Path) -> None:
    snapshot = Snapshot.take(original)
    snapshot.verify()
    os.utime(original, ns=(1, 1))
    with pytest.raises(RepairFailed, match="changed while it was being repaired"):
        snapshot.verify()
    snapshot = Snapshot.take(original)
    original.unlink()
    with pytest.raises(RepairFailed, match=r"cannot look at .*no such file"):
        snapshot.verify()


@pytest.mark.parametrize(
    ("kind", "force", "words"),
    [
        ("nothing", False, ""),
        ("file", False, "exists already"),
        ("file", True, ""),
        ("dangling link", False, "exists already"),
        ("input", True, "is an input itself"),
        ("link to the input", True, "is an input itself"),
        ("hard link", True, "is an input itself"),
        ("folder", True, "is a folder"),
        ("pipe", True, "is a device or a pipe"),
        ("pipe", False, "is a device or a pipe"),
        ("file of an input", True, "is a file of the input"),
    ],
)
def test_a_result_takes_no_name_that_is_not_its_own(kind: str, force: bool, words: str, original: Path) -> None:
    target = original.with_name("target")
    if kind == "file":
        target.write_bytes(b"")
    elif kind == "dangling link":
        target.symlink_to("nowhere")
    elif kind == "link to the input":
        target.symlink_to(original)
    elif kind == "hard link":
        os.link(original, target)
    elif kind == "folder":
        target.mkdir()
    elif kind == "pipe":
        os.mkfifo(target)
    elif kind == "file of an input":
        target.write_bytes(b"")
        original = original.parent
    elif kind == "input":
        target = original
    inputs = [original.with_name("gone"), original]
    if not words:
        check_target(target, inputs, force=force)
        return
    with pytest.raises(UsageError, match=words):
        check_target(target, inputs, force=force)


@pytest.mark.parametrize("make", [temporary_file, temporary_folder])
def test_what_is_temporary_is_hidden_and_gone_afterwards(make: Any, tmp_path: Path) -> None:
    with make(tmp_path, "n" * 200) as path:
        assert path.exists()
        assert path.name.startswith("." + "n" * 100 + ".")
        assert path.name.endswith(".tmp")
        assert "n" * 101 not in path.name
        if path.is_dir():
            (path / "inside").write_bytes(b"")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="no"), make(tmp_path, "name"):
        raise ValueError("no")
    assert list(tmp_path.iterdir()) == []
    with make(tmp_path, "name") as path:
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(UsageError, match=r"cannot write in .*no such file"), make(tmp_path / "none", "name"):
        pass


def test_a_finished_file_takes_its_name_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for attempt, links in enumerate((True, False)):
        if not links:
            monkeypatch.setattr(os, "link", refuse(errno.EPERM))
        temporary, target = tmp_path / f"{attempt}.tmp", tmp_path / f"{attempt}.bin"
        temporary.write_bytes(b"one")
        take_name(temporary, target, force=False)
        assert (target.read_bytes(), temporary.exists()) == (b"one", False)
        temporary.write_bytes(b"other")
        with pytest.raises(UsageError, match="exists already"):
            take_name(temporary, target, force=False)
        assert target.read_bytes() == b"one"
        take_name(temporary, target, force=True)
        assert (target.read_bytes(), temporary.exists()) == (b"other", False)
    temporary.write_bytes(b"")
    with pytest.raises(RepairFailed, match="cannot write"):
        take_name(temporary, tmp_path / "none" / "name", force=True)


def test_a_disk_that_is_full_is_told_by_the_waiting(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with synced_in_background([original]) as wait:
        wait()
    monkeypatch.setattr(os, "fsync", refuse(errno.ENOSPC))
    with (
        synced_in_background([original]) as wait,
        pytest.raises(RepairFailed, match="to the disk: no space left on device"),
    ):
        wait()


# The record


def test_a_record_tells_every_change_with_its_figures() -> None:
    plan = plan_repairs(
        with_state(exp_avg=SQUARES),
        [finding("0.bias", to("0.bias", 5.0), advice="Look."), finding("0.weight", code="NET004", advice="Think.")],
    )
    record = describe_repair("model.pt", "fixed", {"output": "x"}, Summary.of_plan(plan))
    assert (record["path"], record["outcome"], record["output"], record["schema_version"]) == (
        "model.pt",
        "fixed",
        "x",
        1,
    )
    (tensor,), (moment,) = record["tensors"], record["optimizer"]
    assert tensor == {
        "tensor": "0.bias", "purpose": "repair", "of": None, "rules": ["ZER003"], "illness": "0.bias is ill",
        "treatment": "zeros become 5", "entries": {"changed": 2, "of": 4, "ranges": [[0, 1], [2, 3]]}, "tied": [],
        "before": {
            "minimum": 0.0, "maximum": 3.0, "mean": 1.0, "std": pytest.approx(BIAS.std()), "zeros": 2, "nonfinite": 0,
        },
        "after": {
            "minimum": 1.0, "maximum": 5.0, "mean": 3.5, "std": pytest.approx(2.75**0.5), "zeros": 0, "nonfinite": 0,
        },
    }  # fmt: skip
    assert (moment["tensor"], moment["purpose"], moment["of"]) == ("optimizer/0.bias/exp_avg", "optimizer", "0.bias")
    assert (moment["rules"], moment["illness"]) == ([], None)
    (left,) = record["not_fixed"]
    assert (left["code"], left["severity"], left["subject"]) == ("NET004", "warning", "0.weight")
    assert (left["why"], left["advice"]) == ("there is no documented repair for it", "Think.")
    assert record["will_not_last"] == [{"subject": "0.bias", "advice": "Look."}]
    assert Summary.of_plan(plan).counted(Purpose.REPAIR)[0].tensor == "0.bias"
    assert "tensors" not in describe_repair("model.pt", "failed", {})


def test_numbers_that_json_cannot_write_are_null() -> None:
    infinite = Figures(-np.inf, np.inf, np.nan, None, 0, 3)
    plan = plan_repairs(with_state(exp_avg=SQUARES), [finding("0.bias", to("0.bias", 5.0))])
    (change, *_) = Summary.of_plan(plan).changes
    summary = Summary((replace(change, before=infinite),))
    (told,) = describe_repair("model.pt", "fixed", {}, summary)["tensors"]
    assert told["before"] == {
        "minimum": None, "maximum": None, "mean": None, "std": None, "zeros": 0, "nonfinite": 3
    }  # fmt: skip
    assert "Infinity" not in write_json(told)
