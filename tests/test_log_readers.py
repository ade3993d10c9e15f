"""Readers of training logs: what each kind of file comes to, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from conftest import ROOT

from checkpoint_doctor.acts.log import LogsBeside, examine_logs
from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.checkpoint import Metric, TrainingLog
from checkpoint_doctor.checkpoint.metric_meanings import Meaning, find_meaning
from checkpoint_doctor.config.settings import Config
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.plugins.log_opening import read_log
from checkpoint_doctor.plugins.protocols import LogReporter
from checkpoint_doctor.results.report import Page
from checkpoint_doctor.statistics.curves import CurveBuilder
from tests.command import run_command


def read(folder: Path, name: str, content: str | bytes) -> TrainingLog:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_log(path)


def metric(log: TrainingLog, name: str) -> Metric:
    return next(each for each in log.metrics if each.name == name)


def points(log: TrainingLog, name: str) -> list[tuple[float, float]]:
    curve = metric(log, name).recorded
    return list(zip(curve.steps.tolist(), curve.means.tolist(), strict=True))


SB3 = """rollout/ep_rew_mean,time/total_timesteps,train/loss,eval/mean_reward
20.5,2048,,
21.0,4096,0.5,
,5000,,33.0
nan,6144,0.4,
"""
MONITOR = '#{"t_start": 1.0, "env_id": "CartPole-v1"}\nr,l,t\n10.0,10,0.1\n20.0,20,0.2\nr,l,t\n30.0,30,0.3\n'
CONSOLE = """ready.
   Frame | Loss     | Agree%
---------+----------+-------
  36,000 | 0.00722  | 38.7%
     79k | 1.572e-2 | 40.1%
   Frame | Loss     | Agree%
---------+----------+-------
   1.02M | 0.01926  | 40.2%
