"""Folders that are one checkpoint: every part read, side files neither healthy nor failures, repaired as folders."""

from __future__ import annotations

import collections
import copy
import json
import pickle
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_folders import (
    Classifier,
    names_by_position,
    pickled_as,
    save_accelerate,
    save_shards,
    save_trainer,
    save_weights,
    train,
)
from safetensors.torch import load_file
from torch import nn

from checkpoint_doctor.acts.fix import FixOptions, FixResult, Outcome, fix
from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.plugins.opening import open_checkpoint
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.results.report import Examination, Verdict
from tests.command import run_command

pytestmark = pytest.mark.usefixtures("one_torch")

CATALOGUE = discover()
BIAS = "bert.encoder.layer.1.intermediate.dense.bias"


@pytest.fixture(scope="module")
def trained() -> tuple[Classifier, Any, Any]:
    return train()


@pytest.fixture(scope="module", params=["safetensors", "bin"])
def folder(request: pytest.FixtureRequest, trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_trainer(tmp_path_factory.mktemp("run") / "checkpoint-40", *trained, safe=request.param == "safetensors")


@pytest.fixture
def ill(trained: Any, tmp_path: Path) -> Path:
    model, optimizer, schedule = trained
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.get_parameter(BIAS).zero_()
    return save_trainer(tmp_path / "checkpoint-40", model, optimizer, schedule)


def examine(path: Path) -> Examination:
    (examination,) = scan([path], catalogue=CATALOGUE).checkpoints
    return examination


def opened(path: Path) -> Checkpoint:
    return open_checkpoint(path, CATALOGUE)


def words(examination: Examination) -> set[str]:
    return {part.content.word for part in examination.parts}


def codes(examination: Examination) -> set[str]:
    return {each.code for each in examination.findings if each.severity > Severity.NOTE}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments)


# transformers' Trainer


def test_a_healthy_trainer_folder_is_one_line_and_exits_0(folder: Path) -> None:
    result = run("scan", folder.parent, "-q")
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("HEALTHY") == 1
    assert "parts: weights" in result.stdout
    assert "resumes: at step 40 with a learning rate of 0.0015" in result.stdout


def test_all_its_files_are_parts_and_no_checkpoints(folder: Path) -> None:
    examination = examine(folder)
    files = {path.name for path in folder.iterdir()}
    assert {part.file for part in examination.parts} == files
    assert words(examination) == {
        "weights", "optimizer", "scheduler", "random state", "progress", "settings", "tokenizer",
    }  # fmt: skip
    assert (examination.layout, examination.step) == ("transformers", 40)
    assert examination.versions["transformers"] == "4.57.1"
    assert examination.hyperparameters["learning_rate"] == 3e-3
    assert not codes(examination)


def test_every_tensor_is_what_torch_loads(folder: Path, trained: Any) -> None:
    read = {tensor.name: tensor.array for tensor in opened(folder).tensors}
    expected = trained[0].state_dict()
    assert read.keys() == expected.keys()
    assert all(np.array_equal(read[name], expected[name].numpy()) for name in read)


def test_every_position_of_the_optimizer_beside_it_is_named_rightly(folder: Path, trained: Any) -> None:
    (optimizer,) = opened(folder).optimizers
    assert [each.tensor for each in optimizer.parameters] == names_by_position(*trained[:2])
    moments = opened(folder).moments[BIAS]
    expected = trained[1].state[trained[0].get_parameter(BIAS)]["exp_avg_sq"]
    assert np.array_equal(moments.state["exp_avg_sq"].array, expected.numpy())


@pytest.mark.parametrize("architecture", [None, "unknown-model"])
def test_no_position_has_a_wrong_name_where_the_architecture_is_not_known(
    architecture: str | None, trained: Any, tmp_path: Path
) -> None:
    folder = save_trainer(tmp_path / "checkpoint-40", *trained)
    if architecture:
        (folder / "config.json").write_text(json.dumps({"model_type": architecture}))
    else:
        (folder / "config.json").unlink()
    (optimizer,) = opened(folder).optimizers
    truth = names_by_position(*trained[:2])
    named = [(each.tensor, name) for each, name in zip(optimizer.parameters, truth, strict=True) if each.tensor]
    assert all(given == name for given, name in named)
    assert {BIAS, "classifier.weight", "bert.embeddings.word_embeddings.weight"} <= {name for _, name in named}
    assert len(named) < len(truth)
    assert "order of the model" in optimizer.unmatched or "known by position only" in optimizer.unmatched


