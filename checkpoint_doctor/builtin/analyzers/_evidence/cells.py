"""The gates of a recurrent layer, whichever way round its weights are stored."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Layer, Tensor
from checkpoint_doctor.layers import GATES, RECURRENT, gate_slices
from checkpoint_doctor.statistics.values import as_real


def find_gates(layer: Layer) -> Mapping[str, slice]:
    """Return each gate's lines in the layer's weights and biases; empty where the layer has no gates."""
    part = next((part for role, part in layer.tensors.items() if role in ("weight_hh", "bias_ih")), None)
    if part is None:
        return {}
    lines = part.shape[-1 if layer.transposed else 0]
    return gate_slices(layer.kind, lines, {layer.kind: part.gates} if part.gates else GATES)


def gate_biases(layer: Layer) -> list[Tensor]:
    """Return the one or two biases of a recurrent layer, the input-to-hidden bias first."""
    return [layer.tensors[role] for role in ("bias_ih", "bias_hh") if role in layer.tensors]


class Cell(Struct, frozen=True):
    """The weights and biases of a recurrent layer, with its gates."""

    weights: tuple[Tensor, ...]
    """From the inputs, and from the hidden state."""
    biases: tuple[Tensor, ...]
    """PyTorch has two, which are added; those of a GRU of Keras are the two rows of one tensor."""
    gates: Mapping[str, slice]
    """Each gate's lines in weights and biases."""
    by_columns: bool = False
    """True where the lines of the weights are their columns: Keras."""

    @property
    def effective_bias(self) -> NDArray | None:
        """The sum of the biases; ``None`` where there are none, or their values are of no use."""
        biases = self.biases
        if not biases or any(bias.shape != biases[0].shape or not bias.is_floating for bias in biases):
            return None
        if any(bias.statistics.nonfinite for bias in biases):
            return None
        total: NDArray = np.sum([as_real(bias.array) for bias in biases], axis=0)
        return total.sum(axis=0) if total.ndim > 1 else total

    def has_zero_weights(self, gate: str) -> bool:
        """Tell whether all weights of a gate are exactly zero."""
        wanted = set(range(self.gates[gate].start, self.gates[gate].stop))
        return all(
            wanted <= set((each.statistics.zero_columns if self.by_columns else each.statistics.zero_rows).tolist())
            for each in self.weights
        )


def find_blocks(layer: Layer) -> tuple[Tensor, dict[str, slice]] | None:
    """Return the weight that reads the hidden state, and its block of lines for each gate.

    An RNN without gates has one block.
    """
    weight = layer.tensors.get("weight_hh")
    if weight is None or layer.kind not in RECURRENT:
        return None
    whole = {"hidden": slice(0, weight.shape[1 if layer.transposed else 0])}
    return weight, dict(find_gates(layer)) or whole


def count_hidden(layer: Layer) -> int:
    """Return the size of the state that a recurrent layer's weight reads; 0 where there is none."""
    weight = layer.tensors.get("weight_hh")
    return 0 if weight is None or len(weight.shape) != 2 else weight.shape[0 if layer.transposed else 1]


def find_cell(layer: Layer) -> Cell | None:
    """Return the cell of a layer; ``None`` where it has no gates."""
    weights = tuple(layer.tensors[role] for role in ("weight_ih", "weight_hh") if role in layer.tensors)
    gates = find_gates(layer)
    return Cell(weights, tuple(gate_biases(layer)), gates, layer.transposed) if gates else None
