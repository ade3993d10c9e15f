"""The weight matrices and kernels of a layer that gradient descent learns."""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint_doctor.analyzers._zeros.by_design import is_fixed_transform
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.layers import DENSE


def learned_weights(layer: Layer) -> Iterator[Tensor]:
    """Yield a layer's matrices and kernels of floats; masks and fixed transforms (a Fourier basis) are left out."""
    for role, tensor in layer.tensors.items():
        is_matrix = role.startswith("weight") and len(tensor.shape) > 1 and tensor.is_floating
        if is_matrix and not role.endswith("_mask") and not is_fixed_transform(tensor):
            yield tensor


def all_learned_weights(checkpoint: Checkpoint) -> Iterator[Tensor]:
    """Yield the matrices and kernels of a network's layers, each once; adapters, norms and buffers are left out."""
    for layer in checkpoint.distinct_layers:
        if layer.kind in DENSE:
            yield from learned_weights(layer)
