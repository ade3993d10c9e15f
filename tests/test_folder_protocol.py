"""Loaders that claim folders: what a search makes of the claim, and what is left to the other loaders."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray
from safetensors.numpy import save_file

from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.checkpoint import Checkpoint, Content, Part, Patch, Tensor
from checkpoint_doctor.errors import NotACheckpoint, UnreadableCheckpoint
from checkpoint_doctor.plugins.catalogue import Catalogue, discover
from checkpoint_doctor.plugins.opening import open_checkpoint
from checkpoint_doctor.results.json import to_json
from checkpoint_doctor.results.json_reading import from_json
from checkpoint_doctor.results.report import Report, Verdict
from checkpoint_doctor.sources import Folder, Source

INSTALLED = discover()
SAFETENSORS = next(each for each in INSTALLED.loaders if each.name == "safetensors")


@dataclass(frozen=True)
class RunLoader:
    """Claims ``run.json``, the weights beside it, and a folder of logs."""

    name: str = "run"
    suffixes: tuple[str, ...] = ()
    problem: Exception | None = None

    def recognizes(self, source: Source) -> bool:
        return False

    def open(self, source: Source) -> Checkpoint:
        raise NotACheckpoint("it is a folder", "")

    def patch(self, checkpoint: Checkpoint, changes: Mapping[Tensor, NDArray]) -> Mapping[Source, Sequence[Patch]]:
        return {}

    def claim_folder(self, folder: Folder) -> Collection[str]:
        if self.problem and not isinstance(self.problem, RuntimeError):
            raise self.problem
        return {"run.json", "weights.safetensors", "logs"} if "run.json" in folder.files else ()

    def open_folder(self, folder: Folder) -> Checkpoint:
        if self.problem:
            raise self.problem
        parts = (
            Part("weights.safetensors", Content.WEIGHTS, file="weights.safetensors"),
            Part("run.json", Content.PROGRESS, file="run.json"),
        )
        return replace(SAFETENSORS.open(folder.open("weights.safetensors")), format=self.name, parts=parts)


def catalogue(loader: RunLoader) -> Catalogue:
    return replace(INSTALLED, loaders=(loader, *INSTALLED.loaders))


def save_weights(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"fc.weight": np.random.default_rng(seed).normal(0, 0.1, (4, 8)).astype(np.float32)}, path)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    save_weights(tmp_path / "runs" / "a" / "weights.safetensors")
    (tmp_path / "runs" / "a" / "run.json").write_text("{}")
    save_weights(tmp_path / "runs" / "a" / "logs" / "old.safetensors", 1)
    save_weights(tmp_path / "runs" / "a" / "other.safetensors", 2)
    save_weights(tmp_path / "runs" / "b" / "model.safetensors", 3)
    return tmp_path / "runs"


def paths(report: Report, folder: Path) -> list[str]:
    return [str(Path(each.path).relative_to(folder)) for each in report.checkpoints]


def test_a_claimed_folder_is_one_entry_and_the_rest_is_examined_file_by_file(run: Path) -> None:
    report = scan([run], catalogue=catalogue(RunLoader()))
    assert paths(report, run) == ["a", "a/other.safetensors", "b/model.safetensors"]
    assert report.checkpoints[0].format == "run"
    assert [(each.file, each.content.word) for each in report.checkpoints[0].parts] == [
        ("weights.safetensors", "weights"), ("run.json", "progress"),
    ]  # fmt: skip


def test_without_a_claim_the_files_are_examined_one_by_one(run: Path) -> None:
    assert paths(scan([run], catalogue=INSTALLED), run) == [
        "a/other.safetensors", "a/weights.safetensors", "a/logs/old.safetensors", "b/model.safetensors",
    ]  # fmt: skip


def test_the_parts_reach_the_json_and_come_back(run: Path) -> None:
    report = scan([run / "a"], catalogue=catalogue(RunLoader()))
    document = to_json(report)
    assert document["checkpoints"][0]["parts"] == [
        {"file": "weights.safetensors", "content": "weights"}, {"file": "run.json", "content": "progress"},
    ]  # fmt: skip
    assert from_json(json.loads(json.dumps(document))).checkpoints[0].parts == report.checkpoints[0].parts


def test_a_loader_that_fails_to_claim_leaves_the_files_to_the_others(run: Path) -> None:
    found = scan([run / "a"], catalogue=catalogue(RunLoader(problem=KeyError("x"))))
    assert len(found.checkpoints) == 3
    assert all(each.verdict is Verdict.HEALTHY for each in found.checkpoints)
    assert "the loader run failed" in found.unsearched[0].why
    assert not found.is_complete


def test_a_loader_that_fails_to_open_is_named(run: Path) -> None:
    with pytest.raises(UnreadableCheckpoint, match=r"the loader run failed on .*RuntimeError"):
        open_checkpoint(run / "a", catalogue(RunLoader(problem=RuntimeError("x"))))


def test_a_folder_that_nobody_claims_is_no_checkpoint(run: Path) -> None:
    with pytest.raises(NotACheckpoint, match="its files are not one checkpoint"):
        open_checkpoint(run, catalogue(RunLoader()))


def test_a_folder_opens_its_own_files_only(run: Path) -> None:
    folder = Folder.read(run / "a")
    assert folder.files == {"run.json", "weights.safetensors", "other.safetensors"}
    assert folder.folders == {"logs"}
    assert folder.enter("logs").files == {"old.safetensors"}
    for name in ("../b/model.safetensors", "missing.pt", "logs", "/etc/hosts", ""):
        with pytest.raises(UnreadableCheckpoint, match=r"has no (file|folder)"):
            folder.open(name)
