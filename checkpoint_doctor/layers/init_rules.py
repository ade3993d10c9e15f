"""The documented init rules by which ill tensors are made well again.

Each function takes the old values and a random generator and returns a whole new array of the same shape; whatever is
not ill keeps its value. None of them knows a file, a rule or an optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from numpy.random import Generator

    Renewal = Callable[[NDArray, Generator], NDArray]
    """Old values and a generator to new values."""

BIAS_LIMIT = 0.01
"""Half-width of the uniform draw for a zero bias. A convention of this project: it breaks exact zeros and is far below
the PyTorch default of 1/√fan-in, so that it changes no function noticeably. No primary source is known."""

OUTPUT_LIMIT = 0.003
"""Half-width of the uniform draw for a zero output layer: DDPG's rule for its last layers (Lillicrap, 1509.02971)."""

FORGET_BIAS = 1.0
"""Effective forget-gate bias of an LSTM (Gers et al. 2000; Jozefowicz et al. 2015). PyTorch adds two biases, so the
first gets 1.0 and the second 0.0."""

NORM_GAIN = 1.0
"""A norm's gain at the start (Ba et al., 1607.06450; ``reset_parameters`` in PyTorch)."""


def draw_uniform(limit: float) -> Renewal:
    """Return a renewal that draws every exactly zero entry from uniform(−limit, limit), zero itself left out."""

    def renew(old: NDArray, random: Generator) -> NDArray:
        drawn = random.uniform(-limit, limit, size=old.shape)
        # Rounding to a narrow type must neither leave the interval nor land on the zero that is to be broken.
        drawn = np.copysign(np.clip(np.abs(drawn), limit / 1000, limit * 0.99), drawn)
        return np.where(old == 0, drawn, old)

    return renew


def fill_zeros(value: float) -> Renewal:
    """Return a renewal that replaces every exactly zero entry by a value."""

    def renew(old: NDArray, random: Generator) -> NDArray:
        return np.where(old == 0, value, old)

    return renew


def fill(value: float) -> Renewal:
    """Return a renewal that sets all entries to a value."""

    def renew(old: NDArray, random: Generator) -> NDArray:
        return np.full(old.shape, value, dtype=np.float64)

    return renew


def within(rows: slice, inner: Renewal) -> Renewal:
    """Return a renewal that applies another to some rows (first axis) and leaves the others alone."""

    def renew(old: NDArray, random: Generator) -> NDArray:
        new = old.astype(np.float64)
        new[rows] = inner(old[rows], random)
        return new

    return renew


def at_lines(lines: Sequence[int], axis: int, inner: Renewal) -> Renewal:
    """Return a renewal that applies another to the whole tensor and keeps what it gives in some rows or columns.

    A rule that looks at the whole shape (fan-in, orthogonality) then draws the lines as it drew them at the start.
    """

    def renew(old: NDArray, random: Generator) -> NDArray:
        new = old.astype(np.float64)
        places = (slice(None),) * axis + (list(lines),)
        new[places] = inner(old, random)[places]
        return new

    return renew


def where_not_finite(inner: Renewal) -> Renewal:
    """Return a renewal that applies another to the whole tensor and keeps what it gives for non-finite entries."""

    def renew(old: NDArray, random: Generator) -> NDArray:
        finite = np.isfinite(old)
        # What is drawn must not depend on entries that are no numbers.
        return np.where(finite, old, inner(np.where(finite, old, 0.0), random))

    return renew


def draw_all(limit: float) -> Renewal:
    """Return a renewal that draws all entries from uniform(−limit, limit)."""

    def renew(old: NDArray, random: Generator) -> NDArray:
        return random.uniform(-limit, limit, size=old.shape)

    return renew


def draw_normal(deviation: float) -> Renewal:
    """Return a renewal that draws all entries from a normal distribution around 0."""

    def renew(old: NDArray, random: Generator) -> NDArray:
        return random.normal(0.0, deviation, size=old.shape)

    return renew


def draw_orthogonal(gain: float) -> Renewal:
    """Return a renewal that draws a matrix whose rows (where it is tall, columns) are orthonormal, times a gain.

    As ``torch.nn.init.orthogonal_``: the axes after the first are taken together (Saxe et al., 1312.6120).
    """

    def renew(old: NDArray, random: Generator) -> NDArray:
        rows = old.shape[0]
        columns = old.size // rows if rows else 0
        basis, triangle = np.linalg.qr(random.normal(size=(max(rows, columns), min(rows, columns))))
        basis = basis * np.where(np.diag(triangle) < 0, -1.0, 1.0)
        return gain * (basis.T if rows < columns else basis).reshape(old.shape)

    return renew


def fill_typical(old: NDArray, random: Generator) -> NDArray:
    """Replace NaN and infinite entries by the median of those that are finite and not zero; 0 where there are none."""
    finite = np.isfinite(old)
    healthy = old[finite & (old != 0)]
    return np.where(finite, old, np.median(healthy) if healthy.size else 0.0)


def in_turn(renewals: Sequence[Renewal]) -> Renewal:
    """Return a renewal that applies several, one after the other."""

    def renew(old: NDArray, random: Generator) -> NDArray:
        for each in renewals:
            old = each(old, random)
        return old

    return renew
