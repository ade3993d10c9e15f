"""Converts new values to a tensor's dtype and refuses those that it cannot represent."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.errors import RepairFailed


def cast(given: NDArray, dtype: np.dtype) -> NDArray[Any]:
    """Return numbers converted to a dtype and rounded to it; ``refuse_losses`` checks what it cannot represent."""
    with np.errstate(all="ignore"):
        return (given.real if dtype.kind != "c" else given).astype(dtype)


def refuse_losses(given: NDArray, written: NDArray, is_floating: bool, name: str) -> None:
    """Compare numbers with their converted values.

    Raises:
        RepairFailed: a finite number became infinite or NaN, a complex one lost its imaginary part, or a number for a
            tensor of integers is not exactly what was given.
    """
    with np.errstate(all="ignore"):
        if is_floating:
            lost = np.isfinite(given) & ~np.isfinite(written)
            if given.dtype.kind == "c" and written.dtype.kind != "c":
                lost |= given.imag != 0
        else:
            lost = written.astype(given.dtype) != given
    if lost.any():
        raise RepairFailed(
            f"{given[lost][0]} cannot be written into {name}: its dtype cannot represent this value",
            "leave this tensor out, or save the model with a wider dtype",
        )


def find_kept(old: NDArray, given: NDArray, written: NDArray) -> NDArray[np.bool_]:
    """Return which entries do not change: the given number equals the old one in the coarser of the two dtypes.

    NaN equals NaN whatever their bits, and zero equals negative zero.
    """
    if old.dtype.kind == "c" and given.dtype.kind != "c":
        given = given.astype(np.complex128)
    with np.errstate(all="ignore"):
        kept = np.asarray(cast(old, given.dtype) == given, bool)
        if not kept.all():
            kept |= (written == old) | (np.isnan(old) & np.isnan(written))
    return kept
