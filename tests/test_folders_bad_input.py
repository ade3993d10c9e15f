"""What is wrong with folders: each said in one sentence, the rest examined, nothing executed, never a traceback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from run_folders import STEPS, Classifier, save_shards, save_trainer, save_weights, train
from torch import nn

from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.report import Examination, Verdict
from checkpoint_doctor.sources import local_file

CATALOGUE = discover()
TENSORS = len(Classifier().state_dict())


@pytest.fixture(scope="module")
def trained() -> tuple[Classifier, Any, Any]:
    return train()


@pytest.fixture(params=["safetensors", "bin"])
def folder(request: pytest.FixtureRequest, trained: Any, tmp_path: Path) -> Path:
    return save_trainer(tmp_path / "checkpoint-40", *trained, safe=request.param == "safetensors")


def examine(path: Path) -> Examination:
    (examination,) = scan([path], catalogue=CATALOGUE).checkpoints
    return examination


def only(examination: Examination, code: str) -> Finding:
    (finding,) = [each for each in examination.findings if each.code == code]
    return finding


def wider(width: int, *, words: int = 24) -> torch.optim.Optimizer:
    """Return the optimizer of a classifier of another width."""
    model = Classifier(width, words)
    decayed = [each for each in model.parameters() if each.ndim > 1]
    groups = [{"params": decayed}, {"params": [each for each in model.parameters() if each.ndim < 2]}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(torch.randint(0, words, (4, 6))).sum().backward()
        optimizer.step()
    return optimizer


def test_the_optimizer_of_another_model_is_said(folder: Path) -> None:
    torch.save(wider(20).state_dict(), folder / "optimizer.pt")
    examination = examine(folder)
    finding = only(examination, "OPT002")
    assert "does not fit the model" in finding.message
    assert examination.resume_answer.startswith("does not resume as it was, at step 40")
    assert len(examination.tensors) == TENSORS


@pytest.mark.parametrize("missing", ["frozen backbone", "low rank", "flat", "tied"])
def test_unusual_optimizers_of_this_model_are_no_others(missing: str, trained: Any, folder: Path) -> None:
    model = trained[0]
    parameters = list(model.parameters())
    if missing == "frozen backbone":
        states = [each.shape for each in model.classifier.parameters()]
    elif missing == "low rank":
        states = [(2, each.shape[1]) if each.ndim > 1 else each.shape for each in parameters]
    elif missing == "flat":
        states = [(sum(each.numel() for each in parameters),)]
    else:
        states = [each.shape for each in parameters[1:]]
    state = {
        position: {"step": 40.0, "exp_avg": torch.full(shape, 1e-3), "exp_avg_sq": torch.full(shape, 1e-5)}
        for position, shape in enumerate(states)
    }
    group = {"lr": 0.0015, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "params": list(state)}
    torch.save({"state": state, "param_groups": [group]}, folder / "optimizer.pt")
    torch.save({"last_epoch": 40, "_step_count": 41, "_last_lr": [0.0015]}, folder / "scheduler.pt")
    assert "OPT002" not in {each.code for each in examine(folder).findings}


def test_an_optimizer_in_a_compression_that_is_not_read_leaves_the_weights_examined(folder: Path) -> None:
    path = folder / "optimizer.pt"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            is_data = "/data/" in name
            archive.writestr(name, content, zipfile.ZIP_LZMA if is_data else zipfile.ZIP_STORED)
        archive.writestr("archive/data/999", bytes(70_000), zipfile.ZIP_LZMA)
    examination = examine(folder)
    assert examination.verdict is Verdict.ILL
    assert any("LZMA" in each.message or "method 14" in each.message for each in examination.findings)
    assert len(examination.tensors) == TENSORS


def test_of_two_optimizers_for_one_model_the_one_that_is_loaded_counts(folder: Path) -> None:
    shutil.copy(folder / "optimizer.pt", folder / "optimizer.bin")
    examination = examine(folder)
    assert [(each.what, each.why) for each in examination.skipped] == [
        ("optimizer.bin", "optimizer.pt is beside it, and Trainer loads that one")
    ]
    assert {"optimizer.bin", "optimizer.pt"} <= {part.file for part in examination.parts}
    assert examination.verdict is Verdict.HEALTHY


def test_an_optimizer_of_a_longer_run_is_said(trained: Any, folder: Path) -> None:
    state = trained[1].state_dict()
    for each in state["state"].values():
        each["step"] = torch.tensor(400.0)
    torch.save(state, folder / "optimizer.pt")
    examination = examine(folder)
    message = only(examination, "RES002").message
    assert message == "optimizer counts 400 updates where the run counts 40 (global_step): it belongs to another run"
    for each in state["state"].values():
        each["step"] = torch.tensor(40.0)


def test_an_optimizer_of_a_shorter_run_is_said(folder: Path) -> None:
    torch.save(train(steps=4)[1].state_dict(), folder / "optimizer.pt")
    assert {"RES001", "RES002"} & {each.code for each in examine(folder).findings}


def test_shards_of_two_saves_are_said(trained: Any, tmp_path: Path) -> None:
    state = trained[0].state_dict()
    save_shards(tmp_path / "model", state, safe=False, shards=3)
    save_shards(tmp_path / "model", state, safe=False, shards=2).unlink()
    examination = examine(tmp_path / "model")
    assert any("those of several saves, of 2 and of 3 shards" in each.message for each in examination.findings)
    assert examination.verdict is Verdict.ILL


def test_shards_that_no_index_names_are_said(trained: Any, tmp_path: Path) -> None:
    state = trained[0].state_dict()
    index = save_shards(tmp_path / "model", state, safe=True, shards=3)
    content = index.read_bytes()
    save_shards(tmp_path / "model", state, safe=True, shards=2)
    index.write_bytes(content)
    examination = examine(tmp_path / "model")
    assert {each.why for each in examination.skipped} == {"the index does not name it"}
    assert len(examination.tensors) == TENSORS


def test_a_save_that_ended_halfway_is_said(folder: Path) -> None:
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
        (folder / name).unlink()
    examination = examine(folder)
    assert "trainer_state.json is not in the folder: Trainer cannot resume" in only(examination, "RES006").message
    assert examination.verdict is Verdict.HEALTHY
    final = folder.rename(folder.with_name("final"))
    assert not examine(final).findings


def save_to_hub(cache: Path, state: dict[str, torch.Tensor], *, shards: int) -> Path:
    """Write a model into a cache of the Hugging Face hub: files are links into ``blobs``."""
    model = cache / "models--acme--classifier"
    blobs, snapshot = model / "blobs", model / "snapshots" / ("a1" * 20)
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("a1" * 20)
    if shards > 1:
        save_shards(cache / "made", state, safe=True, shards=shards)
    else:
        (cache / "made").mkdir()
        save_weights(cache / "made", state, safe=True)
        (cache / "made" / "config.json").write_text("{}")
    for number, path in enumerate(sorted((cache / "made").iterdir())):
        blob = path.rename(blobs / f"{number:064x}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    (cache / "made").rmdir()
    return snapshot


@pytest.mark.parametrize("shards", [1, 3])
def test_the_cache_of_the_hub_is_examined_through_its_links(shards: int, trained: Any, tmp_path: Path) -> None:
    snapshot = save_to_hub(tmp_path, trained[0].state_dict(), shards=shards)
    for place in (tmp_path, snapshot):
        examination = examine(place)
        assert (examination.path, examination.verdict) == (str(snapshot), Verdict.HEALTHY)
        assert len(examination.tensors) == TENSORS


def test_a_link_into_the_hubs_cache_that_leads_nowhere_is_said(trained: Any, tmp_path: Path) -> None:
    snapshot = save_to_hub(tmp_path, trained[0].state_dict(), shards=3)
    (snapshot / "model-00002-of-00003.safetensors").resolve().unlink()
    examination = examine(tmp_path)
    assert any("model-00002-of-00003.safetensors" in each.message for each in examination.findings)
    assert examination.verdict is Verdict.ILL
    assert 0 < len(examination.tensors) < TENSORS


def test_more_shards_than_may_be_open_are_examined(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_file, "MOST_OPEN", 0)
    index = save_shards(tmp_path / "model", trained[0].state_dict(), safe=False, shards=7)
    examination = examine(index.parent)
    assert examination.verdict is Verdict.HEALTHY
    assert {tensor.name for tensor in examination.tensors} == trained[0].state_dict().keys()


def test_a_file_that_changes_before_it_is_read_is_said(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_file, "MOST_OPEN", 0)
    path = save_weights(tmp_path, trained[0].state_dict(), safe=True)
    source = local_file.FileSource(path)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(Exception, match="was changed while it was read"):
        source.read(0, 8)


def test_a_thousand_shards_need_no_more_open_files_than_a_system_allows(tmp_path: Path) -> None:
    folder, count = tmp_path / "model", 1_000
    folder.mkdir()
    torch.manual_seed(0)
    names = [f"pytorch_model-{number + 1:05d}-of-{count:05d}.bin" for number in range(count)]
    for number, name in enumerate(names):
        torch.save({f"layer.{number}.weight": torch.randn(4, 4)}, folder / name)
    weight_map = {f"layer.{number}.weight": name for number, name in enumerate(names)}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text("{}")
    command = f"ulimit -n 256; {sys.executable} -m checkpoint_doctor scan {folder}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout
    assert f"{count:,} tensors" in result.stdout


def test_a_folder_of_many_checkpoints_has_a_line_for_each(tmp_path: Path) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(3, 2)
    for number in range(30):
        (tmp_path / f"adapter_{number}").mkdir()
        save_weights(tmp_path / f"adapter_{number}", linear.state_dict(), safe=True, stem="adapter_model")
        (tmp_path / f"adapter_{number}" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    report = scan([tmp_path], catalogue=CATALOGUE)
    assert [each.layout for each in report.checkpoints] == ["peft"] * 30
    assert all((each.worst or Severity.NOTE) <= Severity.NOTE for each in report.checkpoints)
