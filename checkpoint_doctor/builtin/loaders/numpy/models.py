"""Tells an archive of a model's parameters from one of data, by the names and shapes of its arrays.

NumPy's archives are used for both, and nothing in them says which. The parameters of a model come as layers: a matrix
or kernel whose name is that of a weight inside a module, or that stands beside the bias that belongs to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise

Shape = tuple[int, ...]

_IN_MODULE = re.compile(r".+[./](weight|kernel|embeddings?|w|W|weight_[ih]h_l\d+|in_proj_weight)(:0)?")
"""The weight of a module: ``encoder.0.weight``, ``params/Dense_0/kernel``, ``dense/kernel:0``, ``linear/~/w``."""
_WEIGHT = re.compile(r"(?P<before>(?:.*[^a-zA-Z])?)(?:weights?|kernel|W|w)(?P<after>[_-]?\d*)(:0)?")
_BIAS = re.compile(r"(?P<before>(?:.*[^a-zA-Z])?)(?:bias(?:es)?|B|b)(?P<after>[_-]?\d*)(:0)?")
"""A layer in a flat dictionary: ``W1`` and ``b1``, ``conv1_W`` and ``conv1_b``."""
_NUMBERED = re.compile(r"arr_(\d+)")
"""The names that ``numpy.savez`` gives to arrays without a name."""


def may_name_model(names: Iterable[str]) -> bool:
    """Tell whether arrays of these names can be a model, so that their shapes are worth looking at."""
    names = list(names)
    return any(_IN_MODULE.fullmatch(name) or _WEIGHT.fullmatch(name) for name in names) or (
        len(names) >= 4 and all(_NUMBERED.fullmatch(name) for name in names)
    )


def name_parameters(shapes: Mapping[str, Shape]) -> Mapping[str, str] | None:
    """Return what the arrays of a model are called inside its layers, where their own names do not say it.

    Args:
        shapes: the names and shapes of the arrays of floating-point numbers.

    Returns:
        The arrays' names to names such as ``1.kernel``, empty where their own names say it; ``None`` where the arrays
        are not the parameters of a model.
    """
    if any(len(shape) > 1 and _IN_MODULE.fullmatch(name) for name, shape in shapes.items()):
        return {}
    return _find_pairs(shapes) or _find_list_of_layers(shapes)


def _find_pairs(shapes: Mapping[str, Shape]) -> Mapping[str, str] | None:
    """Find the matrices that stand beside the bias of their outputs, by their names."""
    biases = {
        (found["before"], found["after"]): name
        for name, shape in shapes.items()
        if len(shape) == 1 and (found := _BIAS.fullmatch(name))
    }
    pairs = {}
    for name, shape in shapes.items():
        found = _WEIGHT.fullmatch(name) if len(shape) > 1 else None
        bias = biases.get((found["before"], found["after"])) if found else None
        if found is not None and bias is not None and shapes[bias][0] in (shape[0], shape[-1]):
            pairs[name, bias] = (found["before"] + found["after"]).strip("_-./") or "layer"
    if not pairs:
        return None
    # A square matrix shows no order; NumPy's own code multiplies from the left, inputs first.
    is_outputs_first = any(shapes[weight][0] == shapes[bias][0] != shapes[weight][-1] for weight, bias in pairs)
    return _name_layers(pairs, is_outputs_first)


def _find_list_of_layers(shapes: Mapping[str, Shape]) -> Mapping[str, str] | None:
    """Find weights and biases without names that come in turn, each layer reading the one before it.

    Data without names come in pairs too, inputs and labels, but nothing of the first pair has a size of the second.
    """
    if len(shapes) < 4 or not all(_NUMBERED.fullmatch(name) for name in shapes):
        return None
    ordered = sorted(shapes, key=lambda name: int(name.removeprefix("arr_")))
    pairs = list(zip(ordered[::2], ordered[1::2], strict=False))
    for axis in (-1, 0):
        layers = [(shapes[weight], shapes[bias]) for weight, bias in pairs]
        if all(_is_layer(weight, bias, axis) for weight, bias in layers) and all(
            _reads(first[0], second[0], axis) for first, second in pairwise(layers)
        ):
            return _name_layers({pair: str(place) for place, pair in enumerate(pairs)}, is_outputs_first=axis == 0)
    return None


def _name_layers(pairs: Mapping[tuple[str, str], str], is_outputs_first: bool) -> Mapping[str, str]:
    leaf = "weight" if is_outputs_first else "kernel"
    names: dict[str, str] = {}
    for (weight, bias), module in pairs.items():
        names |= {weight: f"{module}.{leaf}", bias: f"{module}.bias"}
    return names


def _is_layer(weight: Shape, bias: Shape, outputs: int) -> bool:
    return len(weight) > 1 and bias == (weight[outputs],)


def _reads(first: Shape, second: Shape, outputs: int) -> bool:
    """Tell whether a layer reads the outputs of another one, at each position where a convolution was flattened."""
    inputs = second[1] if outputs == 0 else second[-2]
    return inputs > 0 and first[outputs] > 0 and inputs % first[outputs] == 0
