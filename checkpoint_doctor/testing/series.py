"""Builds series of checkpoints from figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from checkpoint_doctor.checkpoint import Point, Series, TensorSeries
from checkpoint_doctor.checkpoint.series import FIGURES


def build_series(
    tensors: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    dtypes: Mapping[str, str] | None = None,
    steps: Sequence[int] | None = None,
    settings: Sequence[Mapping[str, Any]] = (),
) -> Series:
    """Build a series from the figures of its tensors, as ``compare`` would from checkpoints.

    Args:
        tensors: names as in a state dict, mapped to figures (``zero_fraction``, ``norm``, ``change`` …), each with one
            value a checkpoint. Figures that are not given are not known.
        shapes: the tensors' shapes, by default (8, 8) for names that end in ``weight`` and (8,) for others.
        dtypes: their element types, by default ``float32``.
        steps: the checkpoints' steps, by default 100, 200 …
        settings: the settings of each checkpoint.

    Raises:
        ValueError: there is no such figure, or the figures have different lengths.
    """
    lengths = {len(values) for figures in tensors.values() for values in figures.values()} | ({len(settings)} - {0})
    if len(lengths) != 1:
        raise ValueError(f"figures and settings must have one value a checkpoint, not {sorted(lengths)}")
    [length] = lengths
    if unknown := sorted({name for figures in tensors.values() for name in figures} - set(FIGURES)):
        raise ValueError(f"there is no figure {unknown[0]!r}")
    steps = steps or [100 * (position + 1) for position in range(length)]
    points = [
        Point(f"step_{step}.pt", step, step, settings[position] if settings else {})
        for position, step in enumerate(steps)
    ]
    built = [
        TensorSeries(
            name=name,
            shape=(shapes or {}).get(name, (8, 8) if name.endswith("weight") else (8,)),
            dtype=(dtypes or {}).get(name, "float32"),
            kind="linear",
            layer=name.rpartition(".")[0],
            is_statistic=False,
            is_copy=False,
            is_output=False,
            reads_layer=False,
            figures={figure: np.array(figures.get(figure, [np.nan] * length), dtype=np.float64) for figure in FIGURES},
        )
        for name, figures in tensors.items()
    ]
    return Series(tuple(points), tuple(built), "step")
