"""From names and shapes to layers: which tensors work together, and as what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Kind(str, Enum):
    """The kind of a layer, as far as names and shapes tell."""

    LINEAR = "linear"
    CONV = "conv"
    EMBEDDING = "embedding"
    LSTM = "lstm"
    GRU = "gru"
    RNN = "rnn"
    LAYER_NORM = "layer_norm"
    RMS_NORM = "rms_norm"
    BATCH_NORM = "batch_norm"
    GROUP_NORM = "group_norm"
    ATTENTION = "attention"
    """A fused query-key-value projection (``in_proj_weight``, ``c_attn`` …)."""
    LORA = "lora"
    PARAMETER = "parameter"
    """A parameter of its own: ``log_std``, ``cls_token``, a scale."""
    BUFFER = "buffer"
    """Not learned: counters, masks, positions, quantization scales."""


@dataclass(frozen=True)
class Outline:
    """A layer before its tensors are attached. See ``model.Layer`` for the fields."""

    name: str
    kind: Kind
    parts: Mapping[str, str]
    component: str = ""
    is_output: bool = False
    previous: str | None = None
    following: str | None = None


def outline(shapes: Mapping[str, tuple[tuple[int, ...], str]]) -> tuple[Outline, ...]:
    """Group tensors, given as name to (shape, dtype) in file order, into layers."""
    raise NotImplementedError