def test_a_model_with_code_of_its_own_is_not_taken_for_the_librarys(trained: Any, tmp_path: Path) -> None:
    folder = save_trainer(tmp_path / "checkpoint-40", *trained)
    config = {"model_type": "bert", "auto_map": {"AutoModel": "modeling.MyBert"}}
    (folder / "config.json").write_text(json.dumps(config))
    (optimizer,) = opened(folder).optimizers
    assert None in {each.tensor for each in optimizer.parameters}


def test_an_overwritten_bias_is_seen_by_the_optimizer_beside_it(ill: Path) -> None:
    examination = examine(ill)
    assert examination.verdict is Verdict.ILL
    (diagnosis,) = [each for each in examination.diagnoses if each.severity is Severity.ERROR]
    assert (diagnosis.cause, diagnosis.certainty.label) == ("overwritten", "proven")
    assert run("scan", ill, "-q").returncode == 1


def test_a_bias_is_overwritten_also_where_the_schedule_ended_at_0(tmp_path: Path) -> None:
    model, optimizer, schedule = train(steps=80)
    with torch.no_grad():
        model.get_parameter(BIAS).zero_()
    examination = examine(save_trainer(tmp_path / "checkpoint-80", model, optimizer, schedule))
    assert optimizer.param_groups[0]["lr"] == 0
    assert "overwritten" in {each.cause for each in examination.diagnoses}


# What goes wrong


def change(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "checkpoint-40"))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt"])
def test_without_the_optimizer_or_the_scheduler_a_note_says_that_resuming_begins_anew(
    name: str, folder: Path, tmp_path: Path
) -> None:
    path = change(folder, tmp_path)
    (path / name).unlink()
    examination = examine(path)
    (finding,) = [each for each in examination.findings if each.code == "RES006"]
    assert finding.severity is Severity.NOTE
    assert finding.message.startswith(f"{name} is not in the folder: Trainer resumes with a new optimizer")
    assert "RES006 missing-companion" in examination.resume_answer
    assert examination.verdict is Verdict.HEALTHY


def test_a_model_without_a_run_misses_nothing(folder: Path, tmp_path: Path) -> None:
    path = change(folder, tmp_path)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
        (path / name).unlink()
    # Under the name of a save of Trainer it would be one that did not end.
    examination = examine(path.rename(tmp_path / "published"))
    assert examination.resumption is None
    assert not examination.findings


def test_the_rank_whose_random_state_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    path = change(folder, tmp_path)
    for rank in (0, 2):
        shutil.copy(path / "rng_state.pth", path / f"rng_state_{rank}.pth")
    messages = [each.message for each in examine(path).findings if each.code == "RES006"]
    assert [message.partition(" ")[0] for message in messages] == ["rng_state_1.pth"]


