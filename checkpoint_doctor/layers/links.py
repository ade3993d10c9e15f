"""Links between layers, and whether their sizes allow one."""

from __future__ import annotations

from checkpoint_doctor.layers.kinds import NORMS, RECURRENT, Kind
from checkpoint_doctor.layers.outlines import Draft

PAIRS = (
    ("up_proj", "down_proj"),
    ("gate_proj", "down_proj"),
    ("gate_up_proj", "down_proj"),
    ("c_fc", "c_proj"),
    ("w1", "w2"),
    ("w3", "w2"),
    ("wi", "wo"),
    ("wi_0", "wo"),
    ("wi_1", "wo"),
    ("dense_h_to_4h", "dense_4h_to_h"),
    ("fc_in", "fc_out"),
)
"""Sibling layers of feed-forward blocks in transformers (transformers: llama, mixtral, gpt2, t5, gpt_neox, gptj)."""


def link(first: Draft, second: Draft) -> bool:
    """Link the second draft as a reader of the first one's output if sizes allow and it reads no other layer."""
    if second in first.followers:
        return True
    if not feeds(first, second) or (second.previous is not None and not _are_gated_pair(first, second)):
        return False
    first.followers.append(second)
    second.previous = second.previous or first
    return True


def _are_gated_pair(first: Draft, second: Draft) -> bool:
    """Tell whether the second layer reads the product of two layers, as in gated feed-forward blocks."""
    return second.previous is not None and (first.label, second.label) in PAIRS and first.parent == second.parent


def feeds(first: Draft, second: Draft) -> bool:
    """Tell whether sizes allow the second layer to read the first one's output.

    A linear layer may read a flattened convolution: its inputs are then a multiple of the channels.
    """
    given, read = first.outputs, second.inputs
    if not given or not read or first.kind in (Kind.EMBEDDING, Kind.ATTENTION) or second.kind is Kind.ATTENTION:
        return False
    if second.kind in NORMS:
        return first.kind not in NORMS and given == read
    if second.is_convolution:
        grouped = given % read == 0 and (second.outputs or 0) % (given // read) == 0
        return first.kind is not Kind.LINEAR and first.kind not in RECURRENT and (given == read or grouped)
    return given == read or (second.kind is Kind.LINEAR and is_spatial(first) and read % given == 0)


def is_spatial(draft: Draft) -> bool:
    """Tell whether a layer's output has spatial axes, which are flattened before a linear layer reads it."""
    if draft.kind in NORMS and draft.previous is not None:
        return draft.previous.is_convolution
    return draft.is_convolution
