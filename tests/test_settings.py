"""Settings beside their ranges: what is usual, what is not, and that every value is what the library itself loads."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from msgspec.structs import replace
from rich.cells import cell_len

from checkpoint_doctor.acts.compare import compare
from checkpoint_doctor.acts.fix import FixOptions, fix
from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.builtin.analyzers.settings.optimizer_settings import learning_rate_range
from checkpoint_doctor.builtin.analyzers.settings.run_settings import (
    batch_and_rollout,
    frozen_fraction,
    gradient_clipping,
    warmup,
    weight_decay_on_norms,
)
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.checkpoint.reviewed_settings import Verdict, judge, review_settings
from checkpoint_doctor.checkpoint.setting_ranges import Evidence, Range, find_ranges, known_ranges
from checkpoint_doctor.config.file import load_config
from checkpoint_doctor.config.settings import Config
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.plugins.opening import open_checkpoint
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.testing import build_checkpoint, check_rule, findings_of
from tests.command import run_command

NOTE, WARNING = Severity.NOTE, Severity.WARNING


def agent(algorithm: str = "PPO", **settings: Any) -> Checkpoint:
    state = {"net.0.weight": {"step": 100, "exp_avg": np.full((4, 4), 1e-3), "exp_avg_sq": np.full((4, 4), 1e-4)}}
    return build_checkpoint(
        {"net.0.weight": np.random.default_rng(0).normal(size=(4, 4))},
        optimizer=state, format="sb3", algorithm=algorithm, hyperparameters=settings, step=5000,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("algorithm", "setting", "value", "verdict"),
    [
        ("PPO", "learning_rate", 2.678e-5, Verdict.USUAL),
        ("PPO", "learning_rate", 3e-4, Verdict.DEFAULT),
        ("PPO", "learning_rate", 1.5e-3, Verdict.UNTUNED),
        ("PPO", "learning_rate", 2.1e-3, Verdict.HIGH),
        ("PPO", "learning_rate", 9e-6, Verdict.LOW),
        ("SAC", "learning_rate", 5e-3, Verdict.HIGH),
        ("SAC", "learning_rate", 1e-4, Verdict.UNTUNED),
        ("DQN", "learning_rate", 4e-3, Verdict.USUAL),  # tuned, although the search ends at 2e-3
        ("DQN", "learning_rate", 4.1e-3, Verdict.HIGH),
        ("PPO", "max_grad_norm", 5.0, Verdict.USUAL),
        ("TD3", "batch_size", 100, Verdict.DEFAULT),  # before 2.3
        ("PPO", "vf_coef", 0.9, Verdict.UNKNOWN),
        ("NewAlgorithm", "learning_rate", 1e-3, Verdict.USUAL),
        ("PPO", "clip_range", 0.0824, Verdict.UNTUNED),
    ],
)
def test_where_a_value_lies(algorithm: str, setting: str, value: float, verdict: Verdict) -> None:
    assert judge(value, find_ranges((algorithm,), setting))[0] is verdict


def test_an_own_range_comes_first() -> None:
    own = [Range("SAC", "learning_rate", 1e-4, 1e-2, Evidence.OWN, "ckdoc.toml")]
    assert judge(5e-3, find_ranges(("SAC",), "learning_rate", own))[0] is Verdict.OWN
    assert judge(2e-2, find_ranges(("SAC",), "learning_rate", own))[0] is Verdict.HIGH
    assert judge(5e-3, find_ranges(("PPO",), "learning_rate", own))[0] is Verdict.HIGH


def test_every_range_has_a_source() -> None:
    for each in known_ranges():
        assert each.low <= each.high
        assert each.source
        assert isinstance(each.kind, Evidence)


@pytest.mark.parametrize(
    ("rule", "checkpoint", "severity", "words"),
    [
        (
            learning_rate_range,
            agent("SAC", learning_rate=5e-3),
            WARNING,
            "0.005, unusually high; the tuned range is 0.0003 to",
        ),
        (
            learning_rate_range,
            agent("SAC", learning_rate={"class": "linear", "value": 5e-3}),
            WARNING,
            "unusually high",
        ),
        (learning_rate_range, agent("SAC", learning_rate=1e-4), NOTE, "outside the tuned range"),
        (learning_rate_range, agent("PPO", learning_rate=2.678e-5), None, ""),
        (learning_rate_range, agent("PPO", learning_rate=0.0), None, ""),
        (learning_rate_range, agent("ARS", learning_rate=0.05), None, ""),
        (gradient_clipping, agent("SAC", max_grad_norm=0.5), WARNING, "SAC of Stable-Baselines3 has no such argument"),
        (gradient_clipping, agent("TRPO", max_grad_norm=0.0), None, ""),
        (gradient_clipping, agent("SAC"), None, ""),
        (gradient_clipping, agent("PPO", max_grad_norm=0.5), None, ""),
        (gradient_clipping, agent("PPO", max_grad_norm=0.0), WARNING, "every gradient becomes zero"),
        (gradient_clipping, agent("PPO", max_grad_norm=-1.0), WARNING, "turned round"),
        (gradient_clipping, agent("PPO", max_grad_norm=50.0), NOTE, "unusually high (0.3 to 5)"),
        (gradient_clipping, agent("QRDQN", max_grad_norm=None), None, ""),
        (batch_and_rollout, agent(batch_size=64, n_steps=2048, n_envs=1, clip_range=0.2), None, ""),
        (
            batch_and_rollout,
            agent(batch_size=256, n_steps=8, n_envs=1, clip_range=0.2),
            NOTE,
            "is larger than a rollout of 8",
        ),
        (batch_and_rollout, agent(batch_size=60, n_steps=128, n_envs=1, clip_range=0.2), NOTE, "does not divide"),
        (batch_and_rollout, agent(batch_size=1, n_steps=128, n_envs=1, clip_range=0.2), WARNING, "not a number"),
        (
            batch_and_rollout,
            agent("SAC", learning_starts=5000, _total_timesteps=5000),
            WARNING,
            "no update is ever made",
        ),
        (batch_and_rollout, agent("SAC", learning_starts=100, _total_timesteps=5000), None, ""),
        (  # the counters of the timesteps began anew, and the model had been trained before
            batch_and_rollout,
            replace(agent("SAC", learning_starts=5000, _total_timesteps=5000), updates=900),
            None,
            "",
        ),
        (
            warmup,
            build_checkpoint({"a": [1.0]}, step=800, hyperparameters={"warmup_steps": 1000}),
            NOTE,
            "step 800 of a warm-up",
        ),
        (warmup, build_checkpoint({"a": [1.0]}, step=1000, hyperparameters={"warmup_steps": 1000}), None, ""),
        (
            warmup,
            build_checkpoint({"a": [1.0]}, step=900, hyperparameters={"warmup_ratio": 0.6, "max_steps": 1000}),
            NOTE,
            "600 of 1,000",
        ),
        (warmup, build_checkpoint({"a": [1.0]}, step=9), None, ""),
    ],
)
def test_settings(rule: Rule, checkpoint: Checkpoint, severity: Severity | None, words: str) -> None:
    check_rule(rule)
    found = findings_of(rule, checkpoint)
    assert [each.severity for each in found] == ([] if severity is None else [severity])
    assert all(words in each.message for each in found)


def network(held: tuple[str, ...], **options: Any) -> Checkpoint:
    tensors = {"backbone.0.weight": np.ones((8, 8)), "head.weight": np.ones((4, 8)), "norm.weight": np.ones(8),
               "norm.bias": np.zeros(8)}  # fmt: skip
    state = {
        name: {
            "step": 9,
            "exp_avg": np.full(tensors[name].shape, 1e-3),
            "exp_avg_sq": np.full(tensors[name].shape, 1e-4),
        }
        for name in held
    }
    given = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, **options}
    return build_checkpoint(tensors, optimizer=state, optimizer_kind="AdamW", optimizer_options=given, step=9)


def test_frozen_parts_are_counted_and_named() -> None:
    [finding] = findings_of(frozen_fraction, network(("head.weight", "norm.weight", "norm.bias")))
    assert finding.severity is NOTE
    assert finding.message == "48 parameters are trained and 64 frozen (57%), most of them in backbone"
    whole = network(("backbone.0.weight", "head.weight", "norm.weight", "norm.bias"))
    assert not findings_of(frozen_fraction, whole)
    figures = {each.name: each.value for each in review_settings(network(("head.weight",)))}
    assert figures["optimizer parameters"] == figures["trained parameters"] == 32
    assert figures["frozen parameters"] == 80
    assert figures["optimizer beta2"] == 0.95
    assert figures["optimizer gradient norm"] > 0
    assert figures["optimizer effective step"] > 0


def test_weight_decay_on_norms() -> None:
    everything = ("backbone.0.weight", "head.weight", "norm.weight", "norm.bias")
    assert findings_of(weight_decay_on_norms, network(everything, weight_decay=0.1))
    assert not findings_of(weight_decay_on_norms, network(everything, weight_decay=0.01))
    assert not findings_of(weight_decay_on_norms, network(("head.weight",), weight_decay=0.1))


LOADED = ("learning_rate", "gamma", "batch_size", "n_steps", "n_epochs", "gae_lambda", "ent_coef", "vf_coef",
          "max_grad_norm", "tau", "buffer_size", "learning_starts", "target_update_interval")  # fmt: skip


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("PPO", {"learning_rate": 2.5e-4, "n_steps": 64, "clip_range": 0.3}),
        ("PPO", {"learning_rate": lambda left: 1e-3 * left, "n_steps": 64}),
        ("SAC", {"learning_rate": 5e-3, "buffer_size": 1000}),
        ("TD3", {"buffer_size": 1000, "tau": 0.01}),
    ],
)
def test_every_value_is_what_the_library_loads(tmp_path: Path, algorithm: str, options: dict[str, Any]) -> None:
    kind = getattr(sb3, algorithm)
    kind("MlpPolicy", gymnasium.make("Pendulum-v1"), **options).save(tmp_path / "model.zip")
    model = kind.load(tmp_path / "model.zip")
    reviewed = {each.name: each.value for each in review_settings(open_checkpoint(tmp_path / "model.zip"))}
    compared = 0
    for name in LOADED:
        loaded = getattr(model, name, None)
        if name == "learning_rate":
            loaded = model.lr_schedule(1.0)
        if isinstance(loaded, (int, float)) and reviewed.get(name) is not None:
            assert reviewed[name] == pytest.approx(loaded, rel=1e-12), name
            compared += 1
    assert compared >= 5
    if algorithm == "PPO":
        assert reviewed["clip_range"] == model.clip_range(1.0)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("model.json", '{"algorithm": "SAC", "model": {"max_grad_norm": 0.5, "learning_rate": 1.0}, "name": "run"}'),
        ("hparams.yaml", "max_grad_norm: 0.5\nlearning_rate: 1.0\n"),
    ],
)
def test_settings_beside_the_file(tmp_path: Path, fixtures: Path, name: str, text: str) -> None:
    (tmp_path / "model.zip").write_bytes((fixtures / "case_2_overwritten.zip").read_bytes())
    (tmp_path / name).write_text(text)
    checkpoint = open_checkpoint(tmp_path / "model.zip")
    assert checkpoint.hyperparameters["learning_rate"] == 5e-3  # the file itself knows better
    [finding] = findings_of(gradient_clipping, checkpoint)
    assert "SAC of Stable-Baselines3 has no such argument" in finding.message


def beside(folder: Path, text: str, name: str = "args.yml") -> Checkpoint:
    """A state dict without settings beside such a file."""
    torch.save({"layer.weight": torch.ones(2, 2)}, folder / "model.pt")
    (folder / name).write_text(text)
    return open_checkpoint(folder / "model.pt")


DUMPED = """!!python/object/apply:collections.OrderedDict
- - - batch_size
    - 256
  - - learning_rate
    - 1e-3
  - - policy_kwargs
    - dict(net_arch=[64, 64])
  - - gamma
    - 0.98
