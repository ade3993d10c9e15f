"""An opened checkpoint, as rules see it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from functools import cached_property
from operator import is_
from typing import Any, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from checkpoint_doctor.checkpoint.contents import Checksum, Flaw, Missing, Part, PickledName, Skipped
from checkpoint_doctor.checkpoint.gradients import Gradients
from checkpoint_doctor.checkpoint.layers import Layer, build_layers
from checkpoint_doctor.checkpoint.optimizers import Moments, Optimizer
from checkpoint_doctor.checkpoint.setting_ranges import Range
from checkpoint_doctor.checkpoint.signals import LayerSignal, read_signal
from checkpoint_doctor.checkpoint.tensors import Tensor, find_aliases
from checkpoint_doctor.layers import online_name

Held = TypeVar("Held")


class Checkpoint(Struct, frozen=True, eq=False, dict=True):
    """An opened checkpoint: its tensors, layers, optimizers and settings, and the state of its file."""

    path: str
    """Where it was opened from, as the reports name it."""
    format: str
    """Name of the loader that opened it: ``sb3``, ``torch``, ``safetensors`` …"""
    tensors: tuple[Tensor, ...]
    """The model's own tensors, in file order."""
    optimizers: tuple[Optimizer, ...] = ()
    """The optimizers in the file; empty where there is none."""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    """Settings in the file, as plain values; a setting that is stored as code is described and not executed."""
    layout: str = ""
    """The library whose layout a folder has: ``transformers``, ``peft`` …; empty for a single file."""
    algorithm: str | None = None
    """The training algorithm (``PPO``, ``SAC`` …), where it can be inferred."""
    step: int | None = None
    """Environment or training steps at the time of saving."""
    updates: int | None = None
    """Number of gradient updates, where the file records it."""
    counters: Mapping[str, int] = field(default_factory=dict)
    """The run's counters by the names that the file gives them: ``epoch``, ``global_step`` …"""
    parts: tuple[Part, ...] = ()
    """What stands under the file's keys, as far as it was recognised, and the files of a folder."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package to the version with which the file was saved."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Other facts about the file, such as a safetensors header's ``__metadata__``."""
    flaws: tuple[Flaw, ...] = ()
    """Damage found while opening; ``damage`` also verifies the checksums."""
    checksums: tuple[Checksum, ...] = ()
    """The checksums that the container stores."""
    pickled_names: tuple[PickledName, ...] = ()
    """The globals in the file's pickles, those that describe data included."""
    skipped: tuple[Skipped, ...] = ()
    """What in the file could not be looked at."""
    missing: tuple[Missing, ...] = ()
    """Files that a run needs to go on and that are not in the folder."""
    ranges: tuple[Range, ...] = ()
    """The user's own ranges of settings, which come before the documented ones."""
    is_patchable: bool = True
    """False where nothing in it can be changed in place, as in a compressed file: no finding then promises a repair."""
    gradients: tuple[Gradients, ...] = ()
    """What a running training loop shows of its gradients, for each optimizer; empty for a file."""

    @cached_property
    def damage(self) -> tuple[Flaw, ...]:
        """All damage to the file, including checksums that do not match."""
        return self.flaws + tuple(each.flaw for each in self.checksums if each.flaw is not None)

    @cached_property
    def files(self) -> tuple[Part, ...]:
        """The parts that are files of a folder; empty for a single file."""
        return tuple(part for part in self.parts if part.file)

    @cached_property
    def by_name(self) -> Mapping[str, Tensor]:
        """The model's tensors by name."""
        return {tensor.name: tensor for tensor in self.tensors}

    def find_tensor(self, name: str | None) -> Tensor | None:
        """Return the model's tensor of a name, ``None`` where there is none or no name. A name may be empty."""
        return None if name is None else self.by_name.get(name)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The tensors grouped into layers; every tensor belongs to exactly one."""
        return build_layers(self.by_name)

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
        """Names under which the same bytes are stored again, mapped to the first name of these bytes.

        A module that is used in two places has its tensors in the state dict twice; optimizers hold them once.
        """
        return find_aliases(self.tensors)

    def with_shared_statistics(self) -> Checkpoint:
        """Return this checkpoint with bytes that are stored under several names measured once."""
        optimizers = tuple(optimizer.with_shared_statistics() for optimizer in self.optimizers)
        if not self.aliases and all(map(is_, optimizers, self.optimizers)):
            return self
        tensors = (
            replace(tensor, same_as=self.by_name[self.aliases[tensor.name]]) if tensor.name in self.aliases else tensor
            for tensor in self.tensors
        )
        return replace(self, tensors=tuple(tensors), optimizers=optimizers)

    @cached_property
    def distinct_tensors(self) -> tuple[Tensor, ...]:
        """The model's tensors, each under the first of its names."""
        return tuple(tensor for tensor in self.tensors if tensor.name not in self.aliases)

    @cached_property
    def distinct_layers(self) -> tuple[Layer, ...]:
        """The layers, without those that are the same tensors as another layer under a second name."""
        return tuple(layer for layer in self.layers if not self._is_second_name(layer))

    def _is_second_name(self, layer: Layer) -> bool:
        names = [self.aliases.get(tensor.name) for tensor in layer.tensors.values()]
        originals = [self.layer_of[name] for name in names if name is not None]
        return len(originals) == len(names) and all(
            each is originals[0] and each.kind is layer.kind and len(each.tensors) == len(names) for each in originals
        )

    @cached_property
    def moments(self) -> Mapping[str, Moments]:
        """Tensor name to the optimizer's state of it, for the tensors that an optimizer holds."""
        return self._with_aliases({name: moments for name, _, moments in self._held})

    @cached_property
    def optimizer_of(self) -> Mapping[str, Optimizer]:
        """Tensor name to the optimizer that holds it."""
        return self._with_aliases({name: optimizer for name, optimizer, _ in self._held})

    @property
    def _held(self) -> Iterator[tuple[str, Optimizer, Moments]]:
        for optimizer in self.optimizers:
            for moments in optimizer.parameters:
                if moments.tensor is not None:
                    yield moments.tensor, optimizer, moments

    def _with_aliases(self, held: Mapping[str, Held]) -> dict[str, Held]:
        """Add the other names of tensors that an optimizer holds under one name."""
        known = {self.aliases.get(name, name): value for name, value in held.items()}
        others = {name: known[first] for name, first in self.aliases.items() if first in known}
        return {**known, **others, **held}

    @cached_property
    def online_tensors(self) -> Mapping[str, str]:
        """Name of a target network's tensor to the tensor of the online network that it follows."""
        names = ((tensor, online_name(tensor.name, self.by_name)) for tensor in self.tensors)
        pairs = ((tensor, self.by_name.get(name)) for tensor, name in names if name is not None)
        found = {
            target.name: online.name
            for target, online in pairs
            if online is not None
            and online.shape == target.shape
            and (online.is_floating, online.is_complex) == (target.is_floating, target.is_complex)
        }
        # Odd names may make two tensors follow each other, and then neither is a copy.
        return {target: online for target, online in found.items() if online not in found}

    @cached_property
    def facts(self) -> dict[Hashable, Any]:
        """What functions that are marked ``found_once`` found out."""
        return {}

    @cached_property
    def signals(self) -> Mapping[str, LayerSignal]:
        """Layer name to its part of the signal profile: the size of its inputs, gradients and updates."""
        return {layer.name: read_signal(layer, self) for layer in self.layers}

    def updates_of(self, name: str) -> int | None:
        """Return a tensor's number of updates; ``None`` where no optimizer holds it or its optimizer does not count.

        It is 0 for a parameter that its optimizer holds and never updated, while it updated others.
        """
        moments = self.moments.get(name)
        if moments is None or moments.step is not None or moments.state:
            return None if moments is None else moments.step
        counts = any(each.step is not None for each in self.optimizer_of[name].parameters)
        return 0 if counts or self.is_untrained else None

    @cached_property
    def is_untrained(self) -> bool:
        """True where no update was made: no optimizer has state, and no counter says otherwise.

        Where updates are counted, the count decides; a count of environment steps says nothing of training. Otherwise
        the file must have an optimizer, and either a step of 0 or no step and an optimizer that would have state.
        """
        if any(optimizer.has_state for optimizer in self.optimizers):
            return False
        if self.updates is not None:
            return self.updates == 0
        if self.step is not None or not self.optimizers:
            return self.step == 0 and bool(self.optimizers)
        return any(optimizer.keeps_state for optimizer in self.optimizers)
