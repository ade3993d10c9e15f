"""Whether an optimizer's parameters are still those of the initialisation, although gradients came."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import sqrt

from msgspec import Struct

from checkpoint_doctor.builtin.analyzers._evidence.training import was_trained
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Optimizer, ParameterGroup, Tensor
from checkpoint_doctor.layers import NORMS, RECURRENT, WITH_UNITS
from checkpoint_doctor.statistics.values import square

STILL = 1e-6
"""Distance from exactly 1 (gains) or 0 (biases) up to which a parameter has not moved: rounding of a float32 1.0 is
1.2e-7, and one ordinary update moves by 1e-5 or more."""

_STANDARD_ERRORS = 4.0
_FEWEST_DRAWS = 256
"""Entries from which a uniform distribution between exact limits is told from a trained one."""


class InitialParameters(Struct, frozen=True):
    """What speaks for and against parameters being the initial ones: names of tensors that received gradients."""

    exact: tuple[str, ...] = ()
    """Norm gains that are all 1."""
    zero: tuple[str, ...] = ()
    """Biases that are all 0."""
    uniform: tuple[str, ...] = ()
    """Weights and biases that are distributed as PyTorch draws them."""
    unknown: tuple[str, ...] = ()
    """Weights of another distribution, and other parameters."""
    moved: tuple[str, ...] = ()
    """Gains and biases that are neither."""
    draws: int = 0
    """Entries of the uniform weights."""
    limit: float = 0.0
    """Mean limit of their distributions."""

    @property
    def names(self) -> list[str]:
        """The tensors of which it is certain."""
        return [*self.exact, *self.zero, *self.uniform]

    def are_certain(self, *, by_zero_biases: bool) -> bool:
        """Return whether nothing moved and enough tensors show it.

        Biases of exactly zero under live moments suffice where the learning rate explains them; else something may have
        overwritten them.
        """
        if self.moved:
            return False
        if self.exact or (by_zero_biases and self.zero):
            return True
        return self.draws >= _FEWEST_DRAWS and not self.unknown and bool(self.uniform)


def combine(parts: Iterable[InitialParameters]) -> InitialParameters:
    """Combine parameters or groups of them; the limit is the mean over all draws."""
    parts = list(parts)
    draws = sum(part.draws for part in parts)
    return InitialParameters(
        exact=tuple(name for part in parts for name in part.exact),
        zero=tuple(name for part in parts for name in part.zero),
        uniform=tuple(name for part in parts for name in part.uniform),
        unknown=tuple(name for part in parts for name in part.unknown),
        moved=tuple(name for part in parts for name in part.moved),
        draws=draws,
        limit=sum(part.draws * part.limit for part in parts) / draws if draws else 0.0,
    )


def find_initial_parameters(
    group: ParameterGroup, optimizer: Optimizer, checkpoint: Checkpoint
) -> InitialParameters | None:
    """Sort the tensors of a parameter group that received gradients; ``None`` where a name is missing or none did."""
    parts = []
    for index in group.indices:
        moments = optimizer.parameters[index]
        tensor = checkpoint.find_tensor(moments.tensor)
        if tensor is None:
            return None
        if was_trained(tensor, checkpoint) and tensor.size:
            parts.append(sort_parameter(tensor, checkpoint.layer_of[tensor.name]))
    sorted_ = combine(parts)
    return sorted_ if sorted_.names or sorted_.unknown or sorted_.moved else None


def sort_parameter(tensor: Tensor, layer: Layer, *, like: Tensor | None = None) -> InitialParameters:
    """Sort one tensor by its values, whether or not it was trained.

    ``layer`` is the tensor's own, or that of the tensor ``like`` which it is a copy of.
    """
    name, statistics = (tensor.name,), tensor.statistics
    role = next((role for role, each in layer.tensors.items() if each is (like or tensor)), "")
    low, high = statistics.minimum, statistics.maximum
    if tensor.dtype not in ("float32", "float64") or low is None or high is None or statistics.nonfinite:
        return InitialParameters(unknown=name)
    if layer.kind in NORMS and role == "weight":
        return (
            InitialParameters(exact=name)
            if max(abs(high - 1), abs(low - 1)) <= STILL
            else InitialParameters(moved=name)
        )
    if role.startswith("bias") and statistics.absmax <= STILL:
        return InitialParameters(zero=name)
    limit = default_limit(layer) if layer.kind in WITH_UNITS else None
    if limit is not None and _is_uniform(tensor, limit):
        if role.startswith("bias"):
            return InitialParameters(uniform=name)
        return InitialParameters(uniform=name, draws=tensor.size, limit=limit)
    return InitialParameters(moved=name) if role.startswith("bias") else InitialParameters(unknown=name)


def default_limit(layer: Layer) -> float | None:
    """Return the limit of the uniform distribution from which PyTorch draws a layer's weights and biases.

    1/√fan_in (``kaiming_uniform_`` with a = √5), in recurrent layers 1/√hidden.
    """
    weight = layer.weight or layer.tensors.get("weight_hh")
    if weight is None or len(weight.shape) < 2 or not weight.size or layer.transposed:
        return None
    inputs = weight.shape[1] if layer.kind in RECURRENT else weight.size // weight.shape[0]
    return 1.0 / sqrt(inputs)


def _is_uniform(tensor: Tensor, limit: float) -> bool:
    """Return whether all entries are within ±limit, with the mean and variance of the uniform distribution.

    Both may differ by four standard errors: √(1/3n) and √(4/45n) of the limit and its square.
    """
    statistics = tensor.statistics
    if statistics.mean is None or statistics.std is None or statistics.absmax > limit * (1 + STILL):
        return False
    draws = sqrt(tensor.size)
    mean, variance = statistics.mean / limit, square(statistics.std / limit)
    return bool(
        abs(mean) < _STANDARD_ERRORS * sqrt(1 / 3) / draws
        and abs(variance - 1 / 3) < _STANDARD_ERRORS * sqrt(4 / 45) / draws + 1 / (3 * tensor.size)
    )


def matrices_of(optimizer: Optimizer, checkpoint: Checkpoint) -> Iterator[tuple[int, Tensor, Layer]]:
    """Yield the position, tensor and layer of each named parameter with two axes or more."""
    for moments in optimizer.parameters:
        tensor = checkpoint.find_tensor(moments.tensor)
        if tensor is not None and len(tensor.shape) > 1 and tensor.size:
            yield moments.index, tensor, checkpoint.layer_of[tensor.name]
