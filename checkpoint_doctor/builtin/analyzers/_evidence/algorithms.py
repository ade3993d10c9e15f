"""Algorithms of Stable-Baselines3 and sb3-contrib, by the defaults that their policies share."""

from __future__ import annotations

ON_POLICY = frozenset({"PPO", "A2C", "TRPO", "MaskablePPO", "RecurrentPPO"})
"""Algorithms with an ``ActorCriticPolicy``: Tanh activations and ``ortho_init=True`` by default."""

RELU_BY_DEFAULT = frozenset({"DQN", "QRDQN", "SAC", "TD3", "DDPG", "TQC", "CrossQ", "HER", "ARS"})
"""Algorithms whose policies have ReLU activations by default."""

LOG_STD_FROM_MINUS_3 = frozenset({"SAC", "TQC", "CrossQ"})
"""Algorithms whose policies have ``log_std_init=-3`` by default (sac/policies.py); the others have 0."""
