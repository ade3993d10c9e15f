"""The documented init rules by which repairs replace values.

An init rule takes the old values and a random generator and returns a new array of the same shape. Entries that need no
repair keep their value. Init rules know no file, no analyzer and no optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from numpy.random import Generator

    InitRule = Callable[[NDArray, Generator], NDArray]
    """Takes the old values and a random generator, returns the new values."""

BIAS_LIMIT = 0.01
"""Half-width of the uniform distribution for a zero bias. A convention of this project without a primary source: it
removes exact zeros and is far below PyTorch's default of 1/√fan-in, so the network's function hardly changes."""

OUTPUT_LIMIT = 0.003
"""Half-width of the uniform distribution for a zero output layer: DDPG's rule for its last layers
(Lillicrap, 1509.02971)."""

FORGET_BIAS = 1.0
"""Effective forget-gate bias of an LSTM (Gers et al. 2000; Jozefowicz et al. 2015). PyTorch adds two biases, so the
first gets 1.0 and the second 0.0."""

NORM_GAIN = 1.0
"""Initial gain of a norm (Ba et al., 1607.06450; ``reset_parameters`` in PyTorch)."""


def draw_uniform(limit: float) -> InitRule:
    """Return an init rule that draws every entry that is exactly zero from uniform(−limit, limit), never 0 itself."""

    def replace(old: NDArray, random: Generator) -> NDArray:
        drawn = random.uniform(-limit, limit, size=old.shape)
        # Rounding to a narrow type must neither leave the interval nor give the zero that is to be replaced.
        drawn = np.copysign(np.clip(np.abs(drawn), limit / 1000, limit * 0.99), drawn)
        return np.where(old == 0, drawn, old)

    return replace


def fill_zeros(value: float) -> InitRule:
    """Return an init rule that replaces every exactly zero entry by a value."""

    def replace(old: NDArray, random: Generator) -> NDArray:
        return np.where(old == 0, value, old)

    return replace


def fill(value: float) -> InitRule:
    """Return an init rule that sets all entries to a value."""

    def replace(old: NDArray, random: Generator) -> NDArray:
        return np.full(old.shape, value, dtype=np.float64)

    return replace


def within(rows: slice, rule: InitRule) -> InitRule:
    """Return an init rule that applies another to some rows (first axis) and keeps the other rows."""

    def replace(old: NDArray, random: Generator) -> NDArray:
        new = old.astype(np.result_type(old, np.float64))
        new[rows] = rule(old[rows], random)
        return new

    return replace


def at_lines(lines: Sequence[int], axis: int, rule: InitRule) -> InitRule:
    """Return an init rule that applies another to the whole tensor and uses the result in some rows or columns.

    So rules that depend on the whole shape (fan-in, orthogonality) draw these lines as they did initially.
    """

    def replace(old: NDArray, random: Generator) -> NDArray:
        new = old.astype(np.result_type(old, np.float64))
        places = (slice(None),) * axis + (list(lines),)
        new[places] = rule(old, random)[places]
        return new

    return replace


def where_not_finite(rule: InitRule) -> InitRule:
    """Return an init rule that applies another to the whole tensor and uses the result for non-finite entries."""

    def replace(old: NDArray, random: Generator) -> NDArray:
        finite = np.isfinite(old)
        # New values must not depend on NaN and infinite entries.
        return np.where(finite, old, rule(np.where(finite, old, 0.0), random))

    return replace


def draw_all(limit: float) -> InitRule:
    """Return an init rule that draws all entries from uniform(−limit, limit)."""

    def replace(old: NDArray, random: Generator) -> NDArray:
        return random.uniform(-limit, limit, size=old.shape)

    return replace


def draw_normal(deviation: float) -> InitRule:
    """Return an init rule that draws all entries from a normal distribution around 0."""

    def replace(old: NDArray, random: Generator) -> NDArray:
        return random.normal(0.0, deviation, size=old.shape)

    return replace


def draw_orthogonal(gain: float) -> InitRule:
    """Return an init rule that draws a matrix whose rows (where it is tall, columns) are orthonormal, times a gain.

    As ``torch.nn.init.orthogonal_``: the axes after the first are flattened (Saxe et al., 1312.6120).
    """

    def replace(old: NDArray, random: Generator) -> NDArray:
        rows = old.shape[0]
        columns = old.size // rows if rows else 0
        basis, triangle = np.linalg.qr(random.normal(size=(max(rows, columns), min(rows, columns))))
        basis = basis * np.where(np.diag(triangle) < 0, -1.0, 1.0)
        return gain * (basis.T if rows < columns else basis).reshape(old.shape)

    return replace


def fill_typical(old: NDArray, random: Generator) -> NDArray:
    """Replace NaN and infinite entries by the median of the finite entries that are not zero; by 0 without any."""
    finite = np.isfinite(old)
    typical = old[finite & (old != 0)]
    return np.where(finite, old, np.median(typical) if typical.size else 0.0)


def in_turn(rules: Sequence[InitRule]) -> InitRule:
    """Return an init rule that applies several, one after the other."""

    def replace(old: NDArray, random: Generator) -> NDArray:
        for rule in rules:
            old = rule(old, random)
        return old

    return replace
