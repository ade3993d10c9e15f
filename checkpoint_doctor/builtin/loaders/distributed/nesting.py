"""Restores the object that was saved from its flat keys: ``model.0.weight`` to ``{"model": {"0.weight": …}}``.

Optimizers get the form of ``Optimizer.state_dict()``, however their state was flattened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from checkpoint_doctor.builtin.loaders._optimizers.state import LIKE_PARAMETER, is_optimizer, plain
from checkpoint_doctor.builtin.loaders._pickle.tensors import PickledTensor
from checkpoint_doctor.builtin.loaders.distributed.assembly import Unread
from checkpoint_doctor.checkpoint import Skipped
from checkpoint_doctor.sources.budget import Budget
from checkpoint_doctor.text import quantity, shown

LONGEST_KEY = 2000
LONGEST_OPTIONS = 1000
"""Characters of the options of one parameter."""
ENTRIES = frozenset((*LIKE_PARAMETER, "step"))
"""Names of an optimizer's state entries."""
STATE = re.compile(r"(?P<prefix>(?:.*?\.)?)state\.(?P<rest>.+)", re.S)
OPTIMIZER = re.compile(r"opt|optims?|optimizers?", re.I)
"""What the prefix of a flattened optimizer is called where none of its options is stored."""
OPTION = re.compile(r"(?P<prefix>(?:.*?\.)?)param_groups\.(?P<name>.+)\.(?P<option>[^.]+)", re.S)


class _Branch(dict[Any, Any]):
    """A container of the object that was saved, as opposed to a dictionary that was saved as one piece."""


def restore(entries: Mapping[str, Any], paths: Mapping[str, tuple[str | int, ...]]) -> dict[Any, Any]:
    """Return the object that was saved.

    Args:
        entries: the flat keys with their tensors and objects.
        paths: the keys and positions that lead to each; a key without a path is one of the outermost dictionary.
    """
    root = _Branch()
    for key, value in entries.items():
        if not _insert(root, paths.get(key, (key,)), value):
            root.setdefault(key, value)
    restored = _finish(root)
    return restored if isinstance(restored, dict) else {"0": restored}


def _insert(root: _Branch, path: tuple[str | int, ...], value: Any) -> bool:
    """Insert a value, unless its path leads through or to another value."""
    branch = root
    for step in path[:-1]:
        inner = branch.setdefault(step, _Branch())
        if not isinstance(inner, _Branch):
            return False
        branch = inner
    return branch.setdefault(path[-1], value) is value


def _finish(branch: _Branch) -> Any:
    """Turn branches into dictionaries and lists, and optimizers into the form that PyTorch gives them."""
    items: dict[Any, Any] = {
        key: _finish(value) if isinstance(value, _Branch) else value for key, value in branch.items()
    }
    if items and all(type(key) is int for key in items) and min(items) >= 0 and max(items) < 4 * len(items) + 64:
        # An empty container in a list has no entry.
        return [items.get(position) for position in range(max(items) + 1)]
    if "param_groups" in items:
        items.setdefault("state", {})  # an empty state has no entry either
    if is_optimizer(items):
        return _with_positions(items)
    return _gather_optimizers(items)


def _with_positions(optimizer: dict[Any, Any]) -> dict[Any, Any]:
    """Give the state integer keys again where parameters are known by position: saving turned them into text."""
    state, groups = optimizer["state"], optimizer["param_groups"]
    named = any(isinstance(key, str) for group in groups for key in _params(group))
    if not named and all(isinstance(key, str) and key.isdecimal() for key in state):
        state = {int(key): value for key, value in state.items() if len(key) < 20}
    return {**optimizer, "state": state}


def _params(group: Mapping[Any, Any]) -> list[Any]:
    params = group["params"]
    return list(params) if isinstance(params, list | tuple) else [params]


def _gather_optimizers(items: dict[Any, Any]) -> dict[Any, Any]:
    """Gather flattened optimizers: ``state.NAME.exp_avg`` beside ``param_groups.NAME.lr`` of every parameter.

    Where the keys are not nested at all (``optimizer.state.NAME.exp_avg``), the part before is the optimizer's name.
    """
    states: dict[str, dict[str, dict[str, Any]]] = {}
    options: dict[str, dict[str, dict[str, Any]]] = {}
    prefixes: dict[Any, str] = {}
    for key, value in items.items():
        for prefix, name, entry, is_state in _parse(key):
            (states if is_state else options).setdefault(prefix, {}).setdefault(name, {})[entry] = value
            prefixes[key] = prefix
    # Layers may be called "state" as well.
    found = options.keys() | {prefix for prefix in states if OPTIMIZER.fullmatch(prefix.rstrip(".").rpartition(".")[2])}
    taken = {key for key, prefix in prefixes.items() if prefix in found}
    left = {key: value for key, value in items.items() if key not in taken}
    for prefix in sorted(found):
        state = states.get(prefix, {})
        optimizer = {"state": state, "param_groups": _group(state, options.get(prefix, {}))}
        if not prefix and not left:
            return optimizer
        left[prefix.rstrip(".") or "optimizer"] = optimizer
    return left


def _parse(key: Any) -> Iterator[tuple[str, str, str, bool]]:
    """Yield the prefix, the parameter's name, the entry of its state (or its option), and which of both it is."""
    if not isinstance(key, str) or len(key) > LONGEST_KEY:
        return
    if found := OPTION.fullmatch(key):
        yield found["prefix"], found["name"], found["option"], False
    elif found := STATE.fullmatch(key):
        first, _, rest = found["rest"].partition(".")
        name, _, last = found["rest"].rpartition(".")
        if last in ENTRIES and name:
            yield found["prefix"], name, last, True
        elif first in ENTRIES and rest:  # Megatron puts the entry before the name
            yield found["prefix"], rest, first, True


def _group(state: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the parameter groups: the parameters with equal options are one."""
    groups: dict[str, dict[str, Any]] = {}
    budget = Budget("the optimizer", LONGEST_OPTIONS * len(options or state))
    for name in options or state:
        given = options.get(name, {})
        label = repr(sorted((option, plain(value, budget)) for option, value in given.items() if option != "params"))
        groups.setdefault(label, {**given, "params": []})["params"].append(name)
    return list(groups.values())


def drop_incomplete(value: Any, path: str = "") -> Iterator[Skipped]:
    """Take out the optimizers of which something cannot be read: what is left would look like another state.

    Yields what was taken out, and why.
    """
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        name = f"{path}/{key}" if path else str(key)
        if not is_optimizer(inner):
            yield from drop_incomplete(inner, name)
        elif reasons := list(_reasons(inner)):
            value[key] = None
            what = quantity(len(reasons), "entry", "entries")
            yield Skipped(
                f"the optimizer {shown(name)}", f"{what} of it cannot be read, such as one because {reasons[0]}"
            )


def _reasons(value: Any) -> Iterator[str]:
    """Yield why parts of nested containers cannot be read."""
    if isinstance(value, PickledTensor) and value.problem:
        yield value.problem
    elif isinstance(value, Unread):
        yield value.why
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _reasons(each)
