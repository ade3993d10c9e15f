"""An opened checkpoint: everything that rules may look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

from checkpoint_doctor.checkpoint.contents import Checksum, Flaw, PickledName, Skipped
from checkpoint_doctor.checkpoint.layers import Layer
from checkpoint_doctor.checkpoint.optimizers import Moments, Optimizer
from checkpoint_doctor.checkpoint.tensors import Tensor
from checkpoint_doctor.layers import infer_layers, online_name

Held = TypeVar("Held")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An opened checkpoint: everything rules may look at."""

    path: str
    format: str
    """Name of the loader that opened it: ``sb3``, ``torch``, ``safetensors`` …"""
    tensors: tuple[Tensor, ...]
    """The model's own tensors, in file order."""
    optimizers: tuple[Optimizer, ...] = ()
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    """Settings stored beside the tensors, as plain values; what is stored as code is described, not run."""
    algorithm: str | None = None
    """The training algorithm, as far as the file tells (``PPO``, ``SAC`` …)."""
    step: int | None = None
    """Environment or training steps at the time of saving."""
    updates: int | None = None
    """Gradient updates that the file counts, where it counts them."""
    versions: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    flaws: tuple[Flaw, ...] = ()
    """What the loader noticed while opening; ``damage`` adds what the checksums say."""
    checksums: tuple[Checksum, ...] = ()
    pickled_names: tuple[PickledName, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    @cached_property
    def damage(self) -> tuple[Flaw, ...]:
        """Everything wrong with the file itself, its checksums verified."""
        return self.flaws + tuple(each.flaw for each in self.checksums if each.flaw is not None)

    @cached_property
    def by_name(self) -> Mapping[str, Tensor]:
        """The model's tensors by name."""
        return {tensor.name: tensor for tensor in self.tensors}

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The tensors grouped into layers; every tensor belongs to exactly one."""
        shapes = {tensor.name: (tensor.shape, tensor.dtype) for tensor in self.tensors}
        return tuple(
            Layer(
                name=outline.name,
                kind=outline.kind,
                tensors={role: self.by_name[name] for role, name in outline.parts.items()},
                component=outline.component,
                is_output=outline.is_output,
                previous=outline.previous,
                following=outline.following,
                followers=outline.followers,
                transposed=outline.transposed,
            )
            for outline in infer_layers(shapes)
        )

    @cached_property
    def layer_by_name(self) -> Mapping[str, Layer]:
        """The layers by name."""
        return {layer.name: layer for layer in self.layers}

    @cached_property
    def layer_of(self) -> Mapping[str, Layer]:
        """Tensor name to the layer it belongs to."""
        return {tensor.name: layer for layer in self.layers for tensor in layer.tensors.values()}

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """Names under which the very same bytes are stored once more, to the first name of these bytes.

        A module that is used in two places has its tensors in the state dict twice; optimizers hold them once.
        """
        first: dict[tuple[object, ...], str] = {}
        found = {}
        for tensor in self.tensors:
            name = first.setdefault((tensor.storage, tensor.storage_range, tensor.shape, tensor.dtype), tensor.name)
            if tensor.storage and name != tensor.name:
                found[tensor.name] = name
        return found

    def with_shared_statistics(self) -> Checkpoint:
        """Return this checkpoint with bytes that are stored under several names measured once."""
        if not self.aliases:
            return self
        tensors = (
            replace(tensor, same_as=self.by_name[self.aliases[tensor.name]]) if tensor.name in self.aliases else tensor
            for tensor in self.tensors
        )
        return replace(self, tensors=tuple(tensors))

    @cached_property
    def distinct_tensors(self) -> tuple[Tensor, ...]:
        """The model's tensors, each under the first of its names."""
        return tuple(tensor for tensor in self.tensors if tensor.name not in self.aliases)

    @cached_property
    def distinct_layers(self) -> tuple[Layer, ...]:
        """The layers without those that are another layer of the same kind under a second name."""
        return tuple(layer for layer in self.layers if not self._is_second_name(layer))

    def _is_second_name(self, layer: Layer) -> bool:
        names = [self.aliases.get(tensor.name) for tensor in layer.tensors.values()]
        originals = [self.layer_of[name] for name in names if name is not None]
        return len(originals) == len(names) and all(
            each is originals[0] and each.kind is layer.kind and len(each.tensors) == len(names) for each in originals
        )

    @cached_property
    def moments(self) -> Mapping[str, Moments]:
        """Tensor name to what an optimizer remembers about it, for the tensors that an optimizer holds."""
        return self._with_aliases(
            {
                moments.tensor: moments
                for optimizer in self.optimizers
                for moments in optimizer.parameters
                if moments.tensor is not None
            }
        )

    @cached_property
    def online_tensors(self) -> Mapping[str, str]:
        """Target network's tensor to the tensor that it is a slowly following copy of."""
        pairs = ((tensor, self.by_name.get(online_name(tensor.name, self.by_name) or "")) for tensor in self.tensors)
        return {copy.name: twin.name for copy, twin in pairs if twin is not None and twin.shape == copy.shape}

    @cached_property
    def optimizer_of(self) -> Mapping[str, Optimizer]:
        """Tensor name to the optimizer that holds it."""
        return self._with_aliases(
            {
                moments.tensor: optimizer
                for optimizer in self.optimizers
                for moments in optimizer.parameters
                if moments.tensor is not None
            }
        )

    def _with_aliases(self, held: Mapping[str, Held]) -> dict[str, Held]:
        """Add the other names of tensors that an optimizer holds under one of theirs."""
        known = {self.aliases.get(name, name): value for name, value in held.items()}
        others = {name: known[first] for name, first in self.aliases.items() if first in known}
        return {**known, **others, **held}

    def updates_of(self, name: str) -> int | None:
        """Return how many updates an optimizer counted for a tensor; ``None`` where none holds it or it does not count.

        A parameter that is held and never stepped, while its neighbours were, has 0.
        """
        moments = self.moments.get(name)
        if moments is None or moments.step is not None or moments.state:
            return None if moments is None else moments.step
        counts = any(each.step is not None for each in self.optimizer_of[name].parameters)
        return 0 if counts or self.is_untrained else None

    @cached_property
    def is_untrained(self) -> bool:
        """True at step 0: no optimizer has any state and no update was counted. ``step`` is no evidence of training."""
        if any(optimizer.has_state for optimizer in self.optimizers):
            return False
        return self.updates == 0 if self.updates is not None else False
