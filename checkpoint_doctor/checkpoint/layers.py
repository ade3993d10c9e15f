"""Tensors that work together, as a layer of a known kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from checkpoint_doctor.checkpoint.tensors import Tensor
from checkpoint_doctor.layers import Kind


@dataclass(frozen=True, eq=False)
class Layer:
    """A group of tensors that work together, with the kind of layer they form."""

    name: str
    """The module's dotted name, such as ``mlp_extractor.policy_net.0``."""
    kind: Kind
    tensors: Mapping[str, Tensor]
    """Role (``weight``, ``bias``, ``weight_ih``, ``running_var`` …) to tensor."""
    component: str
    """The part of the model it belongs to (``actor``, ``critic``, ``critic_target`` …), ``""`` for the whole."""
    is_output: bool
    """True for an output head: a linear or convolutional layer that no other layer of its component follows."""
    previous: str | None
    """Name of the layer whose output this one reads, where names and shapes tell."""
    following: str | None
    """Name of the layer that reads this one's output, where names and shapes tell."""
    followers: tuple[str, ...] = ()
    """All the layers that read this one's output, ``following`` first; empty where that is not certain."""
    transposed: bool = False
    """True where the weight is stored inputs first (GPT-2's Conv1D, transposed convolutions, Flax kernels)."""

    @property
    def weight(self) -> Tensor | None:
        """The tensor in the role ``weight``."""
        return self.tensors.get("weight")

    @property
    def bias(self) -> Tensor | None:
        """The tensor in the role ``bias``."""
        return self.tensors.get("bias")
