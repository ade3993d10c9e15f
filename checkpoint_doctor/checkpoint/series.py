"""A series: checkpoints of one run in the order of training, as figures of each tensor at each of them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from functools import cached_property
from math import nan, prod
from typing import Any

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray


class TensorFigures(Struct, frozen=True):
    """What a series keeps of one tensor in one checkpoint. NaN stands for what is not known."""

    zero_fraction: float = nan
    """Share of exact zeros, from 0 to 1."""
    nonfinite: float = nan
    """Entries that are NaN or infinite."""
    norm: float = nan
    """Euclidean norm of the finite entries."""
    change: float = nan
    """Norm of the difference to the checkpoint before, over the norm there (where that is 0, over the norm here)."""
    still_fraction: float = nan
    """Share of the entries that have the very bits that they have in the checkpoint before."""
    still_columns: float = nan
    """Share of a matrix' columns (inputs) in which every entry has the bits of the checkpoint before."""
    dormant_fraction: float = nan
    """Of a hidden layer's weight: share of the units that receive no gradient, as the moments show."""
    vanished_fraction: float = nan
    """Share of the entries whose first moment has vanished: |m|/√v below 1e-4, or no gradient at all."""
    scattered_fraction: float = nan
    """The same without the entries that dormant units explain: whole rows, and inputs that a layer before it gives."""
    untouched_columns: float = nan
    """Share of the columns (inputs) whose moments are exactly zero: no gradient ever reached them."""
    input_rms: float = nan
    gradient_rms: float = nan
    update_ratio: float = nan
    """These three as in the signal profile."""
    updates: float = nan
    """Updates that an optimizer counted."""


UNRELATED = 0.9
"""Relative change from which a matrix is another one."""

LARGEST_COUNT = 1 << 62
"""Steps and updates beyond it count as this many: a report can say anything."""

FIGURES = TensorFigures.__struct_fields__
"""The names of the figures."""


class TensorSeries(Struct, frozen=True, eq=False, dict=True):
    """One tensor through a series. Every figure is an array with one value a checkpoint, NaN where it is not known."""

    name: str
    """Its name in the checkpoints."""
    shape: tuple[int, ...]
    """Its shape, the same in all of them."""
    dtype: str
    """Its element type in the first one, as PyTorch prints it, without ``torch.``."""
    kind: str
    """Kind of its layer: ``linear``, ``layer norm`` …"""
    layer: str
    """Name of its layer."""
    is_statistic: bool
    """True for what is kept and not learned: a buffer, or running statistics."""
    is_copy: bool
    """True for what follows other tensors: a target network, an average of the weights."""
    is_output: bool
    """True for what belongs to an output head."""
    reads_layer: bool
    """True where names and shapes show the layer whose output its layer reads; False at the model's inputs."""
    figures: Mapping[str, NDArray]
    """Name of a figure to its values."""
    columns: tuple[ColumnRecord | None, ColumnRecord | None] = (None, None)
    """Which columns receive no gradient in the first and in the last checkpoint that shows it."""

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    @property
    def is_trained(self) -> bool:
        """True for a tensor of floating-point numbers that is learned, and not kept or copied."""
        return self.dtype.startswith(("float", "bfloat", "complex")) and not self.is_statistic and not self.is_copy

    @cached_property
    def moves(self) -> NDArray:
        """Norm of the difference to the checkpoint before; NaN for the first one."""
        norms = self["norm"]
        before = np.concatenate(([nan], norms[:-1]))
        moved: NDArray = self["change"] * np.where(before == 0, norms, before)
        return moved

    @property
    def is_matrix(self) -> bool:
        """True for weights with inputs and outputs: two axes or more."""
        return len(self.shape) > 1

    def __getitem__(self, figure: str) -> NDArray:
        """Return the values of a figure."""
        return self.figures[figure]


class ColumnRecord(Struct, frozen=True, eq=False):
    """Which columns (inputs) of a weight receive no gradient in one checkpoint, as indices along the second axis."""

    vanished: NDArray
    """No entry of the column has a first moment that is alive."""
    untouched: NDArray
    """The moments of the column are exactly zero."""


class Point(Struct, frozen=True, eq=False):
    """One checkpoint of a series."""

    path: str
    step: int | None
    """Environment or training steps."""
    updates: int | None
    """Gradient updates, as the file or its optimizer counts them."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Its settings as plain values, those of the optimizer's first group under ``optimizer.lr`` …"""


class Series(Struct, frozen=True, eq=False, dict=True):
    """The checkpoints of one run, in the order of training."""

    points: tuple[Point, ...]
    """The checkpoints: their paths, steps, updates and settings."""
    tensors: tuple[TensorSeries, ...]
    """Those that every checkpoint has, in file order."""
    ordered_by: str
    """What the order was taken from: ``step``, ``updates``, another counter (``epoch``), ``name``, ``command line``."""

    @cached_property
    def by_name(self) -> Mapping[str, TensorSeries]:
        """The tensors by name."""
        return {tensor.name: tensor for tensor in self.tensors}

    @cached_property
    def is_connected(self) -> bool:
        """False where most matrices are other ones at every checkpoint, as those of different runs are.

        Two independent draws of the same size are apart by √2 of their norm.
        """
        changes = np.array([tensor["change"][1:] for tensor in self.trained if tensor.is_matrix])
        known = np.isfinite(changes).any(axis=0) if changes.size else np.zeros(0, dtype=bool)
        if not known.any():
            return True
        others = np.nanmedian(changes[:, known], axis=0) >= UNRELATED
        return not bool(others.all())

    @property
    def trained(self) -> Iterator[TensorSeries]:
        """The tensors that are learned: neither buffers nor copies of others."""
        return (tensor for tensor in self.tensors if tensor.is_trained)

    @cached_property
    def facts(self) -> dict[Hashable, Any]:
        """What functions that are marked ``found_once`` found out."""
        return {}

    @cached_property
    def distances(self) -> NDArray:
        """How far each checkpoint is from the one before, in updates or else in steps; NaN where it is not known."""
        for counter in ("updates", "step"):
            counts = [getattr(point, counter) for point in self.points]
            if all(count is not None for count in counts):
                limited = [float(max(-LARGEST_COUNT, min(count, LARGEST_COUNT))) for count in counts]
                return np.concatenate(([nan], np.diff(limited)))
        return np.full(len(self.points), nan)

    def place(self, position: int) -> dict[str, Any]:
        """Return the evidence that names a checkpoint: ``onset_step`` and ``onset_path``."""
        return {"onset_step": self.points[position].step, "onset_path": self.points[position].path}

    def name_point(self, position: int) -> str:
        """Name a checkpoint in a sentence: ``step 6,000``, or its path where it has no step."""
        point = self.points[position]
        return point.path if point.step is None else f"step {point.step:,}"
