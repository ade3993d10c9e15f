"""The kinds of layers, and the sets of kinds that rules and layer inference ask about."""

from __future__ import annotations

from enum import Enum


class Kind(str, Enum):
    """The kind of a layer, as far as names and shapes tell."""

    LINEAR = "linear"
    """A linear layer, outputs first."""
    CONV = "conv"
    """A convolution with a kernel, outputs first."""
    KERNEL = "kernel"
    """A kernel of three or more axes that is stored with its outputs last (Keras, Flax): a convolution, or a dense
    layer over several axes. Its values are judged by its units where these are certain; its moments are not."""
    EMBEDDING = "embedding"
    """A table whose rows are looked up."""
    LSTM = "lstm"
    """A long short-term memory layer."""
    GRU = "gru"
    """A gated recurrent unit layer."""
    RNN = "rnn"
    """A recurrent layer without gates."""
    LAYER_NORM = "layer_norm"
    """Layer normalisation."""
    RMS_NORM = "rms_norm"
    """Root-mean-square normalisation."""
    BATCH_NORM = "batch_norm"
    """Batch normalisation, with its running statistics."""
    GROUP_NORM = "group_norm"
    """Also instance norms without statistics, which are group norms of one channel each."""
    ATTENTION = "attention"
    """A fused query-key-value projection (``in_proj_weight``, ``c_attn`` …)."""
    LORA = "lora"
    """The two factors of a low-rank adapter."""
    PARAMETER = "parameter"
    """A parameter of its own: ``log_std``, ``cls_token``, a scale."""
    BUFFER = "buffer"
    """Not learned: counters, masks, positions, quantized weights and their scales."""


NORMS = frozenset({Kind.LAYER_NORM, Kind.RMS_NORM, Kind.BATCH_NORM, Kind.GROUP_NORM})
"""Normalisation layers. Their gain starts at 1; their bias starts at 0 and may stay there."""

RECURRENT = frozenset({Kind.LSTM, Kind.GRU, Kind.RNN})
"""Recurrent layers. Their biases are gate biases, and their units read one another."""

FEEDFORWARD = frozenset({Kind.LINEAR, Kind.CONV})
"""Layers with one weight and no state: each unit's output depends on the layer's inputs alone."""

WITH_UNITS = FEEDFORWARD | RECURRENT
"""Layers whose units can be dormant one by one. Each unit has weights of its own for every input."""

PROJECTIONS = WITH_UNITS | {Kind.ATTENTION, Kind.KERNEL}
"""Layers that multiply their inputs by a matrix or kernel."""

DENSE = PROJECTIONS | {Kind.EMBEDDING}
"""Layers of the network whose weights hold no exact zeros after training. Norms, adapters, bare parameters and buffers
are left out: zeros are common there."""

LEARNED_MATRICES = DENSE | {Kind.LORA}
"""Layers whose weights are matrices or kernels that gradient descent learns entry by entry; adapters belong to them."""
