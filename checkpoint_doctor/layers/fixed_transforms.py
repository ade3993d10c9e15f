"""Weights that are computed by a formula and not learned."""

from __future__ import annotations

import re

_FIXED_TRANSFORM = re.compile(
    r"(^|[._/-])(stft|fourier|fft|dct|dft|mel(_?scale)?|filter_?banks?|window|basis|sinc|sobel|laplac\w*|blur\w*)"
    r"([._/:-]|$)",
    re.IGNORECASE,
)


def is_fixed_transform(name: str) -> bool:
    """True for the name of a Fourier basis, a mel filter bank, a blur and the like.

    Such weights may have a row of zeros (the sine of frequency zero) and equal rows (symmetric filters).
    """
    return _FIXED_TRANSFORM.search(name) is not None
