"""What anatomy speaks of: kinds of layers, their outlines, and the drafts they are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from checkpoint_doctor.layers.names import path_of

Shape = tuple[int, ...]
Shapes = Mapping[str, tuple[Shape, str]]
"""Tensor name to (shape, dtype), in file order."""


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
    """Also instance norms without statistics, which are group norms of one channel each."""
    ATTENTION = "attention"
    """A fused query-key-value projection (``in_proj_weight``, ``c_attn`` …)."""
    LORA = "lora"
    PARAMETER = "parameter"
    """A parameter of its own: ``log_std``, ``cls_token``, a scale."""
    BUFFER = "buffer"
    """Not learned: counters, masks, positions, quantized weights and their scales."""


NORMS = frozenset({Kind.LAYER_NORM, Kind.RMS_NORM, Kind.BATCH_NORM, Kind.GROUP_NORM})
RECURRENT = frozenset({Kind.LSTM, Kind.GRU, Kind.RNN})
MATRICES = frozenset({Kind.LINEAR, Kind.CONV})
WEIGHT_FORMS = ("", "_orig", "_mu", "_v", "_raw")
"""Endings of a weight's name: plain, pruned or spectrally normalised, noisy, weight-normalised, under weight drop."""


@dataclass(frozen=True)
class Outline:
    """A layer before its tensors are attached. See ``model.Layer`` for the fields."""

    name: str
    kind: Kind
    parts: Mapping[str, str]
    """Role to tensor name. A tensor that is a layer by itself has the role ``value``."""
    component: str = ""
    is_output: bool = False
    previous: str | None = None
    following: str | None = None
    followers: tuple[str, ...] = ()
    """Every layer that reads this one's output, ``following`` first; empty where that is not certain."""
    transposed: bool = False
    """True where the weight is stored inputs first: GPT-2's Conv1D, transposed convolutions, Flax kernels."""


@dataclass(eq=False)
class Draft:
    """A layer in the making."""

    name: str
    path: tuple[str, ...]
    """The module's name at its dots and slashes."""
    parts: dict[str, str]
    shapes: dict[str, Shape]
    dtypes: dict[str, str]
    kind: Kind = Kind.PARAMETER
    transposed: bool = False
    component: str = ""
    is_output: bool = False
    previous: Draft | None = None
    followers: list[Draft] = field(default_factory=list)
    inputs: int | None = None
    """Features that the layer reads; for a convolution the input channels of one group."""
    outputs: int | None = None
    """Features that the layer gives."""
    position: int = 0
    """Place among the drafts, in file order."""

    @classmethod
    def of(cls, name: str, parts: dict[str, str], shapes: Shapes) -> Draft:
        """Draft a layer of that name from role to tensor name."""
        return cls(
            name=name,
            path=path_of(name),
            parts=parts,
            shapes={role: shapes[tensor][0] for role, tensor in parts.items()},
            dtypes={role: shapes[tensor][1] for role, tensor in parts.items()},
        )

    @property
    def main(self) -> Shape | None:
        """Shape of the layer's weight."""
        return self.shapes.get("weight") or self.form_of("weight")

    @property
    def is_wrapped(self) -> bool:
        """True where the path begins with the name of one of several state dicts in the file."""
        return "/" in self.name

    @property
    def parent(self) -> tuple[str, ...]:
        """Path of the module that holds this one."""
        return self.path[:-1]

    @property
    def label(self) -> str:
        """The module's own name, ``""`` for the root."""
        return self.path[-1] if self.path else ""

    def form_of(self, role: str) -> Shape | None:
        """Return the shape of a weight, under whichever parametrization it is stored."""
        return next((self.shapes[role + form] for form in WEIGHT_FORMS if role + form in self.shapes), None)

    def transpose(self) -> None:
        """Take the weight as stored inputs first after all."""
        self.transposed = not self.transposed
        self.inputs, self.outputs = self.outputs, self.inputs

    def measure(self) -> None:
        """Set ``inputs`` and ``outputs`` from the kind and the shapes."""
        shape = self.main
        if self.kind in RECURRENT:
            from_input, from_hidden = self.form_of("weight_ih"), self.form_of("weight_hh")
            if from_input is not None and from_hidden is not None:
                # The hidden-to-hidden weight reads what the layer gives, projected or not.
                self.inputs, self.outputs = from_input[1], from_hidden[1]
        elif self.kind in NORMS:
            statistics = self.shapes.get("running_mean")
            shape = shape or statistics
            if shape is not None and len(shape) == 1:
                self.inputs = self.outputs = shape[0]
        elif shape is None or len(shape) < 2:
            return
        elif self.kind is Kind.EMBEDDING:
            self.outputs = shape[1]
        elif self.kind in (Kind.LINEAR, Kind.CONV, Kind.ATTENTION):
            self.outputs, self.inputs = shape[:2]
            if self.transposed:
                self.inputs, self.outputs = shape[:2]
