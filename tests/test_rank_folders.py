"""Folders of several ranks: put together where all are there, and said exactly where one is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rank_folders import STEPS, save_deepspeed, save_megatron, train
from run_folders import CONFIG, pickled_as, save_weights

from checkpoint_doctor.acts.fix import FixOptions, Outcome, fix
from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.builtin.loaders.folders.loader import loader
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.errors import RepairFailed
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.plugins.opening import open_checkpoint
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.results.report import Examination, Verdict

CATALOGUE = discover()
OPTIMIZER_1 = "zero_pp_rank_1_mp_rank_00_optim_states.pt"


@pytest.fixture(scope="module")
def trained() -> Any:
    return train()


def opened(path: Path) -> Checkpoint:
    return open_checkpoint(path, CATALOGUE)


def examine(path: Path) -> Examination:
    (examination,) = scan([path], catalogue=CATALOGUE).checkpoints
    return examination


def check_values(checkpoint: Checkpoint, trained: Any) -> None:
    """Compare every tensor and every moment with what was trained."""
    model, optimizer, _ = trained
    expected = model.state_dict()
    assert [each.name for each in checkpoint.tensors] == list(expected)
    for tensor in checkpoint.tensors:
        assert np.array_equal(tensor.array, expected[tensor.name].numpy()), tensor.name
        blocks = np.concatenate([block.copy() for block in tensor.values.blocks(7)])
        assert np.array_equal(blocks, expected[tensor.name].numpy().reshape(-1)), tensor.name
    state = {name: optimizer.state[each] for name, each in model.named_parameters() if each.requires_grad}
    assert set(checkpoint.moments) == state.keys()
    for name, moments in checkpoint.moments.items():
        assert moments.step == STEPS
        for key in ("exp_avg", "exp_avg_sq"):
            assert np.array_equal(moments.state[key].array, state[name][key].numpy()), (name, key)


@pytest.mark.parametrize("mappings", [True, False])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_partitions_are_put_together(stage: int, ranks: int, mappings: bool, trained: Any, tmp_path: Path) -> None:
    folder = save_deepspeed(tmp_path / "global_step40", *trained, stage=stage, ranks=ranks, mappings=mappings)
    check_values(opened(folder), trained)


def test_without_zero_one_file_is_all(trained: Any, tmp_path: Path) -> None:
    check_values(opened(save_deepspeed(tmp_path / "global_step40", *trained, stage=0)), trained)


def test_the_prefix_of_bfloat16_is_known(trained: Any, tmp_path: Path) -> None:
    folder = save_deepspeed(tmp_path / "global_step40", *trained, stage=1, prefix="bf16_")
    check_values(opened(folder), trained)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_healthy_run_is_one_entry_with_its_parts(stage: int, trained: Any, tmp_path: Path) -> None:
    folder = save_deepspeed(tmp_path / "run" / "global_step40", *trained, stage=stage)
    examination = examine(tmp_path)
    assert examination.path == str(folder)
    assert (examination.verdict, examination.layout, examination.step) == (Verdict.HEALTHY, "deepspeed", STEPS)
    assert not [each for each in examination.findings if each.severity > Severity.NOTE]
    assert {part.file for part in examination.parts} == {path.name for path in folder.iterdir()}
    assert examination.versions == {"deepspeed": "0.19.8"}
    assert examination.resume_answer == "resumes at step 40 with a learning rate of 0.0018"


def test_several_saves_of_a_run_are_several_checkpoints(trained: Any, tmp_path: Path) -> None:
    for step in (20, 40):
        save_deepspeed(tmp_path / f"global_step{step}", *trained, stage=2)
    report = scan([tmp_path], catalogue=CATALOGUE)
    assert [Path(each.path).name for each in report.checkpoints] == ["global_step20", "global_step40"]


@pytest.mark.parametrize("stage", [1, 2])
def test_a_missing_rank_is_said_and_the_model_is_examined_without_it(stage: int, trained: Any, tmp_path: Path) -> None:
    folder = save_deepspeed(tmp_path / "global_step40", *trained, stage=stage, ranks=3)
    (folder / OPTIMIZER_1).unlink()
    examination = examine(folder)
    (finding,) = [each for each in examination.findings if each.code == "FIL001"]
    assert "the files of rank 1, of 3 ranks, are missing: DeepSpeed cannot resume from the rest" in finding.message
    assert examination.resumption is not None
    assert "FIL001" in examination.resume_answer
    assert {each.name for each in examination.tensors} == set(trained[0].state_dict())
    assert [each.why for each in examination.skipped] == [
        "rank 1 of 3 is missing, and each rank holds a part of every moment"
    ]


def test_a_missing_rank_of_zero_3_leaves_no_weight(trained: Any, tmp_path: Path) -> None:
    folder = save_deepspeed(tmp_path / "global_step40", *trained, stage=3)
    (folder / OPTIMIZER_1).unlink()
    examination = examine(folder)
    assert examination.verdict is Verdict.ILL
    assert "the files of rank 1, of 2 ranks, are missing" in examination.findings[0].message
    weights = {name for name, each in trained[0].named_parameters()}
    assert {each.what for each in examination.skipped} == {*weights, "the optimizer"}


def test_a_damaged_rank_is_said(trained: Any, tmp_path: Path) -> None:
    folder = save_deepspeed(tmp_path / "global_step40", *trained, stage=2)
    path = folder / OPTIMIZER_1
    path.write_bytes(path.read_bytes()[:1000])
    examination = examine(folder)
    assert examination.verdict is Verdict.ILL
    assert any(OPTIMIZER_1 in each.message and each.code == "FIL001" for each in examination.findings)
    assert len(examination.tensors) == len(trained[0].state_dict())


def test_partitions_without_their_model_cannot_be_read(trained: Any, tmp_path: Path) -> None:
    folder = save_deepspeed(tmp_path / "global_step40", *trained, stage=2)
    (folder / "mp_rank_00_model_states.pt").unlink()
    examination = examine(folder)
    assert examination.verdict is Verdict.UNREADABLE
    assert "has the optimizer of a DeepSpeed checkpoint, but no file of its model states" in (examination.error or "")


def test_a_model_without_its_partitions_is_examined(trained: Any, tmp_path: Path) -> None:
    folder = save_deepspeed(tmp_path / "global_step40", *trained, stage=2)
    for path in folder.glob("*_optim_states.pt"):
        path.unlink()
    examination = examine(folder)
    assert "(…_optim_states.pt) are missing" in examination.findings[0].message
    assert len(examination.tensors) == len(trained[0].state_dict())


def test_partitions_of_another_model_are_not_put_together(trained: Any, tmp_path: Path) -> None:
    folder = save_deepspeed(tmp_path / "global_step40", *trained, stage=1, mappings=False)
    path = folder / "mp_rank_00_model_states.pt"
    content = torch.load(path, weights_only=False)
    content["param_shapes"][0]["head.weight"] = torch.Size([700, 9])
    torch.save(content, path)
    examination = examine(folder)
    (skipped,) = examination.skipped
    assert "the partitions of group 0 have" in skipped.why
    assert len(examination.tensors) == len(trained[0].state_dict())


def test_an_overwritten_bias_is_seen_by_the_partitions(trained: Any, tmp_path: Path) -> None:
    bias = trained[0].get_parameter("body.3.bias")
    kept = bias.detach().clone()
    with torch.no_grad():
        bias.zero_()
    folder = save_deepspeed(tmp_path / "global_step40", *trained, stage=2)
    with torch.no_grad():
        bias.copy_(kept)
    examination = examine(folder)
    assert "overwritten" in {each.cause for each in examination.diagnoses}


def test_what_is_put_together_is_not_patched(trained: Any, tmp_path: Path) -> None:
    folder = save_deepspeed(tmp_path / "global_step40", *trained, stage=2)
    with pytest.raises(RepairFailed, match="spread over the files of several ranks"):
        loader.patch(opened(folder), {})


def trainer_folder(folder: Path, trained: Any, *, weights: bool) -> Path:
    """Write what ``Trainer`` writes with DeepSpeed, with or without gathered weights."""
    save_deepspeed(folder / "global_step40", *trained, stage=2)
    if weights:
        save_weights(folder, trained[0].state_dict(), safe=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, "model_type": "unknown"}))
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": STEPS, "max_steps": 100}))
    for rank in range(2):
        torch.save({"python": 1}, folder / f"rng_state_{rank}.pth")
    with pickled_as("transformers.training_args", "TrainingArguments") as arguments:
        arguments.__dict__.update(learning_rate=3e-3)
        torch.save(arguments, folder / "training_args.bin")
    return folder


def test_weights_beside_those_of_the_ranks_are_not_patched_alone(trained: Any, tmp_path: Path) -> None:
    bias = trained[0].get_parameter("body.3.bias")
    kept = bias.detach().clone()
    with torch.no_grad():
        bias.zero_()
    folder = trainer_folder(tmp_path / "checkpoint-40", trained, weights=True)
    with torch.no_grad():
        bias.copy_(kept)
    (result,) = fix([folder], FixOptions(), catalogue=CATALOGUE)
    assert result.outcome is Outcome.FAILED
    assert "spread over the files of several ranks" in (result.error or "")
    assert not list(tmp_path.glob("*FIXED*"))


@pytest.mark.parametrize("weights", [True, False])
def test_a_trainers_folder_with_deepspeed_is_one_checkpoint(weights: bool, trained: Any, tmp_path: Path) -> None:
    folder = trainer_folder(tmp_path / "checkpoint-40", trained, weights=weights)
    examination = examine(tmp_path)
    assert examination.path == str(folder)
    assert examination.layout == ("transformers" if weights else "deepspeed")
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {part.file for part in examination.parts} == files
    assert not [each for each in examination.findings if each.severity > Severity.NOTE]
    assert examination.resume_answer == "resumes at step 40 with a learning rate of 0.0018"
    trainable = {name for name, each in trained[0].named_parameters() if each.requires_grad}
    assert set(opened(folder).moments) == trainable


def test_what_accelerate_saves_through_deepspeed_is_one_checkpoint(trained: Any, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    save_deepspeed(folder / "pytorch_model", *trained, stage=2)
    torch.save(trained[2].state_dict(), folder / "scheduler.bin")
    torch.save({"step": 40, "random_state": (3, (1,), None)}, folder / "random_states_0.pkl")
    torch.save({"step": 40, "random_state": (3, (1,), None)}, folder / "random_states_1.pkl")
    examination = examine(tmp_path)
    assert (examination.path, examination.layout) == (str(folder), "deepspeed")
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {part.file for part in examination.parts} == files
    assert not [each for each in examination.findings if each.severity > Severity.NOTE]
    check_values(opened(folder), trained)


def test_a_latest_that_names_what_is_not_there_is_said(trained: Any, tmp_path: Path) -> None:
    folder = trainer_folder(tmp_path / "checkpoint-40", trained, weights=False)
    (folder / "latest").write_text("global_step60")
    (finding,) = [each for each in examine(folder).findings if each.code == "RES006"]
    assert "global_step60 is not in the folder: latest names it" in finding.message


def test_a_copy_without_links_to_the_files_is_the_same(trained: Any, tmp_path: Path) -> None:
    folder = save_deepspeed(tmp_path / "blobs" / "global_step40", *trained, stage=3)
    links = tmp_path / "links"
    links.mkdir()
    for path in folder.iterdir():
        (links / path.name).symlink_to(path)
    check_values(opened(links), trained)
    shutil.rmtree(folder)
    assert examine(links).verdict is Verdict.UNREADABLE


# Megatron-LM


def test_one_rank_of_megatron_is_the_whole_model(trained: Any, tmp_path: Path) -> None:
    folder = save_megatron(tmp_path / "iter_0000040", *trained[:2])
    checkpoint = opened(folder)
    check_values(checkpoint, trained)
    assert checkpoint.hyperparameters["lr"] == 3e-3
    examination = examine(tmp_path)
    assert (examination.path, examination.layout, examination.step) == (str(folder), "megatron", STEPS)
    assert not [each for each in examination.findings if each.severity > Severity.NOTE]
    assert not examination.skipped
    assert examination.resume_answer == "resumes at step 40 with a learning rate of 0.0018"


@pytest.mark.parametrize(("tensors", "stages"), [(2, 1), (1, 2), (2, 2)])
def test_the_ranks_of_megatron_are_one_checkpoint(tensors: int, stages: int, trained: Any, tmp_path: Path) -> None:
    folder = save_megatron(tmp_path / "iter_0000040", *trained[:2], tensors=tensors, stages=stages)
    examination = examine(tmp_path)
    assert examination.verdict is Verdict.HEALTHY
    assert not [each for each in examination.findings if each.severity > Severity.NOTE]
    assert len(examination.parts) == tensors * stages
    assert len(examination.tensors) == tensors * len(trained[0].state_dict())
    why = [each.why for each in examination.skipped]
    assert len(why) == (tensors > 1)
    assert all("they are examined rank by rank" in each for each in why)
    checkpoint = opened(folder)
    trainable = [name for name, each in trained[0].named_parameters() if each.requires_grad]
    assert len(checkpoint.moments) == tensors * len(trainable)
    for name, moments in checkpoint.moments.items():
        assert moments.state["exp_avg"].shape == checkpoint.by_name[name].shape


def test_a_missing_rank_of_megatron_is_said_and_the_rest_is_examined(trained: Any, tmp_path: Path) -> None:
    folder = save_megatron(tmp_path / "iter_0000040", *trained[:2], tensors=2, stages=2)
    shutil.rmtree(folder / "mp_rank_01_000")
    examination = examine(folder)
    (finding,) = [each for each in examination.findings if each.code == "FIL001"]
    assert "the files of mp_rank_01_000 are missing, of 4 ranks" in finding.message
    assert "FIL001" in examination.resume_answer
    assert {name.split("/")[0] for name in (each.name for each in examination.tensors)} == {
        "mp_rank_00_000", "mp_rank_00_001", "mp_rank_01_001",
    }  # fmt: skip


def test_a_rank_of_megatron_that_is_cut_short_is_said(trained: Any, tmp_path: Path) -> None:
    folder = save_megatron(tmp_path / "iter_0000040", *trained[:2], tensors=2)
    path = folder / "mp_rank_01" / "model_optim_rng.pt"
    path.write_bytes(path.read_bytes()[:2000])
    examination = examine(folder)
    assert examination.verdict is Verdict.ILL
    assert any("mp_rank_01/model_optim_rng.pt" in each.message for each in examination.findings)
    path.write_bytes(b"")
    (folder / "mp_rank_00" / "model_optim_rng.pt").write_bytes(b"")
    assert examine(folder).verdict is Verdict.UNREADABLE


def test_the_distributed_optimizer_of_megatron_is_listed_and_not_read(trained: Any, tmp_path: Path) -> None:
    folder = save_megatron(tmp_path / "iter_0000040", *trained[:2])
    torch.save({"buckets_coalesced": True, 0: {"param": torch.zeros(8)}}, folder / "mp_rank_00" / "distrib_optim.pt")
    examination = examine(folder)
    assert [each.what for each in examination.skipped] == ["mp_rank_00/distrib_optim.pt"]
    assert "mp_rank_00/distrib_optim.pt" in {part.file for part in examination.parts}


def test_a_collapsed_loss_scale_of_megatron_is_found(trained: Any, tmp_path: Path) -> None:
    folder = save_megatron(tmp_path / "iter_0000040", *trained[:2])
    path = folder / "mp_rank_00" / "model_optim_rng.pt"
    with pickled_as("argparse", "Namespace"):
        content = torch.load(path, weights_only=False)
        content["optimizer"]["grad_scaler"]["scale"] = torch.tensor([1e-30])
        torch.save(content, path)
    assert "RES005" in {each.code for each in examine(folder).findings}
