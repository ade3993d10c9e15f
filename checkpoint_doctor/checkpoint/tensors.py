"""A named tensor whose values are read lazily."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from math import prod

from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.layers import is_kernel
from checkpoint_doctor.statistics.tensors import Histogram, TensorStatistics, measure
from checkpoint_doctor.statistics.values import Values


class Tensor(Struct, frozen=True, eq=False, dict=True):
    """A named tensor whose values are read lazily."""

    name: str
    """The key in the state dict, with its member's or wrapper's name and a ``/`` before it where a file has several."""
    shape: tuple[int, ...]
    """Its shape; ``()`` for a single number."""
    dtype: str
    """The element type as PyTorch prints it, without ``torch.``: ``float32``, ``bfloat16``, ``qint8`` …"""
    values: Values
    """Reads the values."""
    storage: str = ""
    """Name of the storage: tensors with the same one share their bytes (tied, flattened or sliced tensors)."""
    storage_range: tuple[int, int] = (0, 0)
    """First byte of the tensor within its storage, and the byte after its last."""
    is_buffer: bool = False
    """True where the file marks it as a buffer and not a parameter."""

    known_as: str = ""
    """The name that its layer is inferred from, where the file's own name says less: ``0.kernel`` for ``arr_0``."""

    gates: tuple[str, ...] = ()
    """The gates of a recurrent layer in the order of their blocks of rows, where it is not that of PyTorch."""

    same_as: Tensor | None = None
    """Another tensor known to have the same numbers, which is measured in place of this one."""

    @cached_property
    def statistics(self) -> TensorStatistics:
        """The tensor statistics, computed in one pass over the values at the first access."""
        if self.same_as is not None:
            return self.same_as.statistics
        if self.is_kernel:
            return measure(self.values, self.matrix_shape, compares_columns=True)
        return measure(self.values)

    def supply(self, statistics: TensorStatistics) -> None:
        """Take statistics that were computed elsewhere, from the same bytes."""
        self.__dict__["statistics"] = statistics

    @cached_property
    def histogram(self) -> Histogram | None:
        """How the values are distributed, counted at the first access; ``None`` where they are not real numbers."""
        from checkpoint_doctor.statistics.histogram import count_values

        return count_values(self.values, self.statistics)

    @cached_property
    def array(self) -> NDArray:
        """The whole tensor in memory. Use it for small tensors only: biases, gains, gate blocks."""
        return self.values.read()

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    @property
    def is_kernel(self) -> bool:
        """True for a matrix or kernel with its outputs last, by its name (Keras, Flax and TensorFlow)."""
        return len(self.shape) > 1 and is_kernel(self.known_as or self.name)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """The rows and columns that the statistics are about: the first axis by all others.

        A kernel of three or more axes that has its outputs last counts as all other axes by the last one.
        """
        if self.is_kernel and len(self.shape) > 2:
            return prod(self.shape[:-1]), self.shape[-1]
        return self.shape[0], prod(self.shape[1:])

    @property
    def fan_in(self) -> int:
        """Entries of a matrix or kernel that each output has, by its name: kernels have their outputs last."""
        outputs = self.shape[-1 if self.is_kernel else 0]
        return self.size // outputs if outputs else 0

    @property
    def is_floating(self) -> bool:
        """True for real and complex floating-point types."""
        return self.dtype.startswith(("float", "bfloat", "complex"))

    @property
    def is_complex(self) -> bool:
        """True for complex types, whose numbers have no order."""
        return self.dtype.startswith("complex")

    def is_tied_to(self, other: Tensor) -> bool:
        """Return whether both tensors are the same bytes of one storage."""
        return bool(self.storage) and (self.storage, self.storage_range) == (other.storage, other.storage_range)


def find_aliases(tensors: Iterable[Tensor]) -> dict[str, str]:
    """Return the names under which the same bytes are stored again, mapped to the first name of these bytes."""
    first: dict[tuple[object, ...], str] = {}
    aliases = {}
    for tensor in tensors:
        name = first.setdefault((tensor.storage, tensor.storage_range, tensor.shape, tensor.dtype), tensor.name)
        if tensor.storage and name != tensor.name:
            aliases[tensor.name] = name
    return aliases
