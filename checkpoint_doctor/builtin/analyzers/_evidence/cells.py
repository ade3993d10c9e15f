"""The gates of a recurrent layer, whichever way round its weights are stored."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.layers import GATES, KERAS_GATES, Kind, count_blocks, gate_slices
from checkpoint_doctor.statistics.values import as_real

_INPUT, _RECURRENT = ".input", ".recurrent"
"""Endings of the layers that the two kernels of a cell of Keras are judged as, each for itself."""


def gate_rows(layer: Layer) -> Mapping[str, slice]:
    """Return each gate's rows in the layer's weights and biases; empty where the layer has no gates."""
    part = next((part for role, part in layer.tensors.items() if role in ("weight_hh", "bias_ih")), None)
    if part is None:
        return {}
    return gate_slices(layer.kind, part.shape[0], {layer.kind: part.gates} if part.gates else GATES)


def gate_biases(layer: Layer) -> list[Tensor]:
    """Return the one or two biases of a recurrent layer, the input-to-hidden bias first."""
    return [layer.tensors[role] for role in ("bias_ih", "bias_hh") if role in layer.tensors]


class Cell(Struct, frozen=True):
    """The weights and biases of a recurrent layer, with its gates."""

    kind: Kind
    layer: Layer
    """The layer with its biases."""
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

    @property
    def recurrent_weight(self) -> Tensor | None:
        """The weight that reads the hidden state."""
        return self.weights[1] if len(self.weights) > 1 else None


def find_blocks(layer: Layer, checkpoint: Checkpoint) -> tuple[Tensor, dict[str, slice], bool] | None:
    """Return the weight that reads the hidden state, its block for each gate, and whether blocks are columns.

    An RNN without gates has one block.
    """
    cell = find_cell(layer, checkpoint)
    if cell is not None and cell.recurrent_weight is not None:
        return cell.recurrent_weight, dict(cell.gates), cell.by_columns
    weight = layer.tensors.get("weight_hh")
    if weight is None or layer.kind is not Kind.RNN:
        return None
    return weight, {"hidden": slice(0, weight.shape[0])}, False


def find_cell(layer: Layer, checkpoint: Checkpoint) -> Cell | None:
    """Return the cell of a layer; of a cell of Keras, the layer of its input kernel stands for the whole."""
    weights = [layer.tensors[role] for role in ("weight_ih", "weight_hh") if role in layer.tensors]
    if gates := gate_rows(layer):
        return Cell(layer.kind, layer, tuple(weights), tuple(gate_biases(layer)), gates)
    if not layer.name.endswith(_INPUT) or not layer.transposed:
        return None
    other = checkpoint.layer_by_name.get(layer.name.removesuffix(_INPUT) + _RECURRENT)
    if layer.weight is None or other is None or other.weight is None:
        return None
    return _find_keras_cell(layer, layer.weight, other.weight)


def _find_keras_cell(layer: Layer, from_input: Tensor, from_hidden: Tensor) -> Cell | None:
    if not from_hidden.name.removesuffix(":0").endswith("recurrent_kernel"):
        return None
    if len(from_input.shape) != 2 or len(from_hidden.shape) != 2 or 0 in from_hidden.shape:
        return None
    hidden, columns = from_hidden.shape
    kind = next((each for each in KERAS_GATES if count_blocks(each) * hidden == columns), None)
    if kind is None or from_input.shape[1] != columns:
        return None
    biases = (layer.bias,) if layer.bias is not None and layer.bias.shape in ((columns,), (2, columns)) else ()
    gates = gate_slices(kind, columns, KERAS_GATES)
    return Cell(kind, layer, (from_input, from_hidden), biases, gates, by_columns=True)
