"""Which tensor an optimizer's n-th parameter is, where the file only gives positions and shapes.

A wrong name would turn every conclusion from the moments into a lie, so a name is given only where no other assignment
fits. Optimizers are taken to hold each of their groups in the model's order (``model.parameters()``, possibly
filtered); nothing is assumed about which parameters were left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from checkpoint_doctor.checkpoint import Tensor
from checkpoint_doctor.text import shown

Shape = tuple[int, ...]

BUFFER = re.compile(r"(^|[._])(running_mean|running_var|num_batches_tracked|ra_mean|ra_var|steps|position_ids)$")
"""Buffers that no optimizer holds: BatchNorm's and BatchRenorm's statistics, BERT's positions."""
COPY = re.compile(r"(^|[._/])(target|ema|teacher|shadow|averaged|swa)([._/]|$)|_target([._/]|$)|(^|[._/])target_", re.I)
"""Copies that follow another network and that no optimizer holds."""


@dataclass(frozen=True)
class Match:
    """The names of an optimizer's parameters, by position."""

    names: tuple[str | None, ...]
    unmatched: str = ""
    """Why names are missing."""
    mismatch: str = ""
    """How the optimizer contradicts the model."""


def trainable(tensors: Iterable[Tensor], *, integers: bool = False) -> list[Tensor]:
    """Return the tensors that an optimizer may hold, in order: no buffers, tied ones once, integers only if asked."""
    kept: list[Tensor] = []
    seen: set[tuple[str, tuple[int, int]]] = set()
    for tensor in tensors:
        if tensor.is_buffer or not (integers or tensor.is_floating) or BUFFER.search(tensor.name):
            continue
        place = (tensor.storage, tensor.storage_range)
        if tensor.storage and tensor.size:
            if place in seen:
                continue
            seen.add(place)
        kept.append(tensor)
    return kept


def match_in_order(slots: Sequence[Shape | None], parameters: Sequence[Tensor]) -> Match:
    """Match positions with a list that is known to be the optimizer's own; ``None`` is a position without state."""
    if len(slots) != len(parameters):
        mismatch = f"it holds {len(slots):,} parameters, but {len(parameters):,} of the model belong to it"
        first = _first_contradiction(slots, parameters)
        return Match((None,) * len(slots), mismatch, mismatch + (f"; {first}" if first else ""))
    contradiction = _first_contradiction(slots, parameters)
    if contradiction:
        return Match((None,) * len(slots), contradiction, contradiction)
    return Match(tuple(tensor.name for tensor in parameters))


def match_by_shape(
    groups: Sequence[Sequence[Shape | None]],
    models: Mapping[str, Sequence[Tensor]],
    optimizer: str,
) -> Match:
    """Match positions with the state dicts of a file, wherever that is possible in one way only.

    ``groups`` holds the shapes of each parameter group, ``models`` the tensors of each state dict by its name;
    ``optimizer`` is the name under which the optimizer was found, which may tell one state dict from another
    (``critic_optimizer`` and ``critic``).
    """
    slots = [shape for group in groups for shape in group]
    nothing: tuple[str | None, ...] = (None,) * len(slots)
    candidates = {name: kept for name, tensors in models.items() if (kept := trainable(tensors))}
    originals = {name: kept for name, kept in candidates.items() if len(candidates) == 1 or not COPY.search(name)}
    candidates = originals or candidates
    if not slots or not candidates:
        return Match(nothing, "the file holds no parameters that could be its" if slots else "")
    akin = [name for name in candidates if _words(name) and _words(name) == _words(optimizer)]
    fitting = list(_fitting(groups, candidates))
    if len(fitting) > 1 and len(akin) == 1:
        fitting = list(_fitting(groups, {akin[0]: candidates[akin[0]]})) or fitting
    if not fitting:
        # Who keeps switches and bit widths as parameters without gradient hands them to the optimizer as well.
        whole = {name: trainable(models[name], integers=True) for name in candidates}
        fitting = [kept for kept in _fitting(groups, whole) if _leaves_integers_alone(slots, kept)]
    if len(fitting) > 1:
        return Match(nothing, "several state dicts of the file fit it equally well")
    if fitting:
        return _match_forced(groups, fitting[0])
    if len(akin) == 1 or (len(candidates) == 1 and not _is_someone_elses(optimizer, next(iter(candidates)))):
        return _match_forced(groups, candidates[akin[0] if akin else next(iter(candidates))])
    together = _match_forced(groups, [tensor for tensors in candidates.values() for tensor in tensors])
    # Nobody can say whether this optimizer belongs to what is in the file, so a misfit contradicts nothing.
    return Match(together.names, together.unmatched or together.mismatch)


def match_by_name(
    wanted: Sequence[str], slots: Sequence[Shape | None], models: Mapping[str, Sequence[Tensor]]
) -> Match:
    """Match positions by the parameter names that optimizers of PyTorch 2.6 and later store."""
    by_key: dict[str, list[Tensor]] = {}
    for model, tensors in models.items():
        for tensor in tensors:
            key = tensor.name.removeprefix(f"{model}/") if model else tensor.name
            by_key.setdefault(_plain(key), []).append(tensor)
    names: list[str | None] = []
    unmatched = mismatch = ""
    for index, (name, shape) in enumerate(zip(wanted, slots, strict=True)):
        found = by_key.get(_plain(name), [])
        if len(found) != 1:
            names.append(None)
            reason = "several state dicts hold" if found else "no state dict holds"
            unmatched = unmatched or f"{reason} {shown(name)!r}, the name stored for its parameter {index}"
        elif shape is not None and shape != found[0].shape:
            names.append(None)
            mismatch = mismatch or _contradiction(index, shape, found[0])
        else:
            names.append(found[0].name)
    return Match(tuple(names), unmatched or mismatch, mismatch)


