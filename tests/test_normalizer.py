"""What lies beside an agent: the statistics of its observations, sound or not, its own or another's, and its buffer."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.checkpoint import Content
from checkpoint_doctor.checkpoint.reviewed_settings import review_settings
from checkpoint_doctor.plugins.opening import open_checkpoint
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.results.report import Examination


def _large(seen: Any) -> Any:
    return 5000 + 100 * seen


def _make(is_raw: bool) -> Callable[[], gymnasium.Env]:
    def make() -> gymnasium.Env:
        inner = gymnasium.make("CartPole-v1")
        if not is_raw:
            return inner
        space = gymnasium.spaces.Box(-np.inf, np.inf, inner.observation_space.shape, np.float64)
        return gymnasium.wrappers.TransformObservation(inner, _large, space)

    return make


def train(folder: Path, *, is_normalized: bool, is_raw: bool = False) -> None:
    """Train an agent for a moment and save it, with statistics of its observations beside it."""
    environment = DummyVecEnv([lambda: Monitor(_make(is_raw)())])
    normalized = VecNormalize(environment)
    model = PPO("MlpPolicy", normalized if is_normalized else environment, n_steps=128, batch_size=64, seed=0)
    model.learn(1024)
    if not is_normalized:
        normalized.reset()
        for _ in range(200):
            normalized.step([normalized.action_space.sample()])
    model.save(folder / "model.zip")
    normalized.save(str(folder / "vecnormalize.pkl"))


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agent")
    train(folder, is_normalized=True)
    return folder


def examine(folder: Path) -> Examination:
    (examination,) = scan([folder / "model.zip"]).checkpoints
    assert examination.error is None
    return examination


def about_statistics(folder: Path) -> list[tuple[str, Severity, Any]]:
    return [
        (each.code, each.severity, each.evidence.get("what"))
        for each in examine(folder).findings
        if each.code in ("POL005", "POL006")
    ]


def change(agent: Path, folder: Path, act: Callable[[VecNormalize], None]) -> None:
    shutil.copy(agent / "model.zip", folder)
    normalized = VecNormalize.load(str(agent / "vecnormalize.pkl"), DummyVecEnv([_make(False)]))
    act(normalized)
    normalized.save(str(folder / "vecnormalize.pkl"))


def test_statistics_beside_the_model_are_read(agent: Path) -> None:
    checkpoint = open_checkpoint(agent / "model.zip")
    (part,) = checkpoint.parts
    with (agent / "vecnormalize.pkl").open("rb") as file:
        loaded = pickle.load(file)
    assert part.content is Content.NORMALIZATION
    assert part.values["observations"]["mean"] == loaded.obs_rms.mean.tolist()
    assert part.values["observations"]["variance"] == loaded.obs_rms.var.tolist()
    assert part.values["observations"]["count"] == loaded.obs_rms.count
    assert about_statistics(agent) == []


def test_statistics_that_are_not_there_are_missed(agent: Path, tmp_path: Path) -> None:
    shutil.copy(agent / "model.zip", tmp_path)
    assert about_statistics(tmp_path) == [("POL005", Severity.NOTE, None)]


def _still(each: VecNormalize) -> None:
    each.obs_rms.var[2] = 0.0


def _impossible(each: VecNormalize) -> None:
    each.obs_rms.mean[1] = np.nan


def _exploded(each: VecNormalize) -> None:
    each.obs_rms.count = 1e15


def _of_another(each: VecNormalize) -> None:
    each.obs_rms.mean, each.obs_rms.var = np.zeros(6), np.ones(6)


@pytest.mark.parametrize(
    ("act", "severity", "what"),
    [
        (_still, Severity.NOTE, "constant"),
        (_impossible, Severity.ERROR, "impossible"),
        (_exploded, Severity.WARNING, "count"),
        (_of_another, Severity.WARNING, "another agent"),
    ],
)
def test_statistics_that_are_not_sound(
    agent: Path, tmp_path: Path, act: Callable[[VecNormalize], None], severity: Severity, what: str
) -> None:
    change(agent, tmp_path, act)
    assert ("POL006", severity, what) in about_statistics(tmp_path)


def test_an_agent_that_saw_raw_observations(tmp_path: Path) -> None:
    train(tmp_path, is_normalized=False, is_raw=True)
    assert ("POL006", Severity.WARNING, "raw observations") in about_statistics(tmp_path)


class _Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch /tmp/ckdoc_was_here",)


def test_a_hostile_file_is_named_and_not_executed(agent: Path, tmp_path: Path) -> None:
    shutil.copy(agent / "model.zip", tmp_path)
    (tmp_path / "vecnormalize.pkl").write_bytes(pickle.dumps(_Hostile()))
    mark = Path("/tmp/ckdoc_was_here")
    mark.unlink(missing_ok=True)
    examination = examine(tmp_path)
    assert not mark.exists()
    assert [each.severity for each in examination.findings if each.code == "FIL002"] == [Severity.ERROR]
    assert any(each.what == "vecnormalize.pkl" for each in examination.skipped)


def test_names_that_a_callback_gives(agent: Path, tmp_path: Path) -> None:
    shutil.copy(agent / "model.zip", tmp_path / "rl_model_1024_steps.zip")
    shutil.copy(agent / "vecnormalize.pkl", tmp_path / "rl_model_vecnormalize_1024_steps.pkl")
    (tmp_path / "rl_model_replay_buffer_1024_steps.pkl").write_bytes(b"\x80\x04.")
    parts = open_checkpoint(tmp_path / "rl_model_1024_steps.zip").parts
    assert [(each.name, each.content) for each in parts] == [
        ("rl_model_vecnormalize_1024_steps.pkl", Content.NORMALIZATION),
        ("rl_model_replay_buffer_1024_steps.pkl", Content.REPLAY_BUFFER),
    ]


def test_rewards_of_recent_episodes(agent: Path) -> None:
    model = PPO.load(agent / "model.zip")
    rewards = [each["r"] for each in model.ep_info_buffer]
    shown = {each.name: each for each in review_settings(open_checkpoint(agent / "model.zip"))}
    assert shown["mean episode reward"].value == pytest.approx(np.mean(rewards))
    assert shown["mean episode reward"].source == f"of the last {len(rewards)} episodes in training"
