"""Reads an optimizer's state dict: parameter groups, moments and steps.

Its form is that of ``torch.optim.Optimizer.state_dict()``: ``{"state": {key: {…}}, "param_groups": [{"params": [key,
…], "lr": …}]}``. The keys are positions, or ``id()`` numbers before PyTorch 1.6, or names where FSDP gathered it; in
a whole pickled optimizer they are the parameters themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from msgspec import Struct

from checkpoint_doctor.builtin.loaders._optimizers.matching import (
    Match,
    Shape,
    match_by_name,
    match_by_shape,
    match_in_any_order,
    match_in_order,
)
from checkpoint_doctor.builtin.loaders._pickle.objects import Inert, StoredFloat
from checkpoint_doctor.builtin.loaders._pickle.tensors import PickledTensor
from checkpoint_doctor.builtin.loaders._storage.stored_values import StoredValues
from checkpoint_doctor.checkpoint import Moments, Optimizer, ParameterGroup, Tensor
from checkpoint_doctor.checkpoint.optimizer_kinds import infer_kind
from checkpoint_doctor.sources.budget import OBJECTS, SETTINGS, Budget

LIKE_PARAMETER = (
    "exp_avg",
    "exp_avg_sq",
    "square_avg",
    "momentum_buffer",
    "exp_inf",
    "sum",
    "acc_delta",
    "max_exp_avg_sq",
    "grad_avg",
    "prev",
    "ax",
)
"""State entries of PyTorch's optimizers that have their parameter's shape."""


SLOT_COST = 16
"""Objects of the budget that one parameter of an optimizer counts as."""
LARGEST_COUNT = 1 << 63
"""Integers from which on nothing counts so far: settings and counters must be numbers that can be reckoned with."""
LONGEST_SETTING = 200
"""Characters of the name of a setting that are kept."""


class _Slot(Struct, frozen=True):
    """One parameter of an optimizer."""

    state: Mapping[str, Tensor]
    step: int | None
    shape: Shape | None
    parameter: PickledTensor | None = None
    """The parameter itself, in a whole pickled optimizer."""
    name: str | None = None
    """The parameter's name, where the keys of the state are names (as FSDP gathers it)."""


def is_optimizer(value: object) -> bool:
    """Return whether an unpickled value has the form of an optimizer's state dict."""
    if not isinstance(value, Mapping):
        return False
    groups = value.get("param_groups")
    return (
        isinstance(value.get("state"), Mapping)
        and isinstance(groups, list | tuple)
        and all(isinstance(group, Mapping) and "params" in group for group in groups)
    )


def read_optimizer(
    name: str, state: Mapping[str, Any], parameters: Sequence[Tensor] | None, budget: Budget
) -> Optimizer:
    """Read an optimizer whose parameters are known.

    ``parameters`` are the model's tensors that the optimizer holds, in its order; ``None`` where they are unknown.
    Names are given only where the count and all shapes agree.

    Raises:
        UnreadableCheckpoint: a tensor of the state reaches beyond its storage or the file.
    """
    groups, slots = _read(name, state, budget)
    if parameters is None:
        match = Match((None,) * len(slots), "the file does not tell which parameters it holds")
    else:
        match = match_in_order([slot.shape for slot in slots], parameters)
    return _assemble(name, state, groups, slots, match)


def identify_optimizer(
    name: str,
    state: Mapping[str, Any],
    models: Mapping[str, Sequence[Tensor]],
    budget: Budget,
    leaves: Mapping[int, str] | None = None,
    kind: str | None = None,
    orders: Sequence[Mapping[str, Sequence[Tensor]]] | None = None,
) -> Optimizer:
    """Read an optimizer and find out which tensors it holds.

    Args:
        name: where it was found.
        state: its state dict.
        models: name of each state dict in the file to its tensors.
        budget: the file's.
        leaves: ``id()`` of unpickled tensors to their names, for whole pickled optimizers.
        kind: the optimizer's class where the file has it.
        orders: the possible orders of ``models`` where the file does not keep the model's own order.

    Raises:
        UnreadableCheckpoint: a tensor of the state reaches beyond its storage or the file.
    """
    groups, slots = _read(name, state, budget)
    stored = [group.get("param_names") for group in _groups_of(state)]
    shapes = [slot.shape for slot in slots]
    if slots and all(slot.parameter is not None for slot in slots):
        names = tuple((leaves or {}).get(id(slot.parameter)) for slot in slots)
        why = "some of its parameters are not in the model" if None in names else ""
        match = Match(names, why)
    elif slots and all(slot.name is not None for slot in slots):
        match = match_by_name([slot.name or "" for slot in slots], shapes, models)
    elif slots and all(_fits_names(given, group) for given, group in zip(stored, groups, strict=True)):
        match = match_by_name([str(each) for given in stored if given for each in given], shapes, models)
    else:
        by_group = [[shapes[index] for index in group.indices] for group in groups if group.indices]
        if orders is None or len(orders) == 1:
            match = match_by_shape(by_group, orders[0] if orders else models, name)
        else:
            match = match_in_any_order(by_group, orders or [models], name)
    beside = _models_beside(name, models)
    if match.unmatched and 0 < len(beside) < len(models):
        inside = identify_optimizer(name, state, beside, budget, leaves, kind)
        if not inside.unmatched:
            return inside
    return _assemble(name, state, groups, slots, match, kind)


def _models_beside(name: str, models: Mapping[str, Sequence[Tensor]]) -> dict[str, Sequence[Tensor]]:
    """Return the state dicts that lie in the same wrapper as an optimizer, as in ``mp_rank_00``."""
    wrapper, slash, _ = name.rpartition("/")
    return {path: each for path, each in models.items() if slash and path.rpartition("/")[0] == wrapper}


