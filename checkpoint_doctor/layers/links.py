"""When one layer's output can be what another one reads."""

from __future__ import annotations

from checkpoint_doctor.layers.outlines import NORMS, RECURRENT, Draft, Kind

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
"""Siblings of transformers' feed-forward blocks (transformers: llama, mixtral, gpt2, t5, gpt_neox, gptj)."""


def link(first: Draft, second: Draft) -> bool:
    """Let the second draft read the first one's output if sizes allow and it reads nobody else's."""
    if second in first.followers:
        return True
    if not feeds(first, second) or (second.previous is not None and not _may_join(first, second)):
        return False
    first.followers.append(second)
    second.previous = second.previous or first
    return True


def _may_join(first: Draft, second: Draft) -> bool:
    """Tell whether two layers are multiplied before the second reads them, as in gated feed-forward blocks."""
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
    if second.kind is Kind.CONV:
        grouped = given % read == 0 and (second.outputs or 0) % (given // read) == 0
        return first.kind is not Kind.LINEAR and first.kind not in RECURRENT and (given == read or grouped)
    return given == read or (second.kind is Kind.LINEAR and is_spatial(first) and read % given == 0)


def is_spatial(draft: Draft) -> bool:
    """Tell whether a layer gives channels over space, to be flattened before a linear layer reads them."""
    if draft.kind in NORMS and draft.previous is not None:
        return draft.previous.kind is Kind.CONV
    return draft.kind is Kind.CONV
