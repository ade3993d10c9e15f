"""Opens an ONNX model: reads its tensors, and says what is missing or left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from checkpoint_doctor.builtin.loaders.onnx.model import Model, TensorEntry
from checkpoint_doctor.builtin.loaders.onnx.roles import find_roles
from checkpoint_doctor.builtin.loaders.onnx.tensors import TYPES, Companions, Missing, cut, read_values, skip
from checkpoint_doctor.checkpoint import Flaw, Skipped, Tensor
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source
from checkpoint_doctor.text import quantity, shown

ROLES = ("weight", "kernel", "bias", "gamma", "beta", "embeddings", "running_mean", "running_var")
"""Names of parameters, as exporters keep them."""


class Opening:
    """A model whose tensors are being read."""

    def __init__(self, source: Source, model: Model) -> None:
        self.model = model
        self.companions = Companions(source)
        self.tensors: list[Tensor] = []
        self.skipped: list[Skipped] = []
        self.lost: dict[str, list[UnreadableCheckpoint]] = {}
        """Files that are not there, with an error for each tensor in them."""
        self.roles = find_roles(model.nodes, {each.name: each.shape for each in model.tensors})

    def read(self) -> None:
        """Read every tensor of the model.

        Raises:
            UnreadableCheckpoint: a tensor does not have the bytes of its shape.
        """
        names: set[str] = set()
        for entry in self.model.tensors:
            if entry.name in names:
                self.skipped.append(Skipped(f"tensor {entry.name}", "another one before it has the same name"))
                continue
            names.add(entry.name)
            if entry.is_constant and entry.name not in self.roles.names:
                continue
            dtype = TYPES.get(entry.type)
            if dtype is None:
                self.skipped.append(skip(entry))
                continue
            try:
                self.tensors += self._name(entry, dtype)
            except Missing as error:
                self.lost.setdefault(entry.external.get("location", ""), []).append(error)
        if self.model.sparse:
            self.skipped.append(Skipped(quantity(self.model.sparse, "sparse tensor"), "sparse tensors are not read"))

    def _name(self, entry: TensorEntry, dtype: str) -> Iterator[Tensor]:
        values = read_values(entry, dtype, self.companions)
        for piece in self.roles.pieces.get(entry.name, ()):
            yield Tensor(
                name=piece.name,
                shape=piece.shape,
                dtype=dtype,
                values=cut(values, piece.start, piece.shape),
                known_as=piece.known_as,
                gates=piece.gates,
            )
        if entry.name in self.roles.pieces:
            return
        role = self.roles.names.get(entry.name, "")
        leaf = entry.name.removesuffix(":0").replace("/", ".").rpartition(".")[2]
        is_buffer = not role and leaf not in ROLES
        if not role and leaf == "kernel" and len(entry.shape) > 2:
            # The name means another order of the axes than that of ONNX, and no node tells which one this is.
            role = f"{entry.name}.value"
        yield Tensor(entry.name, entry.shape, dtype, values, is_buffer=is_buffer, known_as=role)

    def describe_lost(self) -> Iterable[Flaw]:
        """Yield a flaw for each file that is not there."""
        for name, errors in self.lost.items():
            yield Flaw(f"{errors[0].message}; its {quantity(len(errors), 'tensor')} cannot be examined", shown(name))