def _fits_names(given: object, group: ParameterGroup) -> bool:
    return isinstance(given, list | tuple) and len(given) == len(group.indices)


def _assemble(
    name: str,
    state: Mapping[str, Any],
    groups: tuple[ParameterGroup, ...],
    slots: Sequence[_Slot],
    match: Match,
    kind: str | None = None,
) -> Optimizer:
    parameters = tuple(
        Moments(index, tensor, slot.step, slot.state)
        for index, (slot, tensor) in enumerate(zip(slots, match.names, strict=True))
    )
    return Optimizer(name, kind or infer_kind(parameters, groups), groups, parameters, match.unmatched, match.mismatch)


def _groups_of(state: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    groups = state.get("param_groups")
    return [group for group in groups if isinstance(group, Mapping)] if isinstance(groups, list | tuple) else []


def _read(name: str, state: Mapping[str, Any], budget: Budget) -> tuple[tuple[ParameterGroup, ...], list[_Slot]]:
    entries = state.get("state")
    entries = entries if isinstance(entries, Mapping) else {}
    groups: list[ParameterGroup] = []
    slots: list[_Slot] = []
    for group in _groups_of(state):
        keys = group.get("params")
        keys = keys if isinstance(keys, list | tuple) else [keys]
        budget.spend(OBJECTS, SLOT_COST * len(keys))
        first = len(slots)
        for key in keys:
            held = entries.get(key) if isinstance(key, int | str | PickledTensor) else None
            slots.append(_read_slot(f"{name}/state/{len(slots)}", key, held, group))
        options = {
            shorten(option): plain(value, budget)
            for option, value in group.items()
            if option not in ("params", "param_names")
        }
        settings = dict(_patchable_options(f"{name}/param_groups/{len(groups)}", group))
        groups.append(ParameterGroup(options, tuple(range(first, len(slots))), settings))
    return tuple(groups), slots


def _patchable_options(name: str, group: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the options that are one number with an offset in the file."""
    for option, value in group.items():
        if isinstance(value, StoredFloat):
            place = StoredValues(value.source, value.offset, np.dtype(">f8"), ())
            yield str(option), Tensor(f"{name}/{option}", (), "float64", place)
        elif isinstance(value, PickledTensor) and prod(value.shape) == 1:
            tensor = value.as_tensor(f"{name}/{str(option)[:80]}")
            if isinstance(tensor, Tensor):
                yield str(option), tensor


def _read_slot(name: str, key: object, held: object, group: Mapping[str, Any]) -> _Slot:
    parameter = key if isinstance(key, PickledTensor) else None
    given = key if isinstance(key, str) else None
    if not isinstance(held, Mapping) or not held:
        return _Slot({}, None, parameter.shape if parameter else None, parameter, given)
    tensors: dict[str, Tensor] = {}
    for entry, value in held.items():
        if isinstance(value, PickledTensor) and entry != "step":
            tensor = value.as_tensor(f"{name}/{str(entry)[:80]}")
            if isinstance(tensor, Tensor):
                tensors[str(entry)] = tensor
    step = _whole(held.get("step", group.get("step")))
    shape = next((tensors[entry].shape for entry in LIKE_PARAMETER if entry in tensors), None)
    return _Slot(tensors, step, parameter.shape if parameter else shape, parameter, given)


def _whole(value: object) -> int | None:
    number = number_in(value)
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < LARGEST_COUNT:
        return None
    return int(number)


def number_in(value: Any) -> Any:
    """Return a number, also where it is a tensor of one element; anything else, and what no counter holds, in words."""
    if isinstance(value, StoredFloat):
        return float(value)
    if isinstance(value, int) and not -LARGEST_COUNT < value < LARGEST_COUNT:
        return f"an integer of {value.bit_length():,} bits"
    return _scalar(value) if isinstance(value, PickledTensor) else value


def shorten(key: object) -> str:
    """Return the name of a setting."""
    return key[:LONGEST_SETTING] if isinstance(key, str) else str(key)[:LONGEST_SETTING]


def plain(value: Any, budget: Budget, depth: int = 3) -> Any:
    """Return a setting as a number, a string, a short sequence or mapping of these, or else its type's name.

    Raises:
        UnreadableCheckpoint: the settings are longer than the file may ask for.
    """
    budget.spend(SETTINGS, _length_of(value))
    if value is None or isinstance(value, bool | int | float | str | PickledTensor):
        return number_in(value)
    if depth and isinstance(value, list | tuple) and len(value) <= 64:
        return type(value)(plain(item, budget, depth - 1) for item in value)
    if depth and isinstance(value, Mapping) and len(value) <= 256:
        return {shorten(key): plain(item, budget, depth - 1) for key, item in value.items()}
    if isinstance(value, Inert):
        # YAML libraries have number classes of their own, whose argument is the number.
        for argument in value.arguments:
            if isinstance(argument, int | float) and value.type_name.lower().endswith(("float", "int", "bool")):
                return argument
        return value.type_name
    return getattr(value, "name", None) or type(value).__name__


def _length_of(value: Any) -> int:
    """Return about how many characters a report takes for a value, without what is in it."""
    if isinstance(value, str):
        return len(value)
    # Ten bits are three digits.
    return 16 + value.bit_length() * 3 // 10 if isinstance(value, int) else 16


def _scalar(tensor: PickledTensor) -> Any:
    checked = tensor.as_tensor("a setting")
    if isinstance(checked, Tensor) and checked.size == 1:
        return checked.array.reshape(-1)[0].item()
    return f"tensor of shape {list(tensor.shape)}"
