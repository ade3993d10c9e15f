"""Finds which tensor an optimizer's n-th parameter is, where the file only has positions and shapes.

A wrong name would make every conclusion from the moments wrong, so a name is given only where no other assignment fits.
Each parameter group is assumed to follow the model's order (``model.parameters()``, possibly filtered); nothing is
assumed about which parameters were left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from msgspec import Struct

from checkpoint_doctor.builtin.loaders._optimizers.positions import certain_names
from checkpoint_doctor.checkpoint import Tensor
from checkpoint_doctor.text import shown

Shape = tuple[int, ...]

NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
"""The number of a block in a name; blocks come in the order of their numbers."""

MOST_ORDERS_COMPARED = 48
"""Orders of a model's tensors that are compared; each takes a hundredth of a second for some hundred tensors."""

BUFFER = re.compile(r"(^|[._])(running_mean|running_var|num_batches_tracked|ra_mean|ra_var|steps|position_ids)$")
"""Buffers, which no optimizer holds: BatchNorm's and BatchRenorm's statistics, BERT's positions."""
COPY = re.compile(
    r"(^|[._/])(target|ema|teacher|shadow|averaged?|swa|encoder_k|key_encoder|momentum_encoder)([._/]|$)"
    r"|_target([._/]|$)|(^|[._/])target_",
    re.I,
)
"""Target networks and averaged copies, which no optimizer holds."""


class Match(Struct, frozen=True):
    """The names of an optimizer's parameters, by position."""

    names: tuple[str | None, ...]
    unmatched: str = ""
    """Why names are missing."""
    mismatch: str = ""
    """How the optimizer contradicts the model."""


def trainable(tensors: Iterable[Tensor], *, integers: bool = False) -> list[Tensor]:
    """Return the tensors that an optimizer may hold, in order: no buffers, and tied tensors once.

    Tensors of integers are included with ``integers`` only.
    """
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
    """Match positions with the list of parameters that the optimizer is known to hold.

    ``None`` in ``slots`` is a position without state.
    """
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
    """Match positions with the tensors of a file's state dicts, where only one assignment is possible.

    ``groups`` holds the shapes of each parameter group, ``models`` the tensors of each state dict by its name;
    ``optimizer`` is the name under which the optimizer was found, which may select a state dict (``critic_optimizer``
    and ``critic``).
    """
    slots = [shape for group in groups for shape in group]
    nothing: tuple[str | None, ...] = (None,) * len(slots)
    candidates = {name: kept for name, tensors in models.items() if (kept := trainable(tensors))}
    originals = {name: kept for name, kept in candidates.items() if len(candidates) == 1 or not COPY.search(name)}
    candidates = originals or candidates
    if not slots or not candidates:
        return Match(nothing, "the file contains no parameters that it could hold" if slots else "")
    namesakes = [name for name in candidates if _words(name) and _words(name) == _words(optimizer)]
    fitting = list(_fitting(groups, candidates))
    if len(fitting) > 1 and len(namesakes) == 1:
        fitting = list(_fitting(groups, {namesakes[0]: candidates[namesakes[0]]})) or fitting
    if not fitting:
        # Models with integer parameters (switches, bit widths of quantization) pass them to the optimizer as well.
        whole = {name: trainable(models[name], integers=True) for name in candidates}
        fitting = [kept for kept in _fitting(groups, whole) if _has_no_integer_state(slots, kept)]
    if len(fitting) > 1:
        return Match(nothing, "several state dicts of the file fit it equally well")
    if fitting:
        return _match_unambiguous(groups, fitting[0])
    if len(namesakes) == 1 or (len(candidates) == 1 and not _names_differ(optimizer, next(iter(candidates)))):
        return _match_unambiguous(groups, candidates[namesakes[0] if namesakes else next(iter(candidates))])
    together = _match_unambiguous(groups, [tensor for tensors in candidates.values() for tensor in tensors])
    # The optimizer may belong to a model that is not in the file, so this is not a mismatch.
    return Match(together.names, together.unmatched or together.mismatch)


