"""What helps an agent that sees raw prices: repair and training on, or scaled observations.

Run as ``python -m benchmarks.raw_prices [--steps 20000]``. A PPO agent balances a pole and sees what it must know
beside the size of prices: every observation times 100, plus 64,000. It is trained, repaired by ``ckdoc fix`` with every
option, trained on, and trained on with ``VecNormalize`` in front. Prints the return of ten episodes after each, with
what ``ckdoc`` says of the agent. CPU, some minutes, seeded.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from checkpoint_doctor import FixOptions, fix, scan


def make_environment() -> gymnasium.Env[np.ndarray, np.int64]:
    """CartPole whose observations have the size of prices."""
    inner = gymnasium.make("CartPole-v1")
    space = gymnasium.spaces.Box(-np.inf, np.inf, inner.observation_space.shape, np.float32)
    return gymnasium.wrappers.TransformObservation(inner, lambda seen: 64_000 + 100 * seen, space)


def scale(environment: VecEnv) -> VecEnv:
    """Put running statistics in front."""
    return VecNormalize(environment, norm_reward=False)


def describe(path: Path) -> str:
    """Say what ckdoc finds first, and what its repair comes to."""
    (examination,) = scan([path]).checkpoints
    (result,) = fix([path], FixOptions(recycle=True, unsafe=True, force=True))
    first = examination.diagnoses[0].cause if examination.diagnoses else "no diagnosis"
    return f"{examination.verdict.value}, {first}; fix: {result.outcome.value}"


def evaluate(agent: PPO) -> float:
    """Return the mean return of ten episodes, with the statistics of the agent's own environment."""
    environment = agent.get_env()
    assert environment is not None
    if isinstance(environment, VecNormalize):
        environment.training = False
    mean, _ = evaluate_policy(agent, environment, n_eval_episodes=10, warn=False)
    if isinstance(environment, VecNormalize):
        environment.training = True
    return float(mean)  # type: ignore[arg-type]


def main() -> None:
    """Train, judge and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000, help="environment steps of each training")
    steps = parser.parse_args().steps

    def train_on(path: Path, wrap: Callable[[VecEnv], VecEnv]) -> PPO:
        agent = PPO.load(path, env=wrap(DummyVecEnv([make_environment])), device="cpu")
        return agent.learn(steps, reset_num_timesteps=False)

    with tempfile.TemporaryDirectory() as folder:
        sick = Path(folder) / "prices.zip"
        agent = PPO("MlpPolicy", DummyVecEnv([make_environment]), seed=0, device="cpu").learn(steps)
        agent.save(sick)
        print(f"trained on raw prices: return {evaluate(agent):.0f} ({describe(sick)})")
        repaired = sick.with_name("prices_FIXED.zip")
        if repaired.exists():
            again = train_on(repaired, lambda environment: environment)
            again.save(repaired)
            print(f"repaired and trained on: return {evaluate(again):.0f} ({describe(repaired)})")
        for name, wrap in (("trained on", lambda environment: environment), ("trained on with VecNormalize", scale)):
            after = train_on(sick, wrap)
            path = sick.with_name("after.zip")
            after.save(path)
            print(f"{name}: return {evaluate(after):.0f} ({describe(path)})")
        fresh = PPO("MlpPolicy", scale(DummyVecEnv([make_environment])), seed=0, device="cpu").learn(steps)
        path = sick.with_name("fresh.zip")
        fresh.save(path)
        print(f"trained anew with VecNormalize: return {evaluate(fresh):.0f} ({describe(path)})")


if __name__ == "__main__":
    main()
