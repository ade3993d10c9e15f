"""A named tensor whose numbers are read when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

from numpy.typing import NDArray

from checkpoint_doctor.statistics.tensors import TensorStatistics, measure
from checkpoint_doctor.statistics.values import Values


@dataclass(frozen=True, eq=False)
class Tensor:
    """A named tensor whose numbers are read when they are asked for."""

    name: str
    """The key in the state dict; with the member's or wrapper's name and a ``/`` before it where a file has several."""
    shape: tuple[int, ...]
    dtype: str
    """The element type as PyTorch prints it, without ``torch.``: ``float32``, ``bfloat16``, ``qint8`` …"""
    values: Values
    """Where the numbers are."""
    storage: str = ""
    """Names the memory behind the tensor: tensors of one storage are views of each other (tied, flattened, sliced)."""
    storage_range: tuple[int, int] = (0, 0)
    """First byte and byte after the last that the tensor touches within its storage."""
    is_buffer: bool = False
    """True where the file says that this is a buffer and not a parameter."""

    same_as: Tensor | None = None
    """Another tensor known to have the same numbers, which is measured in place of this one."""

    @cached_property
    def statistics(self) -> TensorStatistics:
        """The statistics of one pass over the numbers, computed when they are first used."""
        return measure(self.values) if self.same_as is None else self.same_as.statistics

    @cached_property
    def array(self) -> NDArray:
        """The whole tensor in memory. Only for rules on small tensors: biases, gains, gate blocks."""
        return self.values.read()

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    @property
    def is_floating(self) -> bool:
        """True for real and complex floating-point types."""
        return self.dtype.startswith(("float", "bfloat", "complex"))

    def is_tied_to(self, other: Tensor) -> bool:
        """True where both show the very same bytes."""
        return bool(self.storage) and (self.storage, self.storage_range) == (other.storage, other.storage_range)
