"""The gates of a recurrent layer, however its weights are stored."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.layers import FLAX_GATES, GATES, RECURRENT, Kind, gate_slices
from checkpoint_doctor.statistics.values import as_real


class Gate(Struct, frozen=True):
    """A gate of a recurrent layer: lines of the layer's weights and biases, or weights and biases of its own (Flax)."""

    weights: tuple[Tensor, ...]
    """From the inputs, and from the hidden state."""
    biases: tuple[Tensor, ...]
    """PyTorch has two, which are added; those of a GRU of Keras are the two rows of one tensor."""
    lines: slice
    """The gate's lines in them."""
    by_columns: bool = False
    """True where the lines of the weights are their columns: Keras, Flax."""
    is_apart: bool = False
    """True where the weights and biases are the gate's own."""

    @property
    def size(self) -> int:
        """Number of units."""
        return int(self.lines.stop - self.lines.start)

    @property
    def effective_bias(self) -> NDArray | None:
        """The sum of the biases; ``None`` where there are none, or their values are of no use."""
        biases = self.biases
        if not biases or any(bias.shape != biases[0].shape or not bias.is_floating for bias in biases):
            return None
        if any(bias.statistics.nonfinite for bias in biases):
            return None
        total: NDArray = np.sum([as_real(bias.array)[..., self.lines] for bias in biases], axis=0)
        return total.sum(axis=0) if total.ndim > 1 else total

    @property
    def has_zero_weights(self) -> bool:
        """True where all weights are exactly zero."""
        wanted = set(range(self.lines.start, self.lines.stop))
        return all(
            wanted <= set((each.statistics.zero_columns if self.by_columns else each.statistics.zero_rows).tolist())
            for each in self.weights
        )

    @property
    def has_recurrence(self) -> bool:
        """True where the last of the weights reads the hidden state."""
        return len(self.weights) > 1


def find_lines(layer: Layer) -> Mapping[str, slice]:
    """Return each gate's lines in the layer's weights and biases; empty where the layer has no gates."""
    part = next((part for role, part in layer.tensors.items() if role in ("weight_hh", "bias_ih")), None)
    if part is None:
        return {}
    lines = part.shape[-1 if layer.transposed else 0]
    return gate_slices(layer.kind, lines, {layer.kind: part.gates} if part.gates else GATES)


def gate_biases(layer: Layer) -> list[Tensor]:
    """Return the one or two biases of a recurrent layer, the input-to-hidden bias first."""
    return [layer.tensors[role] for role in ("bias_ih", "bias_hh") if role in layer.tensors]


def count_hidden(layer: Layer) -> int:
    """Return the size of the state that a recurrent layer's weight reads; 0 where there is none."""
    weight = layer.tensors.get("weight_hh")
    return 0 if weight is None or len(weight.shape) != 2 else weight.shape[0 if layer.transposed else 1]


def find_gates(layer: Layer, checkpoint: Checkpoint) -> Mapping[str, Gate]:
    """Return the gates of a recurrent layer; empty where it has none.

    An RNN has one block of weights, which is called ``hidden``. Where each gate is made of layers of its own, the first
    of those that read the hidden state stands for the whole.
    """
    if layer.kind not in RECURRENT:
        return _find_flax_gates(layer, checkpoint)
    weights = tuple(layer.tensors[role] for role in ("weight_ih", "weight_hh") if role in layer.tensors)
    biases, blocks = tuple(gate_biases(layer)), find_lines(layer)
    if not blocks and layer.kind is Kind.RNN and "weight_hh" in layer.tensors:
        blocks = {"hidden": slice(0, layer.tensors["weight_hh"].shape[1 if layer.transposed else 0])}
    return {name: Gate(weights, biases, lines, layer.transposed) for name, lines in blocks.items()}


def _find_flax_gates(layer: Layer, checkpoint: Checkpoint) -> Mapping[str, Gate]:
    cell, label = layer.name[:-2], layer.name[-2:]
    letters = next((each for each in FLAX_GATES.values() if label == f"h{next(iter(each))}"), {})
    if not layer.transposed or cell[-1:] not in (".", "/", ""):
        return {}
    gates = {}
    for letter, gate in letters.items():
        pair = [checkpoint.layer_by_name.get(f"{cell}{source}{letter}") for source in "ih"]
        weights = tuple(each.weight for each in pair if each is not None and each.weight is not None)
        if len(weights) != 2 or any(each.shape[1:] != weights[1].shape[:1] for each in weights):
            return {}
        biases = tuple(each.bias for each in pair if each is not None and each.bias is not None)
        gates[gate] = Gate(weights, biases, slice(0, weights[1].shape[1]), by_columns=True, is_apart=True)
    return gates
