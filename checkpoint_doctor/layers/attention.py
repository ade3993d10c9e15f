"""Projections of attention that are known by their names."""

from __future__ import annotations

import re

KEY_BIAS = r"(^|[._])(to_|w)?(k|key)(_proj|_lin|_linear)?\.bias$"
"""The bias of a key projection. Softmax ignores a shift of all keys, so it receives no gradient (2006.16362)."""


def is_key_bias(name: str) -> bool:
    """Tell whether a tensor is the bias of a key projection."""
    return re.search(KEY_BIAS, name, re.IGNORECASE) is not None


_QUERY_OR_KEY = re.compile(r"(?i)(^|[._])(to_)?(q|k|query|key)(_?(proj|lin|linear))?\d*$")


def is_query_or_key(name: str) -> bool:
    """Tell whether a layer is a projection that only chooses: over a single element, its gradient is exactly zero."""
    return _QUERY_OR_KEY.search(name) is not None
