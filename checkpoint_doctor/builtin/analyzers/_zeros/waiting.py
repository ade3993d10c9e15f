"""Zeros of unknown cause: whether the file's values show that something is wrong, or they may be initial values.

Many layers start at zero on purpose and stay so until they are used: heads of later tasks, adapters, experts, residual
branches, gates. Without an optimizer in the file, the values around the zeros are all that can tell. No gradient passes
through a zero weight, so layers before it that were trained show that it was not zero then.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from msgspec import Struct

from checkpoint_doctor.builtin.analyzers._evidence.readers import count_inputs, count_units
from checkpoint_doctor.builtin.analyzers._zeros.causes import Cause, ZeroEvidence
from checkpoint_doctor.builtin.analyzers._zeros.conditions import may_modulate
from checkpoint_doctor.builtin.analyzers._zeros.initial_draws import is_drawn_by_default, is_orthogonal, shows_training
from checkpoint_doctor.builtin.analyzers._zeros.last_blocks import layers_by_module, may_lack_reader
from checkpoint_doctor.builtin.analyzers._zeros.severity import is_zero
from checkpoint_doctor.checkpoint import Checkpoint, Layer, found_once
from checkpoint_doctor.layers import DENSE, FEEDFORWARD, NORMS, RECURRENT, Kind
from checkpoint_doctor.layers.attention import is_query_or_key

MOST_NEIGHBOURS = 256
"""Layers around another one that are looked at; what the nearest do not show, farther ones do not show either."""

WAITING = "nothing in the file shows that it was ever in use"
"""Why the zeros of a waiting layer are no illness, as a clause that can follow another one."""

UNTRAINED = "nothing in the file shows that this part was trained"
"""The same for the zero bias of a layer that is fixed, or not in use yet."""

_ATTENTION_PART = re.compile(r"(?i)(^|[._])(q|k|v|o|query|key|value|out|output|qkv|to_\w+|c)(_?(proj|lin|linear))?\d*$")
"""Last parts of names of an attention's layers, which have equal shapes and work one after the other."""


def may_wait(layer: Layer, checkpoint: Checkpoint) -> bool:
    """Tell whether a layer whose weight is zero may have these zeros from its initialisation, for want of use.

    Not so inside a chain, nor where it may be the only head of the file: a model with a constant output is not in use.
    Layers that scale and shift others begin at zero, and stay there while their condition is not in use.
    Nor where a layer before it, or another one of its module, was trained: its gradients came through this weight.
    """
    if _is_second_factor(layer, checkpoint) or may_modulate(layer, checkpoint):
        return True
    if layer.followers or _may_be_only_head(layer, checkpoint):
        return False
    return not any(shows_training(each) for each in _trained_through(layer, checkpoint))


def excuse_zero_bias(layer: Layer, why: ZeroEvidence, checkpoint: Checkpoint) -> str:
    """Return why a bias that was not overwritten may be zero, as a clause; empty where nothing speaks for it."""
    if _is_without_biases(checkpoint):
        return "its norms have none and all other biases are zero: the model was trained without biases"
    if _is_only_one_of_single_output(layer, checkpoint):
        return "losses that compare outputs with one another do not see the bias of a single output"
    if why.cause is not Cause.UNKNOWN:
        return ""
    if checkpoint.format == "onnx":
        return "exporters to ONNX write zeros where a layer has no bias"
    if _may_be_rounded_away(layer) and not _has_default_draws(checkpoint):
        return "a norm may follow that subtracts it, and float16 rounds what is below 3e-8 to 0"
    if is_query_or_key(layer.name) and is_orthogonal(layer):
        return "its weight still is the initial one, as where attention never had more than one element to choose from"
    if may_lack_reader(layer, checkpoint):
        return "it may be an initial value in a part of the last block that nothing reads"
    return UNTRAINED if may_be_fixed(layer, checkpoint) else ""


def _is_only_one_of_single_output(layer: Layer, checkpoint: Checkpoint) -> bool:
    """True for the bias of a head with one output where the biases of all layers before it are live."""
    if not layer.is_output or layer.bias is None or layer.bias.size != 1:
        return False
    before = [each for each in _trained_through(layer, checkpoint) if each.kind in DENSE and each.bias is not None]
    return bool(before) and all(map(_has_live_bias, before))


