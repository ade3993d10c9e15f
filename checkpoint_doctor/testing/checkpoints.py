"""Builds checkpoints from arrays in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from checkpoint_doctor.checkpoint import Checkpoint, Moments, Optimizer, ParameterGroup, Part, Tensor
from checkpoint_doctor.statistics.values import InMemory

State = Mapping[str, ArrayLike]
"""An optimizer's state of one tensor: ``step``, and its moments under the optimizer's own keys."""


def build_checkpoint(
    tensors: Mapping[str, ArrayLike],
    *,
    optimizer: Mapping[str, State] | None = None,
    optimizer_options: Mapping[str, Any] | None = None,
    optimizer_kind: str = "Adam",
    hyperparameters: Mapping[str, Any] | None = None,
    algorithm: str | None = None,
    step: int | None = None,
    updates: int | None = None,
    counters: Mapping[str, int] | None = None,
    parts: Sequence[Part] = (),
    path: str = "memory",
    format: str = "memory",
) -> Checkpoint:
    """Build a checkpoint from arrays, as a loader would from a file.

    Args:
        tensors: names as in a state dict, mapped to arrays of any shape; the element type is the array's.
        optimizer: names of these tensors mapped to the optimizer's state of them, such as
            ``{"step": 1000, "exp_avg": m, "exp_avg_sq": v}``; an empty mapping is a parameter that the optimizer holds
            and never updated. ``None`` is a checkpoint without an optimizer, and so without evidence of training.
        optimizer_options: the options of its single parameter group, by default ``lr`` 0.001, ``betas`` (0.9, 0.999)
            and ``eps`` 1e-8.
        optimizer_kind: the optimizer's class.
        hyperparameters: settings in the file.
        algorithm: the training algorithm, such as ``PPO``.
        step: environment or training steps.
        updates: number of gradient updates.
        counters: the run's counters by the names that the file gives them.
        parts: schedulers, loss scalers and what else stands under the file's keys.
        path: the checkpoint's path in reports.
        format: name of the loader in reports.

    Raises:
        ValueError: the optimizer holds a tensor that the checkpoint does not have.
    """
    optimizers: tuple[Optimizer, ...] = ()
    if optimizer is not None:
        if unknown := [name for name in optimizer if name not in tensors]:
            raise ValueError(f"the optimizer holds {unknown[0]!r}, which is not among the tensors")
        options = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8} if optimizer_options is None else optimizer_options
        optimizers = (_build_optimizer(optimizer, optimizer_kind, options),)
    return Checkpoint(
        path=path,
        format=format,
        tensors=tuple(_build_tensor(name, values) for name, values in tensors.items()),
        optimizers=optimizers,
        hyperparameters=dict(hyperparameters or {}),
        algorithm=algorithm,
        step=step,
        updates=updates,
        counters=dict(counters or {}),
        parts=tuple(parts),
    )


def _build_tensor(name: str, values: ArrayLike) -> Tensor:
    array = np.asarray(values)
    return Tensor(name=name, shape=array.shape, dtype=array.dtype.name, values=InMemory(array), storage=name)


def _build_optimizer(states: Mapping[str, State], kind: str, options: Mapping[str, Any]) -> Optimizer:
    parameters = tuple(
        Moments(
            index=index,
            tensor=name,
            step=int(np.asarray(state["step"])) if "step" in state else None,
            state={
                key: _build_tensor(f"optimizer/{name}/{key}", values) for key, values in state.items() if key != "step"
            },
        )
        for index, (name, state) in enumerate(states.items())
    )
    group = ParameterGroup(options=dict(options), indices=tuple(range(len(parameters))))
    return Optimizer(name="optimizer", kind=kind, groups=(group,), parameters=parameters)
