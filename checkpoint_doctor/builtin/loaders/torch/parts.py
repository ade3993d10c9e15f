"""Names what stands under the keys of a file beside or instead of its tensors: schedulers, loss scalers, methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from checkpoint_doctor.builtin.loaders._optimizers.state import is_optimizer, plain
from checkpoint_doctor.builtin.loaders._pickle.modules import attributes_of
from checkpoint_doctor.builtin.loaders._pickle.objects import Inert
from checkpoint_doctor.builtin.loaders._pickle.tensors import PickledTensor
from checkpoint_doctor.checkpoint import Content, Part
from checkpoint_doctor.sources.budget import Budget

MOST_KEYS = 256
"""Entries of a mapping or list that are looked at."""
MOST_VALUES = 64

MOST_LOOKED_AT = 1_000
"""Values of a mapping among which its first tensor is: one mapping may stand under very many keys."""
_SCHEDULER = ({"last_epoch", "_step_count"}, {"last_epoch", "_last_lr"}, {"num_bad_epochs", "patience"})
"""Fields of which each set is found in the schedulers of PyTorch and in nothing else."""
_LOSS_SCALER = (
    {"scale", "growth_factor"}, {"cur_scale", "cur_iter"}, {"loss_scale", "unskipped"}, {"scale", "growth_tracker"},
)  # fmt: skip
"""The same for the loss scalers of PyTorch, DeepSpeed, Apex and Megatron-LM."""


def find_parts(top: Mapping[Any, Any], budget: Budget) -> Iterator[Part]:
    """Yield what is recognised under the keys of a file's outermost dictionary, and in the lists and mappings below."""
    for key, value in islice(top.items(), MOST_KEYS):
        if isinstance(key, str):
            yield from describe_part(key[:200], value, budget, depth=1)


def describe_part(name: str, value: Any, budget: Budget, depth: int = 0) -> Iterator[Part]:
    """Yield what is recognised of a value, and down to a depth of what is in it."""
    method = _name_of_method(value)
    if method:
        yield Part(name, Content.METHOD, type_name=method)
        return
    fields = value if isinstance(value, Mapping) else attributes_of(value)
    if is_optimizer(fields):
        yield Part(name, Content.OPTIMIZER)
    elif any(each <= fields.keys() for each in _SCHEDULER):
        yield Part(name, Content.SCHEDULER, _plain_values(fields, budget))
    elif any(each <= fields.keys() for each in _LOSS_SCALER):
        yield Part(name, Content.LOSS_SCALER, _plain_values(fields, budget))
    elif isinstance(value, Mapping) and any(
        isinstance(each, PickledTensor) for each in islice(value.values(), MOST_LOOKED_AT)
    ):
        keys = frozenset(str(key) for key, each in value.items() if isinstance(each, PickledTensor))
        yield Part(name, Content.STATE_DICT, _plain_values(value, budget), keys)
    elif depth:
        inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
        for key, each in islice(inner, MOST_KEYS):
            if isinstance(key, str | int):
                yield from describe_part(f"{name}/{str(key)[:200]}", each, budget, depth - 1)


def _name_of_method(value: Any) -> str:
    """Return the qualified name of a method that was pickled with the object it is bound to; empty for all else."""
    if not isinstance(value, Inert) or not value.arguments or not isinstance(value.arguments[0], Inert):
        return ""
    owner = value.arguments[0].type_name
    return value.type_name if value.type_name.startswith(f"{owner}.") else ""


def _plain_values(fields: Mapping[Any, Any], budget: Budget) -> dict[str, Any]:
    """Return the plain values of a mapping: single numbers also where they are tensors."""
    values: dict[str, Any] = {}
    for key, value in islice(fields.items(), MOST_VALUES):
        is_number = isinstance(value, PickledTensor) and value.shape in ((), (1,))
        if isinstance(key, str) and (is_number or isinstance(value, bool | int | float | str | list | tuple | None)):
            values[key[:200]] = plain(value, budget)
    return values