def test_a_truncated_optimizer_is_damage_and_the_weights_are_examined(folder: Path, tmp_path: Path) -> None:
    path = change(folder, tmp_path)
    content = (path / "optimizer.pt").read_bytes()
    (path / "optimizer.pt").write_bytes(content[: len(content) // 2])
    examination = examine(path)
    (finding,) = [each for each in examination.findings if each.code == "FIL001"]
    assert finding.evidence["member"] == "optimizer.pt"
    assert len(examination.tensors) == len(Classifier().state_dict())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"global_step": "x"}', b"\xff\xfe", b"[" * 100_000])
@pytest.mark.parametrize("name", ["trainer_state.json", "config.json"])
def test_broken_text_files_are_no_obstacle(name: str, content: bytes, folder: Path, tmp_path: Path) -> None:
    path = change(folder, tmp_path)
    (path / name).write_bytes(content)
    examination = examine(path)
    assert len(examination.tensors) == len(Classifier().state_dict())
    assert {each.evidence.get("member") for each in examination.findings if each.code == "FIL001"} <= {name}


def test_a_scheduler_in_the_place_of_the_optimizer_is_named(folder: Path, tmp_path: Path) -> None:
    path = change(folder, tmp_path)
    shutil.copy(path / "scheduler.pt", path / "optimizer.pt")
    assert "RES007" in codes(examine(path))


def test_a_scheduler_of_another_run_is_named(folder: Path, tmp_path: Path) -> None:
    path = change(folder, tmp_path)
    state = torch.load(path / "scheduler.pt")
    torch.save({**state, "_last_lr": [1e-5, 1e-5]}, path / "scheduler.pt")
    examination = examine(path)
    assert "RES001" in codes(examination)
    assert "(RES001 schedule-mismatch)" in examination.resume_answer


def test_an_optimizer_of_another_model_gets_no_names_and_the_weights_are_judged(folder: Path, tmp_path: Path) -> None:
    path = change(folder, tmp_path)
    other = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 5))
    optimizer = torch.optim.Adam(other.parameters())
    other(torch.ones(1, 7)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), path / "optimizer.pt")
    (found,) = opened(path).optimizers
    assert not any(each.tensor for each in found.parameters)
    assert found.unmatched
    assert len(examine(path).tensors) == len(Classifier().state_dict())


def test_code_in_the_arguments_is_not_executed_and_is_reported(folder: Path, tmp_path: Path) -> None:
    path = change(folder, tmp_path)
    marker = tmp_path / "executed"
    (path / "training_args.bin").write_bytes(b"cos\nsystem\n(S'touch %s'\ntR." % str(marker).encode())
    examination = examine(path)
    assert not marker.exists()
    (finding,) = [each for each in examination.findings if each.code == "FIL002" and each.severity is Severity.ERROR]
    assert finding.evidence["members"] == ["training_args.bin"]


def test_weights_that_cannot_be_read_make_the_folder_unreadable(folder: Path, tmp_path: Path) -> None:
    path = change(folder, tmp_path)
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).exists():
            (path / name).write_bytes(b"")
    result = run("scan", path)
    assert result.returncode == 2
    assert "UNREADABLE" in result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n", "git-LFS pointer"),
        (b"<!doctype html><title>Sign in</title>", "HTML page"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "PNG image"),
    ],
)
def test_what_lies_in_the_place_of_weights_is_named(content: bytes, said: str, folder: Path, tmp_path: Path) -> None:
    path = change(folder, tmp_path)
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).exists():
            (path / name).write_bytes(content)
    examination = examine(tmp_path)
    assert examination.verdict is Verdict.UNREADABLE
    assert said in (examination.error or "")


def test_a_second_format_of_the_weights_is_examined_by_itself(trained: Any, tmp_path: Path) -> None:
    folder = save_trainer(tmp_path / "checkpoint-40", *trained)
    save_weights(folder, trained[0].state_dict(), safe=False)
    found = scan([folder], catalogue=CATALOGUE).checkpoints
    assert [Path(each.path).name for each in found] == ["checkpoint-40", "pytorch_model.bin"]


def test_a_folder_of_links_as_in_the_hubs_cache_is_read(folder: Path, tmp_path: Path) -> None:
    links = tmp_path / "snapshots" / "abc"
    links.mkdir(parents=True)
    for path in folder.iterdir():
        (links / path.name).symlink_to(path)
    assert examine(links).verdict is Verdict.HEALTHY
    assert len(examine(links).parts) == len(list(folder.iterdir()))


def test_a_broken_link_in_the_place_of_a_part_is_named(folder: Path, tmp_path: Path) -> None:
    path = change(folder, tmp_path)
    (path / "optimizer.pt").unlink()
    (path / "optimizer.pt").symlink_to(tmp_path / "gone")
    (finding,) = [each for each in examine(path).findings if each.code == "FIL001"]
    assert "no such file" in finding.message


