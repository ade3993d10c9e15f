"""Layers of the last of several repeated blocks, whose output only a next block would read.

The last block of WaveNet, and of the diffusion models that are built like it, computes a residual for a block that does
not exist; only its skip connection is used (van den Oord et al., 1609.03499; Kong et al., 2009.09761).
"""

from __future__ import annotations

import re

from checkpoint_doctor.builtin.analyzers._zeros.initial_draws import is_drawn
from checkpoint_doctor.builtin.analyzers._zeros.severity import is_zero
from checkpoint_doctor.checkpoint import Checkpoint, Layer, found_once

FEWEST_BLOCKS = 3
"""Blocks from which the last one is told from the others."""

_NUMBER = re.compile(r"(?<![^.])\d+(?=\.)")
"""A part of a name that numbers blocks."""


def may_lack_reader(layer: Layer, checkpoint: Checkpoint) -> bool:
    """True where the output of a layer with a zero bias may be for a next block, and nothing shows that it was trained.

    It stands in the last block beside a layer of the same shape that was trained, its weight still may be an initial
    draw, and the same layer has a live bias in all blocks before it.
    """
    numbers = _NUMBER.findall(layer.name)
    if len(numbers) != 1 or is_drawn(layer) is not True:
        return False
    blocks = _repetitions(checkpoint)[_place(layer)]
    before = [each for each in blocks if int(_NUMBER.findall(each.name)[0]) < int(numbers[0])]
    if len(before) < len(blocks) - 1 or len(blocks) < FEWEST_BLOCKS or not all(map(_has_live_bias, before)):
        return False
    module = layer.name.rpartition(".")[0]
    beside = layers_by_module(checkpoint)[module]
    return any(each is not layer and _shape(each) == _shape(layer) and _has_live_bias(each) for each in beside)


@found_once
def _repetitions(checkpoint: Checkpoint) -> dict[object, list[Layer]]:
    found: dict[object, list[Layer]] = {}
    for layer in checkpoint.layers:
        found.setdefault(_place(layer), []).append(layer)
    return found


@found_once
def layers_by_module(checkpoint: Checkpoint) -> dict[str, list[Layer]]:
    """Return the layers by the name of the module that they are in."""
    found: dict[str, list[Layer]] = {}
    for layer in checkpoint.layers:
        found.setdefault(layer.name.rpartition(".")[0], []).append(layer)
    return found


def _place(layer: Layer) -> object:
    return _NUMBER.sub("#", layer.name), layer.kind, _shape(layer)


def _shape(layer: Layer) -> tuple[int, ...] | None:
    return None if layer.weight is None else layer.weight.shape


def _has_live_bias(layer: Layer) -> bool:
    return layer.bias is not None and not is_zero(layer.bias)
