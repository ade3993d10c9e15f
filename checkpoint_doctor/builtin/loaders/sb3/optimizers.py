"""Finds which tensor each parameter of a Stable-Baselines3 optimizer is.

PyTorch stores an optimizer's state by position. The names follow from one rule for every algorithm and version: take
the tensors of ``policy.pth`` in file order, without buffers, only those of the optimizer's part of the model, and of
tensors that share their bytes only the first. ``Module.parameters()`` and ``Module.state_dict()`` have the same order,
so that list is the optimizer's. Which part belongs to which optimizer is defined in SB3's and sb3-contrib's ``_build``
methods:

- ``policy.optimizer`` holds the whole policy; for DQN and QRDQN from 2.4 on only the online network.
- ``actor.optimizer`` and ``critic.optimizer`` hold their networks; SAC, TQC and CrossQ leave a shared features
  extractor to the actor, TD3 and DDPG do not.
- ``ent_coef_optimizer`` holds ``log_ent_coef``, which is in another member.

A list is accepted where it has the optimizer's length and every state has the shape of its tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from checkpoint_doctor.builtin.loaders._optimizers.matching import trainable
from checkpoint_doctor.builtin.loaders._optimizers.state import identify_optimizer, read_optimizer
from checkpoint_doctor.checkpoint import Optimizer, Tensor
from checkpoint_doctor.sources.budget import Budget


def read_named_optimizer(
    name: str, state: Mapping[str, Any], tensors: Sequence[Tensor], budget: Budget, *, is_standard: bool
) -> Optimizer:
    """Read an optimizer's state with its parameters' names, or with the reason why they are unknown.

    Args:
        name: the member's name without its ending, such as ``policy.optimizer``.
        state: the optimizer's state dict.
        tensors: the model's tensors in file order.
        budget: the file's.
        is_standard: True where policy and features extractor are SB3's own classes, whose buffers are all known; then
            a wrong number of parameters is a mismatch and not an unknown buffer.

    Raises:
        UnreadableCheckpoint: a tensor of the state reaches beyond its storage or the file.
    """
    count = sum(len(group["params"]) for group in state["param_groups"] if isinstance(group["params"], list | tuple))
    candidates = list(_candidates(name, tensors))
    fitting = [each for each in candidates if len(each) == count]
    optimizers = [read_optimizer(name, state, parameters, budget) for parameters in fitting or candidates[:1]]
    for optimizer in optimizers:
        if not optimizer.mismatch:
            return optimizer
    if fitting or is_standard:
        return optimizers[0]
    return identify_optimizer(name, state, {"policy": candidates[0]}, budget)


def _candidates(name: str, tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the lists of tensors that the optimizer may hold, the most likely first."""
    if name == "ent_coef_optimizer":
        yield [tensor for tensor in tensors if tensor.name.endswith("/log_ent_coef")]
        return
    model = [tensor for tensor in tensors if "/" not in tensor.name]
    part = name.removesuffix("optimizer")
    if part in ("actor.", "critic."):
        own = [tensor for tensor in model if tensor.name.startswith(part)]
        yield trainable(own)
        yield trainable(tensor for tensor in own if "features_extractor" not in tensor.name)
        return
    yield trainable(model)
    for network in ("q_net.", "quantile_net."):
        yield trainable(tensor for tensor in model if tensor.name.startswith(network))
    # Converted or cloned files no longer share storages, but the prefixes show which extractors were one.
    for aliases in (("pi_features_extractor.",), ("pi_features_extractor.", "vf_features_extractor.")):
        yield trainable(tensor for tensor in model if not tensor.name.startswith(aliases))