# Shards


@pytest.mark.parametrize("safe", [True, False])
def test_shards_are_one_model(safe: bool, trained: Any, tmp_path: Path) -> None:
    index = save_shards(tmp_path / "model", trained[0].state_dict(), safe=safe)
    examination = examine(index.parent)
    assert examination.verdict is Verdict.HEALTHY
    assert {tensor.name for tensor in examination.tensors} == trained[0].state_dict().keys()
    assert words(examination) == {"weights", "index", "settings"}


@pytest.mark.parametrize("safe", [True, False])
def test_a_missing_shard_is_said_and_the_rest_is_examined(safe: bool, trained: Any, tmp_path: Path) -> None:
    index = save_shards(tmp_path / "model", trained[0].state_dict(), safe=safe)
    lost = next(index.parent.glob("*-00002-of-*"))
    lost.unlink()
    examination = examine(index.parent)
    (finding,) = [each for each in examination.findings if each.code == "FIL001"]
    assert lost.name in finding.message
    assert 0 < len(examination.tensors) < len(trained[0].state_dict())


@pytest.mark.parametrize("safe", [True, False])
def test_an_index_that_names_what_is_not_there_is_said(safe: bool, trained: Any, tmp_path: Path) -> None:
    index = save_shards(tmp_path / "model", trained[0].state_dict(), safe=safe)
    content = json.loads(index.read_text())
    content["weight_map"]["not.there"] = next(iter(content["weight_map"].values()))
    index.write_text(json.dumps(content))
    (finding,) = [each for each in examine(index.parent).findings if each.code == "FIL001"]
    assert "not.there" in finding.message


def test_an_index_that_leads_out_of_the_folder_is_not_followed(trained: Any, tmp_path: Path) -> None:
    index = save_shards(tmp_path / "model", trained[0].state_dict(), safe=False)
    shutil.copy(next(index.parent.glob("*-00001-of-*")), tmp_path / "secret.bin")
    content = json.loads(index.read_text())
    first = next(iter(content["weight_map"]))
    content["weight_map"][first] = "../secret.bin"
    index.write_text(json.dumps(content))
    assert first not in {tensor.name for tensor in opened(index.parent).tensors}


def test_shards_without_their_index_are_one_damaged_model(trained: Any, tmp_path: Path) -> None:
    index = save_shards(tmp_path / "model", trained[0].state_dict(), safe=True)
    index.unlink()
    next(index.parent.glob("*-00003-of-*")).unlink()
    messages = [each.message for each in examine(index.parent).findings if each.code == "FIL001"]
    assert any("the index of its shards is missing" in each for each in messages)
    assert any("1 shard of 3 missing" in each for each in messages)


# Repairs


def repair(path: Path, **options: Any) -> FixResult:
    (result,) = fix([path], FixOptions(**options), catalogue=CATALOGUE)
    return result


def test_a_repaired_folder_has_all_files_and_loads_as_the_input_does(ill: Path) -> None:
    before = {path.name: path.read_bytes() for path in ill.iterdir()}
    result = repair(ill)
    assert result.outcome is Outcome.FIXED
    fixed = Path(result.output or "")
    assert fixed == ill.with_name("checkpoint-40_FIXED")
    assert {path.name for path in fixed.iterdir()} == before.keys()
    assert {path.name: path.read_bytes() for path in ill.iterdir()} == before
    changed = {path.name for path in fixed.iterdir() if path.read_bytes() != before[path.name]}
    assert changed == {"model.safetensors", "optimizer.pt"}
    assert not codes(examine(fixed))
    model = Classifier()
    model.load_state_dict(load_file(fixed / "model.safetensors"))
    assert model.get_parameter(BIAS).abs().min() > 0
    _, optimizer, schedule = train(steps=0)
    optimizer.load_state_dict(torch.load(fixed / "optimizer.pt"))
    schedule.load_state_dict(torch.load(fixed / "scheduler.pt"))
    assert schedule.last_epoch == 40


