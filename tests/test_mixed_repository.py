"""A repository as people keep it: models of many libraries among data, images, logs and code."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed_saves import make_states, save
from run_folders import Classifier, save_accelerate, save_shards, save_trainer, train
from test_folders import save_adapter
from test_other_contents import joblib_file, object_of, optimizer

from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.cli.scanning import verdict
from checkpoint_doctor.results.report import Report, Verdict

MODELS = {
    "adapters/one",
    "adapters/two",
    "agents/best_model.zip",
    "agents/dqn.zip",
    "cleanrl/ppo.cleanrl_model",
    "hf/checkpoint-40",
    "hf/model.safetensors.index.json",
    "hf/run",
    "imagenet/checkpoint.pth.tar",
    "imagenet/model_best.PT",
    "lightning/epoch=3.ckpt",
    "mario/world_1",
    "optimizers/adam.pt",
    "sharded",
}


def fill(folder: Path, fixtures: Path) -> None:
    """Write about seventy files, fourteen checkpoints among them."""
    for name in (
        "agents",
        "cleanrl",
        "data",
        "images",
        "imagenet",
        "lightning",
        "mario",
        "optimizers",
        "sklearn",
        "src",
    ):
        (folder / name).mkdir(parents=True)
    random = np.random.default_rng(0)

    shutil.copy(fixtures / "case_1_healthy.zip", folder / "agents" / "best_model.zip")
    shutil.copy(fixtures / "case_2_healthy.zip", folder / "agents" / "dqn.zip")
    normalizer = object_of("stable_baselines3.common.vec_env.vec_normalize", "VecNormalize")
    (folder / "agents" / "vecnormalize.pkl").write_bytes(normalizer)
    buffer = object_of("stable_baselines3.common.buffers", "ReplayBuffer")
    (folder / "agents" / "replay_buffer.pkl").write_bytes(buffer)
    (folder / "agents" / "monitor.csv").write_text("r,l,t\n1.0,200,3.5\n")

    model, adam, schedule = train(40)
    save_trainer(folder / "hf" / "checkpoint-40", model, adam, schedule)
    save_accelerate(folder / "hf" / "run", [model], [adam])
    save_shards(folder / "hf", model.state_dict(), safe=True)
    (folder / "hf" / "config.json").unlink()
    save_adapter(folder / "adapters" / "one", 1)
    save_adapter(folder / "adapters" / "two", 2)
    save(make_states()["by name"], folder / "sharded")

    whole = {"state_dict": model.state_dict(), "optimizer": adam.state_dict(), "epoch": 3, "best_acc1": 71.5}
    torch.save({**whole, "arch": "bert"}, folder / "imagenet" / "checkpoint.pth.tar")
    torch.save(model.state_dict(), folder / "imagenet" / "model_best.PT", _use_new_zipfile_serialization=False)
    torch.save(model.state_dict(), folder / "cleanrl" / "ppo.cleanrl_model")
    torch.save(model.state_dict(), folder / "mario" / "world_1")
    lightning = {
        "state_dict": model.state_dict(),
        "optimizer_states": [adam.state_dict()],
        "lr_schedulers": [schedule.state_dict()],
        "pytorch-lightning_version": "2.5.0",
        "global_step": 40,
        "epoch": 3,
        "callbacks": {},
        "loops": {},
    }
    torch.save(lightning, folder / "lightning" / "epoch=3.ckpt")
    (folder / "lightning" / "hparams.yaml").write_text("lr: 0.003\n")
    (folder / "lightning" / "events.out.tfevents.1").write_bytes(b"\x18\0\0\0\0\0\0\0\xa3\x7fK\x22" + random.bytes(300))
    torch.save(optimizer().state_dict(), folder / "optimizers" / "adam.pt")

    (folder / "sklearn" / "scaler.joblib").write_bytes(joblib_file())
    (folder / "sklearn" / "scaler.pkl").write_bytes(joblib_file())
    (folder / "sklearn" / "forest.pickle").write_bytes(object_of("sklearn.ensemble", "RandomForestClassifier"))

    data = folder / "data"
    np.save(data / "images.npy", random.normal(size=(4, 9)))
    np.savez(data / "splits.npz", x_train=random.normal(size=(4, 9)), y_train=np.arange(4))
    (data / "tokens.bin").write_bytes(np.arange(50_000, 60_000, dtype=np.uint16).tobytes())
    (data / "volume.raw").write_bytes(random.bytes(9000))
    (data / "expert.pkl").write_bytes(pickle.dumps({"observations": random.normal(size=(9, 3)), "actions": [1] * 9}))
    (data / "vocabulary.pkl").write_bytes(pickle.dumps({"the": 0, "a": 1}))
    (data / "old.pkl").write_bytes(pickle.dumps([{"reward": 1.5}] * 30, protocol=0))
    (data / "log.pkl").write_bytes(pickle.dumps({"loss": 0.5}) * 40)
    (data / "train.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    (data / "graph.p").write_bytes(object_of("networkx.classes.graph", "Graph"))
    with zipfile.ZipFile(data / "images.zip", "w") as archive:
        archive.writestr("cat.jpg", random.bytes(500))
    with tarfile.open(data / "images.tar", "w") as tar:
        member = tarfile.TarInfo("cat.jpg")
        member.size = 500
        tar.addfile(member, io.BytesIO(random.bytes(500)))

    for number in range(12):
        (folder / "images" / f"{number}.jpg").write_bytes(b"\xff\xd8\xff\xe0" + random.bytes(2000))
        (folder / "images" / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + random.bytes(2000))
    for name in ("train.py", "model.py", "README.md", "requirements.txt", "notes", "Makefile"):
        (folder / "src" / name).write_text("import torch  # (dp0\n" * 50)
    (folder / "src" / "demo.ipynb").write_text(json.dumps({"cells": []}))
    (folder / "paper.pdf").write_bytes(b"%PDF-1.4\n" + random.bytes(500))


@pytest.fixture
def repository(tmp_path: Path, fixtures: Path) -> Path:
    fill(tmp_path, fixtures)
    assert sum(path.is_file() for path in tmp_path.rglob("*")) >= 60
    return tmp_path


def verdicts(report: Report, folder: Path) -> dict[str, Verdict]:
    return {str(Path(each.path).relative_to(folder)): each.verdict for each in report.checkpoints}


def test_a_healthy_one_passes_with_one_entry_for_each_checkpoint(repository: Path) -> None:
    report = scan([repository])
    assert verdicts(report, repository) == dict.fromkeys(MODELS, Verdict.HEALTHY)
    assert [each for each in report.alerts if each.severity.label == "error"] == []
    assert verdict(report) == 0
    whys = {Path(each.what).name: each.why for each in report.passed_over}
    assert {"scaler.joblib", "scaler.pkl", "forest.pickle", "expert.pkl", "images.tar"} <= whys.keys()
    assert whys["scaler.joblib"] == whys["scaler.pkl"] == "is a joblib file"
    assert [Path(each.path).name for each in report.unsearched] == ["tokens.bin"]
    assert report.unrecognized[".jpg"] == report.unrecognized[".png"] == 12


def test_its_exit_code_comes_from_its_illnesses_alone(repository: Path) -> None:
    sick = Classifier().state_dict()
    sick["classifier.weight"][0, 0] = torch.nan
    torch.save(sick, repository / "mario" / "world_2")
    report = scan([repository])
    expected = {**dict.fromkeys(MODELS, Verdict.HEALTHY), "mario/world_2": Verdict.ILL}
    assert (verdicts(report, repository), verdict(report)) == (expected, 1)
    whole = repository / "cleanrl" / "ppo.cleanrl_model"
    whole.write_bytes(whole.read_bytes()[:-400])
    report = scan([repository])
    assert (verdicts(report, repository), verdict(report)) == (
        {**expected, "cleanrl/ppo.cleanrl_model": Verdict.UNREADABLE},
        2,
    )