def match_in_any_order(
    groups: Sequence[Sequence[Shape | None]], orders: Sequence[Mapping[str, Sequence[Tensor]]], optimizer: str
) -> Match:
    """Match positions with tensors whose order in the model is not known: a name is given where all orders agree.

    ``orders`` holds the tensors of each state dict in every possible order, as for ``match_by_shape``, the order of the
    file alone where there are too many others. Only orders are asked that the shapes do not rule out.
    """
    possible = [order for order in orders if _may_follow(groups, order)]
    if len(orders) > 1 and 0 < len(possible) <= MOST_ORDERS_COMPARED:
        matches = [match_by_shape(groups, order, optimizer) for order in possible]
        names = tuple(
            each[0] if len(set(each)) == 1 else None for each in zip(*(match.names for match in matches), strict=True)
        )
        mismatch = matches[0].mismatch if all(match.mismatch for match in matches) else ""
        missing = f"{names.count(None):,} of its {len(names):,} parameters are known by position only"
        why = next((match.unmatched for match in matches if match.unmatched), "")
        unmatched = (
            (why or f"{missing}: the file does not tell the order of the model's modules") if None in names else ""
        )
        return Match(names, unmatched, mismatch)
    tensors = [tensor for model in orders[0].values() for tensor in trainable(model)]
    slots = [shape for group in groups for shape in group]
    if len(slots) > len(tensors) or not _is_contained(slots, tensors):
        return Match((None,) * len(slots), "its state has shapes that the model does not have")
    names = tuple(_name_by_number(groups, tensors))
    why = "the file does not tell the order of the model's modules, and several tensors have the same shape"
    return Match(names, why if None in names else "")


def _name_by_number(groups: Sequence[Sequence[Shape | None]], parameters: Sequence[Tensor]) -> Iterator[str | None]:
    """Yield the name of each position whose shape only one tensor has, or only tensors of numbered blocks."""
    of_shape: dict[Shape, list[Tensor]] = {}
    for tensor in parameters:
        of_shape.setdefault(tensor.shape, []).append(tensor)
    slots = Counter(shape for group in groups for shape in group)
    for group in groups:
        inside, used = Counter(group), Counter[Shape | None]()
        for shape in group:
            tensors = of_shape[shape] if shape is not None else []
            is_whole = len(tensors) == slots[shape] == inside[shape]
            if is_whole and len({NUMBER.sub("#", each.name) for each in tensors}) == 1:
                yield sorted(tensors, key=lambda each: [int(n) for n in NUMBER.findall(each.name)])[used[shape]].name
            else:
                yield None
            used[shape] += 1


def _may_follow(groups: Sequence[Sequence[Shape | None]], order: Mapping[str, Sequence[Tensor]]) -> bool:
    """Return whether the groups may hold the tensors of one state dict, or of all, in this order."""
    lists = [trainable(tensors) for tensors in order.values()]
    together = [tensor for tensors in lists for tensor in tensors]
    return any(all(_is_in_order(group, tensors) for group in groups) for tensors in (*lists, together))


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
            reason = "several state dicts contain" if found else "no state dict contains"
            unmatched = unmatched or f"{reason} {shown(name)!r}, the name stored for its parameter {index}"
        elif shape is not None and shape != found[0].shape:
            names.append(None)
            unmatched = unmatched or _contradiction(index, shape, found[0])
            if _proves_mismatch([shape], found):
                mismatch = mismatch or _contradiction(index, shape, found[0])
        else:
            names.append(found[0].name)
    return Match(tuple(names), unmatched or mismatch, mismatch)


def _fitting(groups: Sequence[Sequence[Shape | None]], models: Mapping[str, list[Tensor]]) -> Iterable[list[Tensor]]:
    """Yield every list of parameters that the optimizer may hold without leaving any out."""
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


def _has_no_integer_state(slots: Sequence[Shape | None], parameters: Sequence[Tensor]) -> bool:
    """Return whether there is state for floating-point tensors, and none for integers, which have no gradient."""
    pairs = [(slot is None, tensor.is_floating) for slot, tensor in zip(slots, parameters, strict=True)]
    return (False, True) in pairs and (False, False) not in pairs


def _match_unambiguous(groups: Sequence[Sequence[Shape | None]], parameters: Sequence[Tensor]) -> Match:
    """Name the positions that only one tensor can be at."""
    slots = [shape for group in groups for shape in group]
    mismatch = _find_mismatch(slots, parameters)
    if mismatch is not None:
        return mismatch
    if len(groups) == 1 and len(slots) == len(parameters) and not _first_contradiction(slots, parameters):
        return Match(tuple(tensor.name for tensor in parameters))
    is_ordered = all(_is_in_order(group, parameters) for group in groups)
    certain = certain_names(groups, parameters) if is_ordered else None
    names = tuple(certain) if certain is not None else _name_slots(groups, parameters, is_ordered)
    missing = names.count(None)
    if not missing:
        return Match(names)
    if None in slots:
        why = "parameters without state have no shape to match"
    elif not is_ordered:
        why = "its parameters are in another order than the model's"
    else:
        why = "several tensors have the same shape"
    left_out = len(parameters) - len(slots)
    omitted = f", and {left_out:,} of the model's {len(parameters):,} are not in it" if left_out else ""
    return Match(names, f"{missing:,} of its {len(slots):,} parameters are known by position only: {why}{omitted}")


