"""The nouns: what a checkpoint is made of.

Everything here is frozen. A ``Checkpoint`` is what a loader makes of a file: lazy tensors, the optimizers' state and
the settings. What is said about it lives in ``findings`` and ``report``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, TypeVar

from numpy.typing import NDArray

from checkpoint_doctor import anatomy
from checkpoint_doctor.traces import Traces, trace
from checkpoint_doctor.vitals import Values, Vitals, measure

Held = TypeVar("Held")


@dataclass(frozen=True, eq=False)
class Tensor:
    """A named tensor whose numbers are read when they are asked for."""

    name: str
    """The key in the state dict; with the member's or wrapper's name and a ``/`` before it where a file has several."""
    shape: tuple[int, ...]
    dtype: str
    """The element type as PyTorch prints it, without ``torch.``: ``float32``, ``bfloat16``, ``qint8`` …"""
    values: Values
    """Where the numbers are."""
    storage: str = ""
    """Names the memory behind the tensor: tensors of one storage are views of each other (tied, flattened, sliced)."""
    storage_range: tuple[int, int] = (0, 0)
    """First byte and byte after the last that the tensor touches within its storage."""
    is_buffer: bool = False
    """True where the file says that this is a buffer and not a parameter."""

    @cached_property
    def vitals(self) -> Vitals:
        """The figures of the one pass over the numbers, taken at the first question."""
        return measure(self.values)

    @cached_property
    def array(self) -> NDArray:
        """The whole tensor in memory. Only for rules on small tensors: biases, gains, gate blocks."""
        return self.values.read()

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    @property
    def is_floating(self) -> bool:
        """True for real and complex floating-point types."""
        return self.dtype.startswith(("float", "bfloat", "complex"))

    def is_tied_to(self, other: Tensor) -> bool:
        """True where both show the very same bytes."""
        return bool(self.storage) and (self.storage, self.storage_range) == (other.storage, other.storage_range)


@dataclass(frozen=True, eq=False)
class Layer:
    """A group of tensors that work together, with the kind of layer they form."""

    name: str
    """The module's dotted name, such as ``mlp_extractor.policy_net.0``."""
    kind: anatomy.Kind
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


@dataclass(frozen=True, eq=False)
class Moments:
    """What an optimizer remembers about one parameter."""

    index: int
    """Position in the optimizer's list of parameters."""
    tensor: str | None
    """Name of the model's tensor, ``None`` where it cannot be told for certain."""
    step: int | None
    """Updates counted for this parameter; ``None`` where the optimizer does not count or holds no state for it."""
    state: Mapping[str, Tensor]
    """The optimizer's own keys (``exp_avg``, ``exp_avg_sq``, ``square_avg``, ``momentum_buffer`` …) to tensors."""

    @property
    def first(self) -> Tensor | None:
        """The first moment (Adam's ``exp_avg``, SGD's ``momentum_buffer``)."""
        return self.state.get("exp_avg") or self.state.get("momentum_buffer")

    @property
    def second(self) -> Tensor | None:
        """The second moment (``exp_avg_sq``, ``square_avg``, Adagrad's ``sum``, Adamax's ``exp_inf``)."""
        for key in ("exp_avg_sq", "square_avg", "exp_inf", "sum"):
            if key in self.state:
                return self.state[key]
        return None

    @cached_property
    def traces(self) -> Traces | None:
        """What gradients left in the moments, taken at the first question; ``None`` where there are no moments."""
        first, second = self.first, self.second
        if first is None and second is None:
            return None
        if first is not None and second is not None and first.shape != second.shape:
            return None
        return trace(
            None if first is None else first.values,
            None if second is None else second.values,
            is_root="exp_inf" in self.state,
        )


@dataclass(frozen=True, eq=False)
class ParameterGroup:
    """One of an optimizer's parameter groups."""

    options: Mapping[str, Any]
    """``lr``, ``betas``, ``eps``, ``weight_decay`` … as stored."""
    indices: tuple[int, ...]
    """Positions of its parameters in ``Optimizer.parameters``."""
    settings: Mapping[str, Tensor] = field(default_factory=dict)
    """The options that lie in the file as one number which can be replaced, as tensors without axes."""


@dataclass(frozen=True, eq=False)
class Optimizer:
    """The state of one optimizer inside a checkpoint."""

    name: str
    """Where it was found: ``policy.optimizer``, ``optimizer``, ``optimizer_states/0`` …"""
    kind: str | None
    """``Adam`` and its family, ``RMSprop``, ``SGD``, ``Adagrad`` … as far as the keys tell."""
    groups: tuple[ParameterGroup, ...]
    parameters: tuple[Moments, ...]
    unmatched: str = ""
    """Why parameters could not be given their tensors' names; empty where all could."""
    mismatch: str = ""
    """How the state contradicts the model (count or shapes), with the first index and name; empty where it fits."""

    @property
    def has_state(self) -> bool:
        """True where at least one parameter was ever updated. Adagrad has its sums before the first step."""
        return any(moments.state if moments.step is None else moments.step for moments in self.parameters)

    def group_of(self, index: int) -> ParameterGroup | None:
        """Return the parameter group that the parameter at a position belongs to."""
        return next((group for group in self.groups if index in group.indices), None)


@dataclass(frozen=True)
class Flaw:
    """Something about the file itself that a loader noticed and could read past."""

    message: str
    member: str = ""
    """The part of the file concerned (a zip member, a shard, a tensor)."""
    expected: int | None = None
    """Bytes (or entries) that should be there."""
    found: int | None = None
    """Bytes (or entries) that are."""


@dataclass(frozen=True, eq=False)
class Checksum:
    """A stored checksum that costs a pass over the bytes to verify, so that it waits until somebody asks."""

    size: int
    """Bytes to read."""
    verify: Callable[[], Flaw | None]
    place: range | None = None
    """Where in the file the bytes lie, ``None`` where they do not lie in it as they are."""
    recorded: int | None = None

    @cached_property
    def flaw(self) -> Flaw | None:
        """What is wrong, ``None`` where the bytes are as they were written."""
        return self.verify()


@dataclass(frozen=True)
class PickledName:
    """A global that a pickle in the file asks for. It was recorded, never imported."""

    module: str
    name: str
    member: str = ""
    called: bool = False
    """True where the pickle calls it with arguments while loading."""
    known: bool = False
    """True where the closed table knows it as a description of data."""

    @property
    def qualified(self) -> str:
        """The dotted name that an import would ask for."""
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class Skipped:
    """Something that could not be looked at, and why."""

    what: str
    why: str


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
            for outline in anatomy.outline(shapes)
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
    def online_twins(self) -> Mapping[str, str]:
        """Target network's tensor to the tensor that it is a slowly following copy of."""
        pairs = (
            (tensor, self.by_name.get(anatomy.online_twin(tensor.name, self.by_name) or "")) for tensor in self.tensors
        )
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


@dataclass(frozen=True)
class Patch:
    """Bytes to replace in a file, and what stands there before."""

    offset: int
    old: bytes
    new: bytes
    reason: str = ""