def _may_be_rounded_away(layer: Layer) -> bool:
    """True for a convolution's bias in float16: in front of an instance norm, it hardly leaves zero."""
    return layer.kind is Kind.CONV and layer.bias is not None and layer.bias.dtype == "float16"


@found_once
def _has_default_draws(checkpoint: Checkpoint) -> bool:
    return any(map(is_drawn_by_default, checkpoint.layers))


@found_once
def _is_without_biases(checkpoint: Checkpoint) -> bool:
    """True where trained norms have no bias and all others are zero, as where a conversion added what a model lacks."""
    norms = [each for each in checkpoint.layers if each.kind in NORMS]
    if not any(map(shows_training, norms)) or any(each.bias is not None for each in norms):
        return False
    return not any(map(_has_live_bias, (each for each in checkpoint.layers if each.kind not in NORMS)))


def may_be_fixed(layer: Layer, checkpoint: Checkpoint) -> bool:
    """Tell whether a zero bias may be an initial value in a part that is not trained: fixed, or not in use yet.

    The layers that train together with this one decide: whether their biases are zero too, and gains of norms equal.
    Where none are known, it is a warning for what may be the only head, and for a recurrent layer whose weights are no
    initial draws. It is one in any case where no other bias of the file is live, or where other untrained layers have
    biases that were drawn as PyTorch draws them. A linear layer that is alone in its file tells nothing.
    """
    online = checkpoint.online_tensors.get(layer.weight.name if layer.weight is not None else "")
    if online is not None:
        return may_be_fixed(checkpoint.layer_of[online], checkpoint)  # a target network is a copy
    dense = _live_dense_layers(checkpoint)
    if not any(each is not layer for each in dense.all) and layer.kind in FEEDFORWARD:
        return True
    has_live_bias = any(each is not layer for each in dense.with_live_bias)
    if not has_live_bias or any(each is not layer for each in dense.drawn_by_default):
        return False
    together = [live for each in _trained_with(layer, checkpoint) if (live := _has_live_bias(each)) is not None]
    if together:
        return not any(together)
    if layer.kind in RECURRENT:
        return shows_training(layer) is False
    return not _may_be_only_head(layer, checkpoint)


def _may_be_only_head(layer: Layer, checkpoint: Checkpoint) -> bool:
    """True for a layer without a known reader in a file without another head, or another layer of its kind."""
    if layer.followers:
        return False
    places = _siblings_of(layer)
    near = itertools.chain.from_iterable(_live_layers(checkpoint).get(place, ()) for place in places)
    return not any(
        each is not layer and (each.is_output or _are_siblings(layer, each) or _are_listed_heads(layer, each))
        for each in itertools.islice(near, MOST_NEIGHBOURS)
    )


def _siblings_of(layer: Layer) -> tuple[object, ...]:
    """Return where layers stand that may be siblings of this one, or heads: in one module, or numbered like it."""
    rows = layer.weight.shape[:1] if layer.weight is not None else ()
    shape = layer.weight.shape if layer.weight is not None else ()
    parent = _parent(layer)
    return "output", (parent, shape) if parent else (re.sub(r"\d+", "", layer.name), shape), (parent, layer.kind, rows)


@found_once
def _live_layers(checkpoint: Checkpoint) -> dict[object, list[Layer]]:
    """Return the layers with a weight that is not zero, by the places of ``_siblings_of``."""
    found: dict[object, list[Layer]] = {}
    for layer in filter(_is_live, checkpoint.layers):
        _, *places = _siblings_of(layer)
        for place in ["output", *places] if layer.is_output else places:
            found.setdefault(place, []).append(layer)
    return found


class _LiveLayers(Struct, frozen=True):
    """The dense layers whose weight is not zero."""

    all: list[Layer]
    with_live_bias: list[Layer]
    drawn_by_default: list[Layer]


