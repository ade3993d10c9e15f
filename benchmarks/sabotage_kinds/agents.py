"""Agents of Stable-Baselines3, trained with settings or observations that make them ill."""

from __future__ import annotations

import copy
from pathlib import Path

from sb3_contrib import MaskablePPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm

from benchmarks.sabotage_kinds.pairs import Pair, decoy, kind
from benchmarks.sabotage_kinds.reach import CONTINUOUS, DISCRETE, Reach, World, beside_healthy, train

MLP = ("mlp_extractor", "action_net", "value_net", "policy.optimizer")
ACTOR, CRITIC = ("actor", "actor.optimizer"), ("critic", "critic.optimizer")


@kind("never-started")
def policy_delay_of_a_million(folder: Path) -> Pair:
    """``policy_delay`` is 1,000,000: the actor's optimizer is empty beside the critic's 600 updates."""
    return beside_healthy(folder, train(TD3, CONTINUOUS, policy_delay=1_000_000), CONTINUOUS, *ACTOR)


@kind("never-started")
def learning_starts_after_the_end(folder: Path) -> Pair:
    """``learning_starts`` lies beyond the end: 1,500 timesteps, no update, empty state."""
    ill = train(DQN, DISCRETE, learning_starts=50_000)
    return beside_healthy(folder, ill, DISCRETE, "q_net", "policy.optimizer")


@kind("never-started")
def learning_starts_after_the_end_of_sac(folder: Path) -> Pair:
    """``learning_starts`` lies beyond the end: 700 timesteps, no update, all optimizers empty."""
    ill = train(SAC, CONTINUOUS, learning_starts=50_000)
    return beside_healthy(folder, ill, CONTINUOUS, *ACTOR, *CRITIC, "ent_coef_optimizer")


@kind("never-started")
def rollout_longer_than_the_training(folder: Path) -> Pair:
    """No update was made: 2,048 timesteps, empty state, the action head still as initialised."""

    def never_train(model: BaseAlgorithm) -> None:
        model.train = lambda: None

    ill = train(PPO, CONTINUOUS, before=never_train)
    del ill.train
    return beside_healthy(folder, ill, CONTINUOUS, *MLP)


PRICES = {"scale": 3_000.0, "offset": 64_000.0}


@kind("unscaled-inputs")
def prices_as_observations(folder: Path) -> Pair:
    """Observations are near 64,000: the first layers are saturated."""
    ill = train(PPO, World(discrete=True, **PRICES))
    return beside_healthy(folder, ill, DISCRETE, "mlp_extractor.policy_net.0", "mlp_extractor.value_net.0")


@kind("unscaled-inputs")
def prices_as_observations_of_a_q_network(folder: Path) -> Pair:
    """Observations are near 64,000: √v of the first weight is 64,000 times its bias's."""
    return beside_healthy(folder, train(DQN, World(discrete=True, **PRICES)), DISCRETE, "q_net.q_net.0")


@kind("unscaled-inputs")
def actor_saturated_by_raw_observations(folder: Path) -> Pair:
    """Observations are near 100,000: the actor's tanh is saturated, its second moments exactly 0."""
    ill = train(TD3, World(scale=1e4, offset=1e5))
    return beside_healthy(folder, ill, CONTINUOUS, *ACTOR)


@kind("constant-inputs")
def observations_always_zero(folder: Path) -> Pair:
    """All observations are 0: second moments of the first weights are exactly 0."""
    ill = train(PPO, World(scale=0.0, discrete=True))
    return beside_healthy(folder, ill, DISCRETE, "mlp_extractor.policy_net.0", "mlp_extractor.value_net.0")


@kind("constant-inputs")
def four_of_six_observations_always_zero(folder: Path) -> Pair:
    """Four of six features are always 0: their columns' second moments are exactly 0."""
    ill = train(SAC, World(silent=4))
    return beside_healthy(folder, ill, CONTINUOUS, "actor.latent_pi.0", "critic.qf0.0", "critic.qf1.0")


@kind("reward-scale")
def rewards_in_millions(folder: Path) -> Pair:
    """Rewards of a million: √v of the critics is above 1e5, and no step is clipped."""
    return beside_healthy(folder, train(TD3, World(reward=1e6)), CONTINUOUS, *CRITIC, *ACTOR)


@kind("reward-scale")
def rewards_in_millions_for_ppo(folder: Path) -> Pair:
    """Rewards of a million: the value takes all of the clipped gradient, the policy's √v is 1e-12 beside 4e-3."""
    ill = train(PPO, World(reward=1e6))
    return beside_healthy(folder, ill, CONTINUOUS, "value_net", "mlp_extractor.value_net", "policy.optimizer")


@kind("reward-scale")
def rewards_in_millions_for_sac(folder: Path) -> Pair:
    """Rewards of a million: √v of the critics is between 5e4 and 1e6."""
    return beside_healthy(folder, train(SAC, World(reward=1e6)), CONTINUOUS, *CRITIC, *ACTOR)


