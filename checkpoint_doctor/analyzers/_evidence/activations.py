"""Which activation follows a layer, where the file or the library's defaults tell."""

from __future__ import annotations

import re

from checkpoint_doctor.checkpoint import Checkpoint, Layer
from checkpoint_doctor.layers import Kind

_NAMED = re.compile(r"\b(LeakyReLU|ReLU6|ReLU|ELU|CELU|SELU|GELU|SiLU|Mish|Tanh|Sigmoid|Softplus|Hardtanh)\b")

RECTIFIERS = frozenset({"ReLU", "ReLU6"})
"""Activations that give exactly 0, and pass no gradient, for a whole side of their input."""

SQUASHERS = frozenset({"Tanh", "Sigmoid", "Hardtanh"})
"""Activations that give a constant, and pass next to no gradient, far from 0 on both sides."""

ZERO_AT_ZERO = RECTIFIERS | {"LeakyReLU", "ELU", "CELU", "SELU", "GELU", "SiLU", "Mish", "Tanh", "Hardtanh"}
"""Activations that give 0 for 0."""

_TANH_BY_DEFAULT = frozenset({"PPO", "A2C", "TRPO", "MaskablePPO", "RecurrentPPO"})
_RELU_BY_DEFAULT = frozenset({"DQN", "QRDQN", "SAC", "TD3", "DDPG", "TQC", "CrossQ", "HER", "ARS"})


def activation_of(layer: Layer, checkpoint: Checkpoint) -> str | None:
    """Return the name of the activation behind a hidden layer (``ReLU``, ``Tanh`` …); ``None`` where nothing tells.

    Recurrent layers squash by tanh. In Stable-Baselines3 files ``policy_kwargs`` names the activation, else the policy
    class' default holds: Tanh for the on-policy family, ReLU for the off-policy one and in every NatureCNN
    (``stable_baselines3.common.policies``, ``torch_layers``).
    """
    if layer.kind in (Kind.LSTM, Kind.GRU, Kind.RNN):
        return "Tanh"
    if checkpoint.format != "sb3":
        named = _NAMED.search(str(checkpoint.hyperparameters.get("activation", "")))
        return named[1] if named else None
    if "features_extractor" in layer.name:
        return "ReLU" if layer.kind is Kind.CONV or ".cnn." in layer.name or ".linear." in layer.name else None
    named = _NAMED.search(str(checkpoint.hyperparameters.get("policy_kwargs", "")))
    if named:
        return named[1]
    if checkpoint.algorithm in _TANH_BY_DEFAULT:
        return "Tanh"
    return "ReLU" if checkpoint.algorithm in _RELU_BY_DEFAULT else None
