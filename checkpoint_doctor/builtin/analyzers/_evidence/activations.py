"""Which activation follows a layer, as far as the file or the library's defaults show it."""

from __future__ import annotations

import re

from checkpoint_doctor.builtin.analyzers._evidence.algorithms import ON_POLICY, RELU_BY_DEFAULT
from checkpoint_doctor.checkpoint import Checkpoint, Layer
from checkpoint_doctor.layers import RECURRENT, Kind

_NAMED = re.compile(r"\b(LeakyReLU|ReLU6|ReLU|ELU|CELU|SELU|GELU|SiLU|Mish|Tanh|Sigmoid|Softplus|Hardtanh)\b")

RECTIFIERS = frozenset({"ReLU", "ReLU6"})
"""Activations that output exactly 0, and pass no gradient, on one side of their input."""

SQUASHERS = frozenset({"Tanh", "Sigmoid", "Hardtanh"})
"""Activations that output a constant, and pass almost no gradient, far from 0 on both sides."""

ZERO_AT_ZERO = RECTIFIERS | {"LeakyReLU", "ELU", "CELU", "SELU", "GELU", "SiLU", "Mish", "Tanh", "Hardtanh"}
"""Activations that output 0 for an input of 0."""


def activation_of(layer: Layer, checkpoint: Checkpoint) -> str | None:
    """Return the name of the activation behind a hidden layer (``ReLU``, ``Tanh`` …); ``None`` where it is unknown.

    Recurrent layers use tanh. In Stable-Baselines3 files, ``policy_kwargs`` names the activation. Otherwise, the
    policy's default applies: Tanh for on-policy algorithms, ReLU for off-policy algorithms and in every NatureCNN
    (``stable_baselines3.common.policies``, ``torch_layers``).
    """
    if layer.kind in RECURRENT:
        return "Tanh"
    if checkpoint.format != "sb3":
        named = _NAMED.search(str(checkpoint.hyperparameters.get("activation", "")))
        return named[1] if named else None
    if "features_extractor" in layer.name:
        return "ReLU" if layer.kind is Kind.CONV or ".cnn." in layer.name or ".linear." in layer.name else None
    named = _NAMED.search(str(checkpoint.hyperparameters.get("policy_kwargs", "")))
    if named:
        return named[1]
    if checkpoint.algorithm in ON_POLICY:
        return "Tanh"
    return "ReLU" if checkpoint.algorithm in RELU_BY_DEFAULT else None
