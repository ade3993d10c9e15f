"""Inferred layers: the outline that callers get, and the draft it is built from."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from checkpoint_doctor.layers.kinds import FEEDFORWARD, NORMS, RECURRENT, Kind
from checkpoint_doctor.layers.names import path_of

Shape = tuple[int, ...]
Shapes = Mapping[str, tuple[Shape, str]]
"""Tensor name to (shape, dtype), in file order."""


WEIGHT_FORMS = ("", "_orig", "_mu", "_v", "_raw")
"""Endings of a weight's name: plain, pruned or spectrally normalised, noisy, weight-normalised, under weight drop."""


def is_convolution(name: str, kernel: Shape, bias: Shape | None) -> bool:
    """Tell whether a layer with a kernel whose outputs come last, by its name, is a convolution with its units there.

    It may be a transposed convolution of Keras, which has its inputs last, or a dense layer with several axes of
    outputs: the bias tells, and the number of axes.
    """
    if "transpose" in name or len(kernel) < 3:
        return False
    return len(kernel) > 3 if bias is None else bias == kernel[-1:]


class Outline(Struct, frozen=True):
    """An inferred layer: names and kinds without the tensors. See ``checkpoint.Layer`` for the fields."""

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


class Draft(Struct, eq=False):
    """A layer while it is inferred: grouped first, then linked, then given a component."""

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
    """Features that the layer outputs."""
    position: int = 0
    """Place among the drafts, in file order."""

    @classmethod
    def of(cls, name: str, parts: dict[str, str], shapes: Shapes) -> Draft:
        """Start a layer of that name from a mapping of role to tensor name."""
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
    def is_convolution(self) -> bool:
        """True for a convolution, whichever way round its kernel is stored."""
        if self.kind is not Kind.KERNEL or self.main is None:
            return self.kind is Kind.CONV
        return is_convolution(self.name, self.main, self.shapes.get("bias"))

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
        """Swap inputs and outputs: the weight turned out to be stored the other way round."""
        self.transposed = not self.transposed
        self.inputs, self.outputs = self.outputs, self.inputs

    def measure(self) -> None:
        """Set ``inputs`` and ``outputs`` from the kind and the shapes."""
        shape = self.main
        if self.kind in RECURRENT:
            from_input, from_hidden = self.form_of("weight_ih"), self.form_of("weight_hh")
            if from_input is not None and from_hidden is not None:
                # The hidden-to-hidden weight reads the layer's output, projected or not.
                axis = 0 if self.transposed else 1
                self.inputs, self.outputs = from_input[axis], from_hidden[axis]
        elif self.kind in NORMS:
            statistics = self.shapes.get("running_mean")
            shape = shape or statistics
            if shape is not None and len(shape) == 1:
                self.inputs = self.outputs = shape[0]
        elif shape is None or len(shape) < 2:
            return
        elif self.kind is Kind.EMBEDDING:
            self.outputs = shape[1]
        elif self.kind is Kind.KERNEL:
            bias = self.shapes.get("bias", shape[-1:])
            if bias == shape[-1:]:
                self.inputs, self.outputs = shape[-2:]
            elif bias == shape[-2:-1]:  # a transposed convolution of Keras
                self.outputs, self.inputs = shape[-2:]
        elif self.kind in FEEDFORWARD or self.kind is Kind.ATTENTION:
            self.outputs, self.inputs = shape[:2]
            if self.transposed:
                self.inputs, self.outputs = shape[:2]