def _find_mismatch(slots: Sequence[Shape | None], parameters: Sequence[Tensor]) -> Match | None:
    """Return a match where the optimizer does not hold these parameters, or others as well; ``None`` where it may.

    It is a mismatch only where resuming must fail.
    """
    nothing: tuple[str | None, ...] = (None,) * len(slots)
    first = _first_contradiction(slots, parameters)
    extra = len(slots) - len(parameters)
    if extra > 0:
        unmatched = f"it holds {len(slots):,} parameters, but the model has {len(parameters):,}"
        if not first and not _has_layers(slots[len(parameters) :]):
            # Parameters of the loss (class centers, uncertainties) come after the model's.
            names = tuple(tensor.name for tensor in parameters)
            return Match((*names, *nothing[len(parameters) :]), f"{unmatched}: the rest is not in this file")
        mismatch = unmatched + (f"; {first}" if first else "")
        return Match(nothing, mismatch, mismatch if not first or _proves_mismatch(slots, parameters) else "")
    if _is_contained(slots, parameters):
        return None
    if len(slots) == len(parameters) and first and _proves_mismatch(slots, parameters):
        return Match(nothing, first, first)
    return Match(nothing, f"its state has shapes that the model does not have{f': {first}' if first else ''}")


def _has_layers(slots: Sequence[Shape | None]) -> bool:
    """Return whether there are matrices with a bias behind them: layers of another model, not parameters of a loss."""
    return any(a is not None and b is not None and len(a) > 1 and b == a[:1] for a, b in pairwise(slots))


def _proves_mismatch(slots: Sequence[Shape | None], parameters: Sequence[Tensor]) -> bool:
    """Return whether a state cannot belong to the parameter at its position, whatever the optimizer.

    Optimizers with low-rank, sparse or flat state (GaLore, APOLLO, SPAM) keep less than the parameter's shape, or
    another number of axes, and keep vectors as they are. Others (Amos) keep one number for each row or column.
    """
    if _are_reduced(slots, parameters):
        return False
    return any(
        len(shape) == len(tensor.shape)
        and (len(shape) == 1 or any(a > b for a, b in zip(shape, tensor.shape, strict=True)))
        for shape, tensor in zip(slots, parameters, strict=False)
        if shape is not None and shape != tensor.shape
    )


def _are_reduced(slots: Sequence[Shape | None], parameters: Sequence[Tensor]) -> bool:
    """Return whether every state has the axes of its parameter, some of them reduced to 1 in all matrices."""
    pairs = [(shape, tensor.shape) for shape, tensor in zip(slots, parameters, strict=False) if shape is not None]
    are_reduced = (shape != whole for shape, whole in pairs if len(whole) > 1 and max(whole) > 1)
    return all(are_reduced) and all(
        len(shape) == len(whole) and all(a in (1, b) for a, b in zip(shape, whole, strict=True))
        for shape, whole in pairs
    )


def _name_slots(
    groups: Sequence[Sequence[Shape | None]], parameters: Sequence[Tensor], is_ordered: bool
) -> tuple[str | None, ...]:
    """Return the name of each position, ``None`` where several tensors could be there."""
    of_shape: dict[Shape, list[Tensor]] = {}
    for tensor in parameters:
        of_shape.setdefault(tensor.shape, []).append(tensor)
    groups_with: dict[Shape, set[int]] = {}
    for number, group in enumerate(groups):
        for shape in group:
            if shape is not None:
                groups_with.setdefault(shape, set()).add(number)
    slots = [shape for group in groups for shape in group]
    counts = Counter(shape for shape in slots if shape is not None)
    used: Counter[Shape] = Counter()
    names: list[str | None] = []
    for shape in slots:
        name = None
        if shape is not None and counts[shape] == len(of_shape[shape]):
            # All tensors of this shape are held, so the order within one group determines which is which.
            if counts[shape] == 1 or (is_ordered and len(groups_with[shape]) == 1):
                name = of_shape[shape][used[shape]].name
            used[shape] += 1
        names.append(name)
    return tuple(names)


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
    """Remove the prefixes that DataParallel and torch.compile add to names."""
    return name.replace("_orig_mod.", "").removeprefix("module.")


def _words(name: str) -> frozenset[str]:
    """Return the distinctive words in the name of a network or optimizer: ``optimizerG_state_dict`` → ``g``."""
    words = re.split(r"[^a-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())
    plain = {"optimizer", "optimizers", "optim", "optims", "opt", "state", "states", "dict", "dicts", "model", "models"}
    return frozenset(words) - plain - {"", "net", "nets", "network", "networks", "module", "weights", "params"}


def _names_differ(optimizer: str, model: str) -> bool:
    """Return whether both names have distinctive words and these differ: ``optimizer_d`` and ``generator``."""
    words = {word for word in _words(optimizer) if not word.isdigit()}
    return bool(words) and bool(_words(model)) and words != _words(model)