@found_once
def _live_dense_layers(checkpoint: Checkpoint) -> _LiveLayers:
    live = [layer for layer in checkpoint.layers if layer.kind in DENSE and _is_live(layer)]
    return _LiveLayers(live, list(filter(_has_live_bias, live)), list(filter(is_drawn_by_default, live)))


def _trained_with(layer: Layer, checkpoint: Checkpoint) -> Iterator[Layer]:
    """Yield the layers that no gradient reaches without reaching this one too, or this one without them."""
    yield from _trained_through(layer, checkpoint)
    behind = {layer: None}
    pending = [layer]
    for each in pending:
        new = [near for name in each.followers if (near := checkpoint.layer_by_name[name]) not in behind]
        behind |= dict.fromkeys(new)
        pending += new
        if len(pending) > MOST_NEIGHBOURS:
            break
    yield from pending[1:]


def _has_live_bias(layer: Layer) -> bool | None:
    """Tell whether a layer has a bias that is not zero, or a norm gains that differ; ``None`` without either."""
    if layer.kind in NORMS and shows_training(layer):
        return True
    biases = [each for role, each in layer.tensors.items() if role.startswith("bias") and each.size]
    return any(not is_zero(each) for each in biases) if biases else None


def _trained_through(layer: Layer, checkpoint: Checkpoint) -> Iterator[Layer]:
    """Yield the layers whose gradients come through this one alone, as far as names and shapes show it.

    Of very many, only the nearest.
    """
    yield from itertools.islice(_all_trained_through(layer, checkpoint), MOST_NEIGHBOURS)


def _all_trained_through(layer: Layer, checkpoint: Checkpoint) -> Iterator[Layer]:
    before = checkpoint.layer_by_name.get(layer.previous or "")
    reader = layer
    while before is not None and before.followers == (reader.name,):
        yield before
        reader, before = before, checkpoint.layer_by_name.get(before.previous or "")
    if layer.name.rpartition(".")[2].isdigit():
        return
    for other in layers_by_module(checkpoint).get(_parent(layer), ()) if _parent(layer) else ():
        if other is not layer and not _are_siblings(layer, other):
            yield other


def _are_siblings(layer: Layer, other: Layer) -> bool:
    """True for parallel layers of one module: of equal shapes, and no parts of an attention.

    At the top of a model, ``value_1`` and ``value_2`` are parallel if sizes do not let one read the other.
    """
    if layer.weight is None or other.weight is None or layer.weight.shape != other.weight.shape:
        return False
    if not _parent(layer) and len(layer.weight.shape) == 2:
        are_numbered = re.sub(r"\d+", "", layer.name) == re.sub(r"\d+", "", other.name)
        return are_numbered and layer.weight.shape[0] != layer.weight.shape[1]
    are_parts = _ATTENTION_PART.search(layer.name) and _ATTENTION_PART.search(other.name)
    return _parent(layer) == _parent(other) != "" and not are_parts


def _are_listed_heads(layer: Layer, other: Layer) -> bool:
    """True for unlinked members of one module list with as many outputs: a head for each scale."""
    if layer.weight is None or other.weight is None or layer.kind is not other.kind or layer.previous or other.previous:
        return False
    are_listed = all(each.name.rpartition(".")[2].isdigit() for each in (layer, other)) and not other.followers
    return are_listed and _parent(layer) == _parent(other) != "" and layer.weight.shape[0] == other.weight.shape[0]


def _is_second_factor(layer: Layer, checkpoint: Checkpoint) -> bool:
    """True for the ``…_B`` of an adapter whose first factor, ``…_A``, has as many rows as it has columns."""
    first = checkpoint.layer_by_name.get(f"{layer.name[:-2]}_A") if layer.name.endswith("_B") else None
    if first is None or shows_training(first):
        return False
    return count_units(first) == count_inputs(layer) > 0


def _parent(layer: Layer) -> str:
    return layer.name.rpartition(".")[0]


def _is_live(layer: Layer) -> bool:
    """True for a layer with a weight matrix that is not zero."""
    weights = [each for role, each in layer.tensors.items() if role.startswith("weight") and len(each.shape) > 1]
    return any(not is_zero(each) for each in weights)