def _fitting(groups: Sequence[Sequence[Shape | None]], models: Mapping[str, list[Tensor]]) -> Iterable[list[Tensor]]:
    """Yield every list of parameters that the optimizer may hold completely."""
    lists = list(models.values())
    if len(lists) > 1:
        lists.append([tensor for tensors in models.values() for tensor in tensors])
    seen: set[tuple[str, ...]] = set()
    for tensors in lists:
        for variant in (tensors, [tensor for tensor in tensors if not COPY.search(tensor.name)]):
            names = tuple(tensor.name for tensor in variant)
            if names not in seen and _fits(groups, variant):
                seen.add(names)
                yield variant


def _fits(groups: Sequence[Sequence[Shape | None]], parameters: Sequence[Tensor]) -> bool:
    slots = [shape for group in groups for shape in group]
    if len(slots) != len(parameters):
        return False
    if len(groups) == 1:
        return not _first_contradiction(slots, parameters)
    return _is_contained(slots, parameters) and all(_is_in_order(group, parameters) for group in groups)


def _leaves_integers_alone(slots: Sequence[Shape | None], parameters: Sequence[Tensor]) -> bool:
    """Return whether there is state, and none for what has no gradient."""
    pairs = [(slot is None, tensor.is_floating) for slot, tensor in zip(slots, parameters, strict=True)]
    return (False, True) in pairs and (False, False) not in pairs


def _match_forced(groups: Sequence[Sequence[Shape | None]], parameters: Sequence[Tensor]) -> Match:
    """Name the positions that only one tensor can stand at."""
    slots = [shape for group in groups for shape in group]
    nothing: tuple[str | None, ...] = (None,) * len(slots)
    if len(slots) > len(parameters):
        mismatch = f"it holds {len(slots):,} parameters, but the model has {len(parameters):,}"
        first = _first_contradiction(slots, parameters)
        return Match(nothing, mismatch, mismatch + (f"; {first}" if first else ""))
    if not _is_contained(slots, parameters):
        mismatch = _first_contradiction(slots, parameters)
        if not mismatch:
            mismatch = "its state has shapes that the model does not have"
        return Match(nothing, mismatch, mismatch)
    if len(groups) == 1 and len(slots) == len(parameters) and not _first_contradiction(slots, parameters):
        return Match(tuple(tensor.name for tensor in parameters))
    is_ordered = all(_is_in_order(group, parameters) for group in groups)
    of_shape: dict[Shape, list[Tensor]] = {}
    for tensor in parameters:
        of_shape.setdefault(tensor.shape, []).append(tensor)
    holders: dict[Shape, set[int]] = {}
    for number, group in enumerate(groups):
        for shape in group:
            if shape is not None:
                holders.setdefault(shape, set()).add(number)
    counts = Counter(shape for shape in slots if shape is not None)
    given: Counter[Shape] = Counter()
    names: list[str | None] = []
    for shape in slots:
        name = None
        if shape is not None and counts[shape] == len(of_shape[shape]):
            # All of this shape are here, so the order within one group decides.
            if counts[shape] == 1 or (is_ordered and len(holders[shape]) == 1):
                name = of_shape[shape][given[shape]].name
            given[shape] += 1
        names.append(name)
    missing = names.count(None)
    if not missing:
        return Match(tuple(names))
    if None in slots:
        why = "parameters without state have no shape to be told by"
    elif not is_ordered:
        why = "its parameters stand in another order than the model's"
    else:
        why = "equal shapes could stand for one another"
    left_out = len(parameters) - len(slots)
    omitted = f", and {left_out:,} of the model's {len(parameters):,} are not in it" if left_out else ""
    return Match(
        tuple(names), f"{missing:,} of its {len(slots):,} parameters are known by position only: {why}{omitted}"
    )


def _is_contained(slots: Sequence[Shape | None], parameters: Sequence[Tensor]) -> bool:
    return not Counter(shape for shape in slots if shape is not None) - Counter(tensor.shape for tensor in parameters)


def _is_in_order(group: Sequence[Shape | None], parameters: Sequence[Tensor]) -> bool:
    remaining = iter(parameters)
    return all(any(shape is None or shape == tensor.shape for tensor in remaining) for shape in group)


def _first_contradiction(slots: Sequence[Shape | None], parameters: Sequence[Tensor]) -> str:
    for index, (shape, tensor) in enumerate(zip(slots, parameters, strict=False)):
        if shape is not None and shape != tensor.shape:
            return _contradiction(index, shape, tensor)
    return ""


def _contradiction(index: int, shape: Shape, tensor: Tensor) -> str:
    return f"state {index} has shape {list(shape)}, but {shown(tensor.name)} has {list(tensor.shape)}"


def _plain(name: str) -> str:
    """Drop what wrappers (DataParallel, torch.compile) put into names."""
    return name.replace("_orig_mod.", "").removeprefix("module.")


def _words(name: str) -> frozenset[str]:
    """Return what tells one network or optimizer from another in its name: ``optimizerG_state_dict`` → ``g``."""
    words = re.split(r"[^a-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())
    plain = {"optimizer", "optimizers", "optim", "optims", "opt", "state", "states", "dict", "dicts", "model", "models"}
    return frozenset(words) - plain - {"", "net", "nets", "network", "networks", "module", "weights", "params"}


def _is_someone_elses(optimizer: str, model: str) -> bool:
    """Return whether both names say something and not the same: ``optimizer_d`` beside ``generator``."""
    words = {word for word in _words(optimizer) if not word.isdigit()}
    return bool(words) and bool(_words(model)) and words != _words(model)