"""
NAMESPACE = "args: !!python/object:argparse.Namespace\n  lr: 0.5\n  betas: !!python/tuple [0.9, 0.99]\n"
ALIASES = "a: &x {gamma: 0.9}\n" + "".join(f"k{number}: *x\n" for number in range(4000))
BOMB = "a: &a [1]\n" + "".join(f"{two}: &{two} [*{one}, *{one}]\n" for one, two in pairwise("abcdefghijklmnopqrstuvw"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DUMPED, {"batch_size": 256, "learning_rate": 1e-3, "gamma": 0.98}),
        (NAMESPACE, {"lr": 0.5}),
        ("lr: 0.1 # a & b\nclip: yes\nname: 'x & y'\n", {"lr": 0.1}),
        ("lr: '0.1'\n", {}),
        (ALIASES, {"gamma": 0.9}),
        (BOMB + "gamma: 0.9\n", {"gamma": 0.9}),
        ("a: &a\n  b: *a\ngamma: 0.9\n", {}),  # contains itself
        ("[" * 5000, {}),
        ("lr: [\n", {}),
        ("", {}),
    ],
    ids=["dumped", "namespace", "comments", "text", "aliases", "bomb", "recursive", "deep", "broken", "empty"],
)
def test_yaml_as_programs_dump_it(tmp_path: Path, text: str, expected: dict[str, float]) -> None:
    checkpoint = beside(tmp_path, text)
    assert checkpoint.hyperparameters == expected
    assert checkpoint.skipped == ()


@pytest.mark.parametrize(
    "tag",
    ["python/object/apply:os.system ['touch {}']", "python/object/new:os.system ['touch {}']", "python/name:os.system"],
)
def test_yaml_that_asks_for_objects_is_named_and_the_rest_is_read(tmp_path: Path, tag: str) -> None:
    touched = tmp_path / "touched"
    checkpoint = beside(
        tmp_path, f"max_grad_norm: !!{tag.format(touched)}\ngamma: 0.9\nother: !!{tag.format(touched)}\n"
    )
    assert checkpoint.hyperparameters == {"gamma": 0.9}
    [skipped] = checkpoint.skipped
    assert skipped.what == "setting max_grad_norm"
    assert skipped.why.startswith(f"args.yml holds it as !!{tag.split()[0]}")
    assert not touched.exists()


def test_own_ranges_count_wherever_settings_are_judged(tmp_path: Path, fixtures: Path) -> None:
    (tmp_path / "ckdoc.toml").write_text("[ranges.SAC]\nlearning_rate = [1e-4, 1e-2]\n")
    own = load_config(discover().rules, file=str(tmp_path / "ckdoc.toml"))
    paths = [str(fixtures / name) for name in ("case_2_healthy.zip", "case_2_overwritten.zip")]
    for config, speaks in ((Config(), True), (own, False)):
        [series] = compare(paths, config=config).series
        [planned] = fix(paths[1], FixOptions(dry_run=True), config=config)
        for findings in (scan(paths[1], config=config).findings, series.counted, planned.examination.findings):
            assert any(each.code == "HYP001" for each in findings) is speaks


def test_published_agents_have_no_warning_about_a_tuned_setting(corpus: Path) -> None:
    found = 0
    for path in sorted(corpus.glob("rl-trained-agents/*/*/*.zip")):
        checkpoint = open_checkpoint(path)
        found += 1
        for rule in (learning_rate_range, gradient_clipping, batch_and_rollout):
            assert [each.message for each in findings_of(rule, checkpoint) if each.severity > NOTE] == [], path
    assert found > 10


@pytest.mark.parametrize("name", ["CartPole-v1", "BipedalWalkerHardcore-v3"])
def test_published_agents_that_were_saved_with_a_negative_rate(corpus: Path, name: str) -> None:
    [agent] = scan([corpus / "rl-trained-agents" / "ppo" / f"{name}_1" / f"{name}.zip"]).checkpoints
    [found] = [each for each in agent.diagnoses if each.cause == "schedule"]
    assert "was saved with a negative learning rate" in found.message


@pytest.mark.parametrize("columns", [20, 40, 80, 100])
def test_no_column_is_left_out_where_the_table_is_too_wide(columns: int, tmp_path: Path, fixtures: Path) -> None:
    case = fixtures / "case_2_overwritten.zip"
    printed = run_command("scan", "--settings", case, cwd=tmp_path, environment={"COLUMNS": str(columns)}).stdout
    assert max(map(cell_len, printed.splitlines()[:-1])) <= columns
    words = " ".join(printed.split())
    assert "learning_rate 0.005: unusually high (0.0003 to 0.001) tuned range: RL Baselines3 Zoo" in words
    assert "n_steps 1: no range is known" in words


def test_the_table(tmp_path: Path, fixtures: Path) -> None:
    case = fixtures / "case_2_overwritten.zip"
    printed = run_command("scan", "--settings", case, cwd=tmp_path, environment={"COLUMNS": "140"}).stdout
    lines = [line.split("  ") for line in printed.splitlines()]
    cells = {line[1]: [each.strip() for each in line[2:] if each.strip()] for line in lines if len(line) > 2}
    assert cells["learning_rate"][:3] == ["0.005", "0.0003 to 0.001", "unusually high"]
    assert cells["learning_rate"][3].startswith("tuned range: RL Baselines3 Zoo")
    assert cells["max_grad_norm"] == ["–", "no such setting", "SAC of Stable-Baselines3 does not clip gradients"]
    (examination,) = scan([fixtures / "case_2_overwritten.zip"]).checkpoints
    assert examination.settings == ()
