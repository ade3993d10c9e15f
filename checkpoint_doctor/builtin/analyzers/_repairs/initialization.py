"""The init rule of a layer's tensors, and repairs that apply it.

Stable-Baselines3's on-policy algorithms start with orthogonal weights and zero biases (``ActorCriticPolicy._build``).
All other layers are assumed to follow PyTorch's ``reset_parameters``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import prod, sqrt

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers._evidence.algorithms import LOG_STD_FROM_MINUS_3, ON_POLICY
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.layers import FEEDFORWARD, NORMS, RECURRENT, Kind, count_blocks
from checkpoint_doctor.layers.init_rules import (
    NORM_GAIN,
    draw_all,
    draw_normal,
    draw_orthogonal,
    fill,
    where_not_finite,
)
from checkpoint_doctor.results.findings import Repair, Safety

_GAINS = (
    (re.compile(r"(^|\.)action_net(\.|$)"), 0.01),
    (re.compile(r"(^|\.)value_net(\.|$)"), 1.0),
    (re.compile(r"(^|\.)(features_extractor|pi_features_extractor|vf_features_extractor|mlp_extractor)\."), sqrt(2)),
)
"""The modules with orthogonal weights, and their gains (stable_baselines3/common/policies.py)."""

_LOG_STD_INIT = re.compile(r"log_std_init'?\"?\s*[:=]\s*(-?[\d.]+(?:e-?\d+)?)")


class Initialization(Struct, frozen=True):
    """How a tensor is initialised."""

    words: str
    """The rule in words, such as ``orthogonal, gain 1.41``."""
    draw: Callable[[NDArray, np.random.Generator], NDArray]
    """Returns a whole new tensor."""


def initialization_of(tensor: Tensor, layer: Layer, checkpoint: Checkpoint) -> Initialization | None:
    """Return how a tensor of a layer is initialised; ``None`` where no documented rule is known."""
    role = next((role for role, part in layer.tensors.items() if part is tensor), "")
    if layer.kind in NORMS:
        return _norm(role)
    if layer.kind in RECURRENT:
        return _recurrent(layer)
    if layer.kind is Kind.EMBEDDING:
        return Initialization("normal(0, 1)", draw_normal(1.0)) if len(tensor.shape) > 1 else None
    if layer.kind is Kind.PARAMETER and tensor.name.rpartition(".")[2] == "log_std":
        return _constant(_initial_log_std(checkpoint))
    if layer.kind not in FEEDFORWARD and layer.kind is not Kind.ATTENTION:
        return None
    gain = _orthogonal_gain(layer, checkpoint)
    if role.startswith("bias"):
        return _bias(layer, is_zero=gain is not None or layer.kind is Kind.ATTENTION)
    if len(tensor.shape) < 2:
        return None
    if gain is not None and role == "weight":
        return Initialization(f"orthogonal, gain {gain:.3g}", draw_orthogonal(gain))
    if layer.kind is Kind.ATTENTION:
        limit = sqrt(6 / (tensor.shape[0] + tensor.shape[1]))
        return Initialization(f"xavier_uniform: uniform(±{limit:.3g})", draw_all(limit))
    limit = 1 / sqrt(max(_fan_in(tensor, layer), 1))
    return Initialization(f"kaiming_uniform(√5): uniform(±{limit:.3g})", draw_all(limit))


def reinitialise(tensor: Tensor, layer: Layer, checkpoint: Checkpoint) -> list[Repair]:
    """Return the repair that reinitialises a whole tensor; empty where no documented rule is known."""
    rule = initialization_of(tensor, layer, checkpoint)
    return [] if rule is None else [Repair(tensor.name, f"reinitialised: {rule.words}", rule.draw, Safety.UNSAFE)]


def reinitialise_nonfinite(tensor: Tensor, layer: Layer, checkpoint: Checkpoint) -> list[Repair]:
    """Return the repair that reinitialises NaN and infinite entries; empty where no documented rule is known."""
    rule = initialization_of(tensor, layer, checkpoint)
    if rule is None:
        return []
    words = f"non-finite entries reinitialised: {rule.words}"
    return [Repair(tensor.name, words, where_not_finite(rule.draw), Safety.UNSAFE)]


def _constant(value: float) -> Initialization:
    return Initialization(f"{value:g}, its initial value", fill(value))


def _norm(role: str) -> Initialization | None:
    value = {"weight": NORM_GAIN, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}.get(role)
    return None if value is None else _constant(value)


def _recurrent(layer: Layer) -> Initialization | None:
    """``reset_parameters`` of ``torch.nn.RNNBase``: everything uniform(±1/√hidden)."""
    lines = next((part.shape for role, part in layer.tensors.items() if role in ("weight_hh", "weight_ih")), (0,))
    hidden = lines[-1 if layer.transposed else 0] // count_blocks(layer.kind)
    if not hidden:
        return None
    limit = 1 / sqrt(hidden)
    return Initialization(f"uniform(±{limit:.3g})", draw_all(limit))


def _bias(layer: Layer, *, is_zero: bool) -> Initialization | None:
    if is_zero:
        return _constant(0.0)
    if layer.weight is None or len(layer.weight.shape) < 2:
        return None
    limit = 1 / sqrt(max(_fan_in(layer.weight, layer), 1))
    return Initialization(f"uniform(±{limit:.3g})", draw_all(limit))


def _fan_in(weight: Tensor, layer: Layer) -> int:
    if layer.kind is Kind.KERNEL:
        return weight.fan_in
    if layer.transposed and len(weight.shape) == 2:
        return weight.shape[0]
    return prod(weight.shape[1:])


def _orthogonal_gain(layer: Layer, checkpoint: Checkpoint) -> float | None:
    if checkpoint.format != "sb3" or checkpoint.algorithm not in ON_POLICY:
        return None
    if re.search(r"ortho_init'?\"?\s*[:=]\s*[Ff]alse", str(checkpoint.hyperparameters.get("policy_kwargs", ""))):
        return None
    if layer.name.startswith("mlp_extractor."):
        return sqrt(2)
    return next((gain for pattern, gain in _GAINS if pattern.search(layer.name)), None)


def _initial_log_std(checkpoint: Checkpoint) -> float:
    """``log_std_init`` of the policy: 0.0 on-policy, −3 off-policy (stable_baselines3, sac/policies.py)."""
    named = _LOG_STD_INIT.search(str(checkpoint.hyperparameters.get("policy_kwargs", "")))
    if named:
        return float(named[1])
    return -3.0 if checkpoint.algorithm in LOG_STD_FROM_MINUS_3 else 0.0
