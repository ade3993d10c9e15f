"""Old and new entries of one tensor: drawing, rounding and telling them apart, and moments that suit the new ones."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.statistics.values import as_real

EPSILON = 1e-8
"""Adam's ``eps`` by default: a root of the second moment below it has no say in the size of a step."""


def typical_square(values: NDArray, repaired: NDArray, *, least: float) -> float:
    """Return the median of a second moment's healthy entries: finite, not zero, and not among the repaired ones.

    Where all were repaired the moments of these themselves serve, since the weights were ill and not they; 0.0 where no
    gradient ever came. Where most have faded below ``least`` since their last gradient, which those of dead units do,
    the median of the others serves: the faded would send repaired entries off with steps far too large.
    """
    wide = as_real(values)
    healthy = np.isfinite(wide) & (wide != 0)
    pools = (healthy & ~repaired, healthy)
    typical = next((float(np.median(wide[pool])) for pool in pools if pool.any()), 0.0)
    if typical >= least:
        return typical
    alive = (pool & (wide >= least) for pool in pools)
    return next((float(np.median(wide[pool])) for pool in alive if pool.any()), typical)


def generator(seed: int, name: str) -> np.random.Generator:
    """Return the random generator of one tensor, which depends on the seed and its name alone."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return np.random.default_rng([seed, int.from_bytes(digest, "little")])


def round_toward_zero(wide: NDArray, old: NDArray) -> NDArray:
    """Return values in another's type, rounded towards zero so that no draw leaves its interval.

    Entries that are what they were keep their bits.
    """
    with np.errstate(all="ignore"):
        rounded = wide.astype(old.dtype)
        if "c" not in (wide.dtype.kind, old.dtype.kind) and old.dtype != np.float64:
            larger = np.abs(rounded.astype(np.float64)) > np.abs(wide)
            if larger.any():
                rounded[larger] = np.nextafter(rounded[larger], np.zeros((), old.dtype))
        same = (widen(old) == wide) | (np.isnan(wide) & np.isnan(widen(old)))
    return np.where(same, old, rounded).astype(old.dtype)


def differs(old: NDArray, new: NDArray) -> NDArray:
    """Return where two arrays of one type are not the same; NaN is the same as NaN."""
    with np.errstate(all="ignore"):
        different: NDArray = (old != new) & ~((old != old) & (new != new))
    return different


def widen(values: NDArray) -> NDArray:
    """Return values in the type that is reckoned with: double precision, real or complex."""
    with np.errstate(invalid="ignore"):  # signalling NaN
        return values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)
