"""A layer: the tensors of one module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from msgspec import Struct

from checkpoint_doctor.checkpoint.tensors import Tensor
from checkpoint_doctor.layers import Kind, infer_layers, is_convolution
from checkpoint_doctor.layers.fixed_transforms import is_fixed_transform


class Layer(Struct, frozen=True, eq=False, dict=True):
    """The tensors of one module, and its kind."""

    name: str
    """The module's dotted name, such as ``mlp_extractor.policy_net.0``."""
    kind: Kind
    """What it computes, as far as names and shapes tell."""
    tensors: Mapping[str, Tensor]
    """Role (``weight``, ``bias``, ``weight_ih``, ``running_var`` …) to tensor."""
    component: str
    """The part of the model it is in (``actor``, ``critic``, ``critic_target`` …), ``""`` where there are no parts."""
    is_output: bool
    """True for an output head: a linear or convolutional layer that no other layer of its component follows."""
    previous: str | None
    """Name of the layer whose output is this one's input, ``None`` where names and shapes do not show it."""
    following: str | None
    """Name of the layer whose input is this one's output, ``None`` where names and shapes do not show it."""
    followers: tuple[str, ...] = ()
    """All layers whose input is this one's output, ``following`` first; empty where that is not certain."""
    transposed: bool = False
    """True where the weight's first axis is its input (GPT-2's Conv1D, transposed convolutions, Flax kernels)."""

    @property
    def weight(self) -> Tensor | None:
        """The tensor in the role ``weight``."""
        return self.tensors.get("weight")

    @property
    def bias(self) -> Tensor | None:
        """The tensor in the role ``bias``."""
        return self.tensors.get("bias")

    @property
    def unit_axis(self) -> int | None:
        """The axis of a matrix or kernel along which its units lie; ``None`` where that is not certain."""
        if self.kind is not Kind.KERNEL:
            return 1 if self.transposed else 0
        is_known = self.weight is not None and is_convolution(
            self.name, self.weight.shape, None if self.bias is None else self.bias.shape
        )
        return len(self.weight.shape) - 1 if self.weight is not None and is_known else None

    @property
    def input_axis(self) -> int | None:
        """The axis of a matrix or kernel along which its inputs lie; ``None`` where that is not certain."""
        axis = self.unit_axis
        return None if axis is None else 1 - axis if axis < 2 else axis - 1

    @property
    def unit_bias(self) -> Tensor | None:
        """The bias if it has one entry for each unit of the weight; ``None`` where there is none, or another."""
        if self.bias is None or self.weight is None or len(self.weight.shape) < 2 or self.unit_axis is None:
            return None
        return self.bias if self.bias.shape == (self.weight.shape[self.unit_axis],) else None

    @cached_property
    def learned_weights(self) -> tuple[Tensor, ...]:
        """Its matrices and kernels of floats; masks and fixed transforms (a Fourier basis) are left out."""
        return tuple(
            tensor
            for role, tensor in self.tensors.items()
            if role.startswith("weight")
            and len(tensor.shape) > 1
            and tensor.is_floating
            and not role.endswith("_mask")
            and not is_fixed_transform(tensor.name)
        )


def build_layers(by_name: Mapping[str, Tensor]) -> tuple[Layer, ...]:
    """Group tensors into layers; every tensor belongs to exactly one."""
    known = {tensor.known_as or name: tensor for name, tensor in by_name.items()}
    if len(known) == len(by_name):
        by_name = known
    return tuple(
        Layer(
            name=outline.name,
            kind=_as_marked(outline.kind, [by_name[name] for name in outline.parts.values()]),
            tensors={role: by_name[name] for role, name in outline.parts.items()},
            component=outline.component,
            is_output=outline.is_output,
            previous=outline.previous,
            following=outline.following,
            followers=outline.followers,
            transposed=outline.transposed,
        )
        for outline in infer_layers({name: (tensor.shape, tensor.dtype) for name, tensor in by_name.items()})
    )


def _as_marked(kind: Kind, tensors: Sequence[Tensor]) -> Kind:
    """Return ``BUFFER`` for a tensor of its own that the file marks as one."""
    return Kind.BUFFER if kind is Kind.PARAMETER and all(tensor.is_buffer for tensor in tensors) else kind
