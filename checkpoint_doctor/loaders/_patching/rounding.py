"""Given numbers, made numbers of a tensor's own type."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.errors import RepairFailed


def cast(given: NDArray, dtype: np.dtype) -> NDArray[Any]:
    """Return numbers as another type, rounded as the type rounds; what it cannot hold is for ``refuse_losses``."""
    with np.errstate(all="ignore"):
        return (given.real if dtype.kind != "c" else given).astype(dtype)


def refuse_losses(given: NDArray, written: NDArray, is_floating: bool, name: str) -> None:
    """Compare numbers with what a tensor's type makes of them.

    Raises:
        RepairFailed: a finite number became infinite or NaN, a complex one lost a part, or a number of a tensor that
            holds no floating point is not exactly what was given.
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
            f"{given[lost][0]} cannot be written into {name}: its type has no such value",
            "leave this tensor out, or save the model in a wider type",
        )


def find_kept(old: NDArray, given: NDArray, written: NDArray) -> NDArray[np.bool_]:
    """Return where an entry stays as it is: what was given is the old number, as exactly as both types can say it.

    A NaN stays for a NaN, whatever their bits, and a zero for a zero of the other sign.
    """
    if old.dtype.kind == "c" and given.dtype.kind != "c":
        given = given.astype(np.complex128)
    with np.errstate(all="ignore"):
        kept = np.asarray(cast(old, given.dtype) == given, bool)
        if not kept.all():
            kept |= (written == old) | (np.isnan(old) & np.isnan(written))
    return kept
