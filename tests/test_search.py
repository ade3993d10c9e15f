"""A search through a folder: which files it looks at, and what it passes over."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from checkpoint_doctor.errors import NotACheckpoint, NothingToExamine, UsageError
from checkpoint_doctor.fix import result_name
from checkpoint_doctor.loaders.torch.loader import loader
from checkpoint_doctor.plugins.opening import open_checkpoint
from checkpoint_doctor.results.json import to_json
from checkpoint_doctor.results.json_reading import from_json
from checkpoint_doctor.results.report import Verdict
from checkpoint_doctor.scan import scan


def save_model(path: Path) -> bytes:
    torch.manual_seed(0)
    torch.save({"state_dict": torch.nn.Linear(8, 4).state_dict()}, path)
    return path.read_bytes()


def save_tar(path: Path, *members: tuple[str, bytes], format: int = tarfile.GNU_FORMAT) -> None:
    with tarfile.open(path, "w", format=format) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def found_in(folder: Path) -> list[str]:
    report = scan([folder])
    assert all(each.verdict is Verdict.HEALTHY for each in report.checkpoints)
    return [Path(each.path).name for each in report.checkpoints]


@pytest.mark.parametrize(
    "name", ["checkpoint.pth.tar", "model_best.tar", "MODEL.PT", "last.Ckpt", "ppo.cleanrl_model", "a.PTH.TAR"]
)
def test_a_checkpoint_is_found_by_the_endings_that_training_code_uses(name: str, tmp_path: Path) -> None:
    save_model(tmp_path / name)
    assert found_in(tmp_path) == [name]


def test_shards_with_an_index_are_examined_once_in_any_case(tmp_path: Path) -> None:
    weight = {"fc.weight": np.random.default_rng(0).normal(0, 0.1, (4, 8)).astype(np.float32)}
    save_file(weight, tmp_path / "A.SAFETENSORS")
    assert found_in(tmp_path) == ["A.SAFETENSORS"]
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"fc.weight": "A.SAFETENSORS"}}')
    assert found_in(tmp_path) == ["model.safetensors.index.json"]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_archive_is_named_and_passed_over_also_where_it_ends_with_a_checkpoint(
    format: int, tmp_path: Path, fixtures: Path
) -> None:
    model = save_model(tmp_path / "model.pth.tar")
    save_tar(tmp_path / "images.tar", ("cat.jpg", b"\xff\xd8\xff"), format=format)
    save_tar(tmp_path / "runs.tar", ("notes.txt", b"run 1"), ("model.pth", model), format=format)
    save_tar(tmp_path / "agent.tar", ("a.zip", (fixtures / "case_1_healthy.zip").read_bytes()), format=format)
    save_tar(tmp_path / "old.pth.tar", ("storages", b""), ("tensors", b""), ("pickle", b""), format=format)
    assert found_in(tmp_path) == ["model.pth.tar"]
    for name, words in {
        "images.tar": "is a tar archive", "runs.tar": "is a tar archive", "agent.tar": "is a tar archive",
        "old.pth.tar": "the tar archive that PyTorch wrote before version 0.1.10",
    }.items():  # fmt: skip
        with pytest.raises(NotACheckpoint, match=words):
            open_checkpoint(tmp_path / name)
        (named,) = scan([tmp_path / name]).checkpoints
        assert named.verdict is Verdict.UNREADABLE


def test_a_folder_of_tar_archives_alone_has_nothing_to_examine(tmp_path: Path) -> None:
    save_tar(tmp_path / "images.tar", ("cat.jpg", b"\xff\xd8\xff"))
    with pytest.raises(NothingToExamine):
        scan([tmp_path])


def test_an_exported_program_is_found_by_a_search(tmp_path: Path) -> None:
    program = torch.export.export(torch.nn.Linear(3, 2), (torch.ones(1, 3),))
    torch.export.save(program, tmp_path / "program.pt2")
    assert found_in(tmp_path) == ["program.pt2"]


@pytest.mark.parametrize(
    ("name", "repaired"),
    [
        ("model.pth.tar", "model_FIXED.pth.tar"),
        ("MODEL.PTH.TAR", "MODEL_FIXED.PTH.TAR"),
        ("best.PT", "best_FIXED.PT"),
        ("best.tar", "best_FIXED.tar"),
        ("best.other", "best_FIXED.other"),
        ("best", "best_FIXED"),
        (".pt", ".pt_FIXED"),
    ],
)
def test_a_copy_keeps_the_whole_ending(name: str, repaired: str) -> None:
    assert result_name(name, loader.suffixes) == repaired


def test_a_search_says_how_many_files_it_passed_over_and_what_they_are(tmp_path: Path) -> None:
    save_model(tmp_path / "model.pt")
    save_tar(tmp_path / "images.tar", ("cat.jpg", b"\xff\xd8\xff"))
    torch.save({"last_epoch": 3, "_step_count": 4}, tmp_path / "scheduler.pt")
    report = scan([tmp_path])
    assert {Path(each.what).name: each.why for each in report.passed_over} == {
        "images.tar": "is a tar archive",
        "scheduler.pt": "contains no tensors: a dictionary with last_epoch, _step_count",
    }
    assert report.summary_line.endswith("2 other files passed over")
    assert from_json(to_json(report)).passed_over == report.passed_over


def test_the_address_of_a_remote_file_is_refused_with_a_sentence() -> None:
    with pytest.raises(UsageError, match="is an address, and only files on this machine are read"):
        scan(["https://example.org/model.pt"])