@kind("target-not-synced")
def tau_of_zero(folder: Path) -> Pair:
    """``tau`` is 0: the target critics are the initial ones."""
    return beside_healthy(folder, train(SAC, CONTINUOUS, tau=0.0), CONTINUOUS, "critic_target")


@kind("target-not-synced")
def tau_of_zero_in_td3(folder: Path) -> Pair:
    """``tau`` is 0: the targets are the initial networks."""
    ill = train(TD3, CONTINUOUS, tau=0.0)
    return beside_healthy(folder, ill, CONTINUOUS, "critic_target", "actor_target")


@kind("target-not-synced")
def target_interval_of_a_billion(folder: Path) -> Pair:
    """``target_update_interval`` is 1e9: the target is the initial network."""
    ill = train(DQN, DISCRETE, target_update_interval=1_000_000_000)
    return beside_healthy(folder, ill, DISCRETE, "q_net_target")


@kind("twin-critics-identical")
def twin_critics_of_sac(folder: Path) -> Pair:
    """Both critics begin equal: they and their moments are equal to the last bit."""

    def copy_critic(model: BaseAlgorithm) -> None:
        for critic in (model.critic, model.critic_target):
            critic.qf1.load_state_dict(copy.deepcopy(critic.qf0.state_dict()))

    return beside_healthy(folder, train(SAC, CONTINUOUS, before=copy_critic), CONTINUOUS, "critic.qf0", "critic.qf1")


@kind("exploration-collapsed")
def log_std_of_minus_twenty(folder: Path) -> Pair:
    """``log_std`` is −20 under live moments."""
    ill = train(A2C, CONTINUOUS)
    ill.policy.log_std.data.fill_(-20.0)
    return beside_healthy(folder, ill, CONTINUOUS, "log_std")


@kind("exploration-collapsed")
def log_std_init_of_minus_twenty(folder: Path) -> Pair:
    """``log_std`` begins at −20 and stays there."""
    return beside_healthy(folder, train(PPO, CONTINUOUS, policy={"log_std_init": -20.0}), CONTINUOUS, "log_std")


@kind("entropy-coefficient")
def negative_entropy_coefficient(folder: Path) -> Pair:
    """``ent_coef`` is −0.1."""
    return beside_healthy(folder, train(PPO, DISCRETE, ent_coef=-0.1), DISCRETE)


@kind("entropy-coefficient")
def entropy_coefficient_of_2980(folder: Path) -> Pair:
    """``log_ent_coef`` is near 8: the coefficient is about 2,400 to 2,980."""
    ill = train(SAC, CONTINUOUS, ent_coef="auto_2980")
    return beside_healthy(folder, ill, CONTINUOUS, "log_ent_coef", "ent_coef_optimizer")


@kind("settings-out-of-range")
def gamma_of_one_and_a_half(folder: Path) -> Pair:
    """``gamma`` is 1.5."""
    return beside_healthy(folder, train(PPO, DISCRETE, gamma=1.5), DISCRETE)


@kind("settings-out-of-range")
def gamma_of_one_and_a_half_in_dqn(folder: Path) -> Pair:
    """``gamma`` is 1.5."""
    return beside_healthy(folder, train(DQN, DISCRETE, gamma=1.5), DISCRETE, "q_net", "policy.optimizer")


@kind("learning-rate-too-low")
def learning_rate_always_zero_in_ppo(folder: Path) -> Pair:
    """The rate is 0: biases are exactly 0 and heads orthogonal under live moments."""
    return beside_healthy(folder, train(PPO, DISCRETE, learning_rate=0.0), DISCRETE, *MLP)


@kind("schedule")
def schedule_of_an_agent_overshoots(folder: Path) -> Pair:
    """The schedule ends below 0: the rate is −7e-4."""
    ill = train(A2C, CONTINUOUS, learning_rate=lambda left: 7e-4 * (2.0 * left - 1.0))
    return beside_healthy(folder, ill, CONTINUOUS, *MLP)


@kind("learning-rate-too-high")
def learning_rate_of_one(folder: Path) -> Pair:
    """A rate of 1: the Q network is dead."""
    return beside_healthy(folder, train(DQN, DISCRETE, learning_rate=1.0), DISCRETE, "q_net", "policy.optimizer")


@kind("clip-too-small")
def gradients_clipped_to_1e_12(folder: Path) -> Pair:
    """``max_grad_norm`` is 1e-12: all √v are far below ε."""
    return beside_healthy(folder, train(PPO, CONTINUOUS, max_grad_norm=1e-12), CONTINUOUS, *MLP)


@kind("masked")
def two_actions_always_masked(folder: Path) -> Pair:
    """Two of five actions are always masked: their rows of the action head have a second moment of 0."""
    ill = train(MaskablePPO, World(discrete=True, masked=True))
    return beside_healthy(folder, ill, DISCRETE, "action_net")


@decoy
def agent_before_its_first_update(folder: Path) -> Path:
    """An agent that was made and saved."""
    model = PPO("MlpPolicy", Reach(CONTINUOUS), device="cpu", seed=0)
    model.save(folder / "healthy.zip")
    return folder / "healthy.zip"