def test_the_moments_beside_it_change_along(ill: Path, trained: Any) -> None:
    fixed = opened(Path(repair(ill).output or ""))
    state = fixed.moments[BIAS].state
    assert not state["exp_avg"].array.any()
    others = [name for name in fixed.moments if name != BIAS]
    expected = trained[1].state[trained[0].get_parameter(others[0])]["exp_avg"].numpy()
    assert np.array_equal(fixed.moments[others[0]].state["exp_avg"].array, expected)


def test_the_record_lies_beside_the_folder_and_names_every_file(ill: Path) -> None:
    result = repair(ill)
    record = json.loads(Path(f"{result.output}.ckdoc.json").read_text())
    assert {Path(each["output"]["path"]).name for each in record["files"]} == {path.name for path in ill.iterdir()}
    assert any(reader.startswith("safetensors") for reader in record["proof"]["read_by"])
    assert any(reader.startswith("torch") for reader in record["proof"]["read_by"])


@pytest.mark.parametrize("force", [False, True])
def test_an_existing_folder_is_never_replaced(force: bool, ill: Path) -> None:
    taken = ill.with_name("checkpoint-40_FIXED")
    taken.mkdir()
    (taken / "precious").write_text("x")
    result = repair(ill, force=force)
    assert result.outcome is Outcome.FAILED
    assert "never replaced" in (result.error or "")
    assert [path.name for path in taken.iterdir()] == ["precious"]


def test_the_result_goes_into_a_folder_or_gets_a_name(ill: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert repair(ill, output=str(tmp_path / "there")).output == str(tmp_path / "there" / "checkpoint-40_FIXED")
    assert repair(ill, output=str(tmp_path / "named")).output == str(tmp_path / "named")
    inside = repair(ill, output=str(ill / "inside"))
    assert "never written to" in (inside.error or "")
    assert not (ill / "inside").exists()


def test_nothing_stays_behind_where_a_file_changes_meanwhile(ill: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from checkpoint_doctor.repair.cross_check import CrossCheck

    def meddle(*arguments: Any) -> tuple[str, ...]:
        (ill / "scheduler.pt").write_bytes(b"x")
        return ()

    monkeypatch.setattr(CrossCheck, "compare_files", meddle)
    assert "changed while it was being repaired" in (repair(ill).error or "")
    assert [path.name for path in ill.parent.iterdir()] == ["checkpoint-40"]


@pytest.mark.parametrize("safe", [True, False])
def test_a_sharded_model_is_repaired_into_a_folder_that_loads(safe: bool, trained: Any, tmp_path: Path) -> None:
    state = {name: each.clone() for name, each in trained[0].state_dict().items()}
    name = "bert.encoder.layer.0.output.dense.weight"
    state[name][0, 0] = float("nan")
    index = save_shards(tmp_path / "model", state, safe=safe)
    result = repair(index.parent, unsafe=True)
    assert result.outcome is Outcome.FIXED, result.error
    fixed = Path(result.output or "")
    shard = json.loads((fixed / index.name).read_text())["weight_map"][name]
    read = load_file(fixed / shard) if safe else torch.load(fixed / shard)
    assert read[name].isfinite().all()
    assert {path.name for path in fixed.iterdir()} == {path.name for path in index.parent.iterdir()}


def test_fix_from_the_command_line(ill: Path) -> None:
    dry = run("fix", "--dry-run", ill, "-q")
    assert (dry.returncode, [path.name for path in ill.parent.iterdir()]) == (0, ["checkpoint-40"])
    result = run("fix", ill, "-q")
    assert result.returncode == 0
    assert "checkpoint-40_FIXED" in result.stdout
    assert run("scan", f"{ill}_FIXED", "-q").returncode == 0


# accelerate, PEFT, RL Zoo


def test_accelerate_joins_each_optimizer_to_its_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    models = [encoder, nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))]
    optimizers = [torch.optim.AdamW(each.parameters(), 1e-3) for each in models]
    for _ in range(30):
        x = torch.randn(16, 8)
        loss = (models[1](models[0](x)) - x[:, :2] * 2 - 1).square().mean()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    folder = save_accelerate(tmp_path / "state", models, optimizers)
    examination = examine(folder)
    assert (examination.verdict, examination.layout) == (Verdict.HEALTHY, "accelerate")
    found = {each.name: [part.tensor for part in each.parameters] for each in opened(folder).optimizers}
    assert found == {
        "optimizer": [f"model/{name}" for name, _ in models[0].named_parameters()],
        "optimizer_1": [f"model_1/{name}" for name, _ in models[1].named_parameters()],
    }


