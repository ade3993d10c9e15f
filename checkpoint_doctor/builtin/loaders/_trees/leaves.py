"""The leaves of a nested dictionary: arrays and numbers, each with its path."""

from __future__ import annotations

from math import prod

from msgspec import Struct

from checkpoint_doctor.builtin.loaders._storage.dtypes import EXTENDED, NATIVE
from checkpoint_doctor.statistics.values import Values

Path = tuple[str, ...]

NUMBERS = (*(name for name in NATIVE if not name.startswith(("q", "bits"))), *EXTENDED)
"""Types of elements that are read, by the names that NumPy, ml_dtypes and PyTorch share."""
WRAPPERS = ("value", "raw_value")
"""Last keys below which NNX keeps the array of a variable."""


class Leaf(Struct, frozen=True):
    """An array, or a number, in a nested dictionary."""

    path: Path
    shape: tuple[int, ...]
    dtype: str
    """PyTorch's name for the type."""
    values: Values | None
    """``None`` where they cannot be read."""
    problem: str = ""
    """Why they cannot."""

    @property
    def name(self) -> str:
        """Its keys, joined by ``/``, as ``flax.traverse_util.flatten_dict(sep="/")`` joins them."""
        return "/".join(self.path)

    @property
    def place(self) -> Path:
        """Its keys without the one below which NNX keeps an array."""
        return self.path[:-1] if len(self.path) > 1 and self.path[-1] in WRAPPERS else self.path

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def number(self) -> int | float | None:
        """The value of a single real number; ``None`` for arrays, and where it cannot be read."""
        if self.shape or self.values is None or not self.dtype.startswith(("int", "uint", "float", "bfloat")):
            return None
        value = self.values.read().reshape(-1)[0]
        return int(value) if self.dtype.startswith(("int", "uint")) else float(value)