"""
LIGHTNING = "epoch,step,train_loss\n0,49,1.5\n0,99,\n1,149,1.0\n"
WIDE = "step  train loss  lr\n1     2.0         1e-3\n2     1.0         1e-4\n"
UNFINISHED = '{"step": 1, "a": {"loss": 2}}\n{"step": 2, "lr": 1}\n{"step": 3, "a": {"loss": 1'
STATE = {
    "best_metric": 1.0,
    "log_history": [
        {"epoch": 0.1, "grad_norm": 2.5, "learning_rate": 1e-4, "loss": 2.0, "step": 10},
        {"epoch": 0.2, "grad_norm": "NaN", "learning_rate": 5e-5, "loss": 1.5, "step": 20},
        {"epoch": 0.2, "eval_loss": 1.6, "step": 20},
    ],
}


@pytest.mark.parametrize(
    ("name", "content", "kind", "column", "expected"),
    [
        ("progress.csv", SB3, "sb3 progress", "train/loss", [(4096, 0.5), (6144, 0.4)]),
        ("progress.csv", SB3, "sb3 progress", "eval/mean_reward", [(5000, 33.0)]),
        ("0.monitor.csv", MONITOR, "sb3 monitor", "r", [(10, 10.0), (30, 20.0), (60, 30.0)]),
        ("metrics.csv", LIGHTNING, "lightning", "train_loss", [(49, 1.5), (149, 1.0)]),
        ("log.csv", "epoch,loss,val_loss\n0,2.0,2.1\n1,1.0,1.2\n", "keras", "val_loss", [(0, 2.1), (1, 1.2)]),
        ("a.tsv", "step\tloss\tnote\n1\t2.0\tgood\n2\t1.0\tbad\n", "tsv", "loss", [(1, 2.0), (2, 1.0)]),
        ("a.csv", "step,loss\n1,2.0\n2,1.0\n" + "\0" * 900, "csv", "loss", [(1, 2.0), (2, 1.0)]),
        ("a.csv", "step;loss\r\n1;2.0\r\n2;1.0\r\n", "csv", "loss", [(1, 2.0), (2, 1.0)]),
        ("a.txt", CONSOLE, "table", "Loss", [(36_000, 0.00722), (79_000, 0.01572), (1_020_000, 0.01926)]),
        ("a.txt", CONSOLE, "table", "Agree%", [(36_000, 38.7), (79_000, 40.1), (1_020_000, 40.2)]),
        ("t.txt", WIDE, "table", "train loss", [(1, 2.0), (2, 1.0)]),
        ("a.jsonl", UNFINISHED, "json lines", "a/loss", [(1, 2.0)]),
        ("a.jsonl", '{"loss": 2.0}\n{"loss": NaN}\n', "json lines", "loss", [(0, 2.0), (1, np.nan)]),
        ("trainer_state.json", json.dumps(STATE), "transformers", "grad_norm", [(10, 2.5), (20, np.nan)]),
        ("trainer_state.json", json.dumps(STATE, indent=2), "transformers", "eval_loss", [(20, 1.6)]),
        ("h.json", json.dumps({"loss": [2.0, 1.0], "val_loss": [2.2, 1.1]}), "json", "loss", [(0, 2.0), (1, 1.0)]),
        ("h.json", json.dumps([{"step": 5, "loss": 2.0}, {"step": 6}]), "json", "loss", [(5, 2.0)]),
    ],
)  # fmt: skip
def test_kinds(tmp_path: Path, name: str, content: str, kind: str, column: str, expected: list) -> None:
    log = read(tmp_path, name, content)
    assert log.kind == kind
    np.testing.assert_array_equal(points(log, column), expected)


def test_evaluations(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.npz"
    np.savez(path, timesteps=[100, 200], results=[[1.0, 3.0], [5.0, 7.0]], ep_lengths=[[10, 10], [20, 20]])
    log = read_log(path)
    assert points(log, "eval/mean_reward") == [(100, 2.0), (200, 6.0)]
    objects = tmp_path / "objects.npz"
    np.savez(objects, timesteps=[1], results=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UnreadableCheckpoint, match="damaged, or no file of evaluations"):
        read_log(objects)


def test_a_file_of_tensorboard_is_read(tmp_path: Path) -> None:
    writers = pytest.importorskip("torch.utils.tensorboard")
    writer = writers.SummaryWriter(str(tmp_path))
    for step in range(5):
        writer.add_scalar("train/loss", 1.0 / (step + 1), step * 10)
    writer.close()
    log = read_log(next(tmp_path.iterdir()))
    assert [step for step, _ in points(log, "train/loss")] == [0, 10, 20, 30, 40]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "just some words\nand others\n", "no training log that is read"),
        ("a.json", '{"a": "b"}', "no training log that is read"),
        ("a.json", "[" * 100_000, "holds no list of records"),
        ("a.bin", bytes(range(256)) * 8, "no training log that is read"),
        ("a.csv", "step,loss\na,b\nc,d\n", "no training log that is read"),
        ("a.csv", "step,loss\n1,2\n".encode("utf-16"), "it is text in UTF-16"),
        ("a.csv", b"step,loss\n1,2\n\0\0\n3,4\n", "byte 14 is a zero, which no text has"),
    ],
)
def test_what_is_no_log_is_refused(tmp_path: Path, name: str, content: str | bytes, words: str) -> None:
    with pytest.raises(UnreadableCheckpoint, match=words):
        read(tmp_path, name, content)


def test_odd_lines_are_counted_and_the_last_one_is_not(tmp_path: Path) -> None:
    log = read(tmp_path, "a.csv", "step,loss\n1,2.0\n1\n2,1.0\n3,0.5,9\n4,0.4\n5")
    assert points(log, "loss") == [(1, 2.0), (2, 1.0), (4, 0.4)]
    assert [each.what for each in log.skipped] == ["2 lines"]


def test_a_resumed_run_replaces_what_it_writes_again(tmp_path: Path) -> None:
    rows = [(0, 9), (10, 8), (20, 7), (30, 6), (20, 5), (30, 4), (40, 3)]
    text = "step,loss\n" + "".join(f"{step},{loss}\n" for step, loss in rows[:4])
    text += "step,loss\n" + "".join(f"{step},{loss}\n" for step, loss in rows[4:])
    curve = metric(read(tmp_path, "a.csv", text), "loss").curve
    assert list(zip(curve.steps, curve.means, strict=True)) == [(0, 9), (10, 8), (20, 5), (30, 4), (40, 3)]


def test_a_long_curve_keeps_what_its_numbers_were() -> None:
    values = np.random.default_rng(0).normal(size=10_001)
    values[5000], values[777] = np.nan, 50.0
    builder = CurveBuilder(most_buckets=64)
    for part in np.array_split(np.arange(10_001), 37):
        builder.add(part.astype(float), values[part])
    curve = builder.finish()
    assert curve.steps.size <= 65
    assert curve.count == 10_001
    assert (curve.first, curve.last) == (values[0], values[-1])
    assert int(curve.nonfinite.sum()) == 1
    assert curve.maxima.max() == 50.0
    assert curve.minima.min() == np.nanmin(values)
    weights = curve.counts - curve.nonfinite
    assert np.isclose((curve.means * weights).sum() / weights.sum(), np.nanmean(values))
    assert (np.diff(curve.steps) > 0).all()


NAMES = {
    Meaning.STEP: "time/total_timesteps global_step epoch Frame train/n_updates time/iterations",
    Meaning.TIME: "time/fps time/time_elapsed train_runtime train_samples_per_second t",
    Meaning.LEARNING_RATE: "train/learning_rate lr lr-AdamW/pg1 LR",
    Meaning.NORM: "grad_norm GradNorm train/grad_norm_step weight_norm total_norm grad",
    Meaning.OBJECTIVE: "train/policy_gradient_loss train/actor_loss train/entropy_loss train/ent_coef_loss kl_loss",
    Meaning.LOSS: "train/loss val_loss train/value_loss critic_loss DLoss CLoss perplexity cross_entropy loss_epoch",
    Meaning.ENTROPY: "policy/entropy entropy",
    Meaning.ACCURACY: "val_acc accuracy eval/success_rate Agree% acc1 top1 eval_f1",
    Meaning.REWARD: "rollout/ep_rew_mean eval/mean_reward r Rwrd episode_return",
    Meaning.RATE: "train/clip_fraction rollout/exploration_rate Epsi",
    Meaning.OTHER: "train/ent_coef reward_std loss_scale rollout/ep_len_mean train/approx_kl train/clip_range FPSx",
}  # fmt: skip


@pytest.mark.parametrize(("meaning", "name"), [(key, name) for key, names in NAMES.items() for name in names.split()])
def test_meanings(meaning: Meaning, name: str) -> None:
    assert find_meaning(name) is meaning


def test_a_configuration_says_what_a_metric_means(tmp_path: Path) -> None:
    (tmp_path / "ckdoc.toml").write_text('[metrics]\n"match_*" = "accuracy"\n')
    rows = [1, 3, 5, 7, 9, 9, 9, 7, 5, 4, 3, 2, 1, 1, 1]
    (tmp_path / "a.csv").write_text("step,match_a\n" + "".join(f"{n},{row}\n" for n, row in enumerate(rows)))
    assert run(tmp_path, "a.csv", "--fail-on", "warning").returncode == 1
    (tmp_path / "ckdoc.toml").write_text('[metrics]\n"match_*" = "acuracy"\n')
    refused = run(tmp_path, "a.csv")
    assert refused.returncode == 2
    assert "did you mean 'accuracy'?" in refused.stderr


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command("log", *arguments, cwd=folder)


def write_log(path: Path, norm: str) -> Path:
    path.write_text("step,loss,grad_norm\n" + "".join(f"{n},{9 - n},{norm}\n" for n in range(8)))
    return path


def test_exit_codes(tmp_path: Path) -> None:
    write_log(tmp_path / "ill.csv", "0.000")
    (tmp_path / "empty").mkdir()
    shown = run(tmp_path, "ill.csv")
    assert shown.returncode == 1
    assert "LOG001 unrecorded-metric" in shown.stdout
    assert run(tmp_path, "ill.csv", "--fail-on", "never", "-q").returncode == 0
    assert run(tmp_path, "missing.csv").returncode == 2
    assert run(tmp_path, "empty").returncode == 3


def test_an_ignore_hides_a_finding_and_one_that_nothing_needs_is_named(tmp_path: Path) -> None:
    write_log(tmp_path / "ill.csv", "0.000")
    ignore = '[[ignore]]\ncode = "{code}"\nreason = "it is known"\n'
    (tmp_path / "ckdoc.toml").write_text(ignore.format(code="LOG001") + ignore.format(code="LOG004"))
    shown = run(tmp_path, "ill.csv")
    assert shown.returncode == 0
    assert "1 hidden by config" in shown.stdout
    assert "1 finding hidden" in shown.stdout
    assert "ignore[1] (LOG004: it is known)" in shown.stdout


def test_every_format_tells_of_logs(tmp_path: Path) -> None:
    ill, fine = write_log(tmp_path / "ill.csv", "0.000"), write_log(tmp_path / "fine.csv", "0.5")
    report = examine_logs([ill, fine])
    assert report.summary_line == "2 logs (1 ill, 1 healthy), 6 metrics, 11 rules, 1 finding"
    catalogue = discover()
    for name, reporter in catalogue.reporters.items():
        if isinstance(reporter, LogReporter):
            text = reporter.render_logs(report, catalogue.rules, Page())
        elif name != "parquet":
            text = reporter.render(report.report, catalogue.rules, Page())
        assert "LOG001" in text, name
        if name == "json":
            document = json.loads(text)
    schema = json.loads((ROOT / "docs" / "log.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(document, schema)
    log, healthy = document["logs"]
    assert (document["schema_version"], log["kind"], log["verdict"]) == (1, "csv", "ill")
    assert log["metrics"][1] == {"name": "loss", "kind": "loss", "count": 8, "first": 9.0, "last": 2.0, "nonfinite": 0}
    assert log["findings"][0]["evidence"]["metric"] == "grad_norm"
    assert (healthy["verdict"], healthy["findings"]) == ("healthy", [])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    block = "".join(f"{n},{n / 7:.5f},,{n % 13}\n" for n in range(100_000))
    path = tmp_path / "long.csv"
    with path.open("w") as file:
        file.write("step,loss,val_loss,lr\n")
        for _ in range(8):
            file.write(block)
    code = (
        "import sys; from checkpoint_doctor.plugins.log_opening import read_log; read_log(sys.argv[1]); "
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, env=environment)
    assert int(done.stdout) < 100_000, done.stderr


def test_a_diagnosis_takes_up_the_log_beside_the_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=2.0)
    records = []
    for step in range(300):
        inputs = torch.randn(32, 8)
        loss = (net(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        records.append(f"{step},{loss.item():.6g}\n")
    torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict(), "step": 300}, tmp_path / "model.pt")
    catalogue = discover()
    alone = scan([tmp_path / "model.pt"])
    assert [each.cause for each in alone.diagnoses] == ["learning-rate-too-high"]
    rising = "".join(f"{step},{0.1 if step < 150 else 5.0 + step / 100}\n" for step in range(600))
    falling = "".join(f"{step},{9 - step / 100}\n" for step in range(300))
    for rows, words in ((rising, "metrics.csv: train_loss rises"), (falling, "")):
        (tmp_path / "metrics.csv").write_text("step,train_loss\n" + rows)
        [diagnosis] = LogsBeside(catalogue, Config()).take_up(alone.checkpoints[0]).diagnoses
        assert words in diagnosis.evidence.get("log", "")
        assert ("log" in diagnosis.evidence) is bool(words)