def save_adapter(folder: Path, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    state = {
        f"base_model.model.model.layers.{layer}.self_attn.{name}.lora_{half}.weight": torch.from_numpy(
            rng.normal(0, 0.05, (4, 32) if half == "A" else (32, 4)).astype(np.float32)
        )
        for layer in range(2)
        for name in ("q_proj", "v_proj")
        for half in "AB"
    }
    save_weights(folder, state, safe=True, stem="adapter_model")
    config = {"peft_type": "LORA", "base_model_name_or_path": "acme/base", "r": 4, "lora_alpha": 8}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_an_adapter_is_judged_and_its_base_is_named(tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "adapter")
    examination = examine(folder)
    assert (examination.verdict, examination.layout) == (Verdict.HEALTHY, "peft")
    assert opened(folder).metadata["base_model"] == "acme/base"


def test_ten_adapters_in_a_folder_are_ten_checkpoints(tmp_path: Path) -> None:
    for number in range(10):
        save_adapter(tmp_path / f"adapter_{number}", number)
    report = scan([tmp_path], catalogue=CATALOGUE)
    assert [Path(each.path).name for each in report.checkpoints] == [f"adapter_{number}" for number in range(10)]
    assert {each.layout for each in report.checkpoints} == {"peft"}


def save_zoo(root: Path, agent: Path, *, normalized: bool) -> Path:
    folder = root / "CartPole-v1_1"
    inside = folder / "CartPole-v1"
    inside.mkdir(parents=True)
    shutil.copy(agent, folder / "CartPole-v1.zip")
    (inside / "args.yml").write_text("!!python/object/apply:collections.OrderedDict\n- - - algo\n    - ppo\n")
    settings = "!!python/object/apply:collections.OrderedDict\n- - - n_envs\n    - 8\n  - - normalize\n    - true\n"
    (inside / "config.yml").write_text(settings)
    if normalized:
        module = "stable_baselines3.common.vec_env.vec_normalize"
        with pickled_as(module, "VecNormalize") as statistics:
            statistics.__dict__.update(clip_obs=10.0, obs_rms=np.ones(4))
            (inside / "vecnormalize.pkl").write_bytes(pickle.dumps(statistics))
    np.savez(folder / "evaluations.npz", timesteps=np.arange(3), results=np.ones((3, 5)))
    return folder


def test_an_experiment_of_the_zoo_is_one_agent_with_its_statistics(tmp_path: Path, fixtures: Path) -> None:
    folder = save_zoo(tmp_path, fixtures / "case_1_healthy.zip", normalized=True)
    shutil.copy(folder / "CartPole-v1" / "vecnormalize.pkl", folder / "rl_model_vecnormalize_500_steps.pkl")
    examination = examine(folder)
    assert (examination.verdict, examination.layout, examination.format) == (Verdict.HEALTHY, "rl-zoo", "sb3")
    assert words(examination) == {"weights", "settings", "normalization", "evaluations"}
    assert "RES006" not in {each.code for each in examination.findings}


def test_an_agent_of_the_zoo_without_its_statistics_is_noted(tmp_path: Path, fixtures: Path) -> None:
    folder = save_zoo(tmp_path, fixtures / "case_1_healthy.zip", normalized=False)
    (finding,) = [each for each in examine(folder).findings if each.code == "RES006"]
    assert finding.evidence["file"] == "CartPole-v1/vecnormalize.pkl"
    assert "acts on raw ones" in finding.message


def test_lightnings_side_files_are_no_checkpoints(tmp_path: Path, trained: Any) -> None:
    version = tmp_path / "lightning_logs" / "version_0"
    (version / "checkpoints").mkdir(parents=True)
    (version / "hparams.yaml").write_text("lr: 0.01\n")
    (version / "metrics.csv").write_text("epoch,step,loss\n0,10,1.0\n")
    model, optimizer, schedule = trained
    state = {
        "epoch": 1, "global_step": 40, "pytorch-lightning_version": "2.6.0", "state_dict": model.state_dict(),
        "optimizer_states": [optimizer.state_dict()], "lr_schedulers": [schedule.state_dict()], "loops": {},
    }  # fmt: skip
    torch.save(state, version / "checkpoints" / "epoch=1-step=40.ckpt")
    examination = examine(tmp_path)
    assert (examination.path, examination.layout, examination.verdict) == (str(version), "lightning", Verdict.HEALTHY)
    assert {part.file: part.content.word for part in examination.parts} == {
        "checkpoints/epoch=1-step=40.ckpt": "weights",
        "hparams.yaml": "settings",
        "metrics.csv": "evaluations",
    }
    assert examination.resume_answer == "resumes at step 40 with a learning rate of 0.0015"
    torch.save(state, version / "checkpoints" / "last.ckpt")
    report = scan([tmp_path], catalogue=CATALOGUE)
    assert [Path(each.path).name for each in report.checkpoints] == ["epoch=1-step=40.ckpt", "last.ckpt"]
    assert not report.passed_over


def test_a_folder_of_thousands_of_other_files_is_searched_in_a_moment(folder: Path, tmp_path: Path) -> None:
    path = change(folder, tmp_path)
    for number in range(10_000):
        (path / f"sample_{number}.png").touch()
    assert examine(path).verdict is Verdict.HEALTHY


# RLlib


def save_policy(folder: Path, *, learner: bool) -> tuple[nn.Module, Path]:
    """Write what ``Algorithm.save`` does: plain arrays in pickles, before Ray's learner or with it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(30):
        x = torch.randn(16, 4)
        optimizer.zero_grad()
        (model(x) - x[:, :2]).square().mean().backward()
        optimizer.step()
    weights = {name: each.numpy() for name, each in model.state_dict().items()}
    state = optimizer.state_dict()
    state["state"] = {key: {name: each.numpy() for name, each in held.items()} for key, held in state["state"].items()}
    counters = collections.defaultdict(int, {"num_env_steps_sampled": 480, "num_env_steps_trained": 480})
    files: dict[str, Any] = {"algorithm_state.pkl": {"training_iteration": 6, "counters": counters}}
    if learner:
        root = "learner_group/learner"
        files[f"{root}/rl_module/default_policy/module_state.pkl"] = weights
        files[f"{root}/state.pkl"] = {"optimizer": {"default_policy_default_optimizer": {"state": state}}}
        files["env_runner/state.pkl"] = {"weights_seq_no": 6}
    else:
        policy = {"weights": weights, "_optimizer_variables": [state], "num_grad_updates": 30, "global_timestep": 480}
        files["policies/default_policy/policy_state.pkl"] = policy
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "rllib_checkpoint.json").write_text('{"checkpoint_version": "2.1"}')
    return model, folder


@pytest.mark.parametrize("learner", [False, True])
def test_an_algorithm_of_rllib_is_one_checkpoint_with_its_optimizer(learner: bool, tmp_path: Path) -> None:
    model, folder = save_policy(tmp_path / "checkpoint_000006", learner=learner)
    examination = examine(folder)
    assert (examination.verdict, examination.layout) == (Verdict.HEALTHY, "rllib")
    assert {part.file for part in examination.parts} == {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    }
    checkpoint = opened(folder)
    (optimizer,) = checkpoint.optimizers
    assert [each.tensor for each in optimizer.parameters] == [name for name, _ in model.named_parameters()]
    assert (checkpoint.step, checkpoint.counters["training_iteration"]) == (480, 6)
    assert examination.resume_answer == "resumes at step 480 with a learning rate of 0.001"
