"""Tables whose rows are looked up by an index, though they look like the weight of a linear layer."""

from __future__ import annotations

import re

from checkpoint_doctor.checkpoint import Checkpoint, Layer, found_once
from checkpoint_doctor.layers import LEARNED_MATRICES, Kind

_TABLE = re.compile(
    r"(?i)emb|lookup|vocab|(^|[._])(q_?(table|values)?|rel(ative)?_?pos\w*|users?|items?|entit\w+|tokens?|words?"
    r"|\w*_?(tables?|factors?|vectors?|codebooks?))([._]|$)"
)
"""Names of tables whose rows are looked up by an index."""

_TALL = 8
"""Rows for each column beyond which a matrix without bias is rather a table than a layer's weight: layers of published
networks widen their input at most four- to eightfold."""


def may_be_table(layer: Layer) -> bool:
    """True for a linear layer with neither a bias nor a known neighbour: its rows may be looked up one by one."""
    has_neighbours = layer.previous is not None or bool(layer.followers)
    return layer.kind is Kind.EMBEDDING or (layer.kind is Kind.LINEAR and layer.bias is None and not has_neighbours)


def is_table(layer: Layer, checkpoint: Checkpoint) -> bool:
    """True for a table by its name, by its shape, or since the file holds nothing else."""
    if layer.kind is Kind.EMBEDDING:
        return True
    weight = layer.weight
    if weight is None or not may_be_table(layer):
        return False
    is_tall = not layer.is_output and weight.shape[0] > _TALL * weight.shape[1]
    return is_tall or len(checkpoint.layers) == 1 or _TABLE.search(layer.name) is not None


@found_once
def holds_network(checkpoint: Checkpoint) -> bool:
    """True where a file has a layer of a network, or an optimizer; without either, its tensors may be data."""
    return bool(checkpoint.optimizers) or any(layer.kind in LEARNED_MATRICES for layer in checkpoint.layers)
