"""The loader of ONNX models: the weights in a model's graph, and in the files beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Checkpoint, Flaw, Patch, Skipped, Tensor
from checkpoint_doctor.errors import NotACheckpoint, UnreadableCheckpoint
from checkpoint_doctor.loaders.onnx.model import Model, TensorEntry, is_model, read_model
from checkpoint_doctor.loaders.onnx.roles import find_roles
from checkpoint_doctor.loaders.onnx.tensors import TYPES, Companions, Missing, read_values, skip
from checkpoint_doctor.sources import Source
from checkpoint_doctor.text import quantity, shown

ROLES = ("weight", "kernel", "bias", "gamma", "beta", "embeddings", "running_mean", "running_var")
"""Names of parameters, as exporters keep them."""


@dataclass(frozen=True)
class OnnxLoader:
    """Opens ``*.onnx``: initializers, and the constants that layers read as weights."""

    name: str = "onnx"
    suffixes: tuple[str, ...] = (".onnx",)

    def recognizes(self, source: Source) -> bool:
        """See ``Loader.recognizes``."""
        try:
            return is_model(source)
        except UnreadableCheckpoint:
            return False

    def open(self, source: Source) -> Checkpoint:
        """See ``Loader.open``. Tensors come in the order of the file.

        Raises:
            NotACheckpoint: the graph has no weights.
            UnreadableCheckpoint: the file is truncated or damaged, or all its weights are in files that are not there.
        """
        model = read_model(source)
        if not model.tensors:
            raise NotACheckpoint(
                f"{source.name} is an ONNX model without weights", "export it with its parameters (export_params=True)"
            )
        opening = _Opening(source, model)
        opening.read()
        if opening.lost and not opening.tensors:
            raise next(iter(opening.lost.values()))[0]
        return Checkpoint(
            path=source.name,
            format=self.name,
            tensors=tuple(opening.tensors),
            metadata={"producer": model.producer} if model.producer else {},
            flaws=tuple(opening.describe_lost()),
            skipped=tuple(opening.skipped),
        )

    def patch(self, checkpoint: Checkpoint, changes: Mapping[Tensor, NDArray]) -> Mapping[Source, Sequence[Patch]]:
        """See ``Loader.patch``."""
        from checkpoint_doctor.loaders._patching.in_place import patch_in_place

        return patch_in_place(changes)


class _Opening:
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
        names: set[str] = set()
        for entry in self.model.tensors:
            if entry.name in names:
                self.skipped.append(Skipped(f"tensor {entry.name}", "another one before it has the same name"))
                continue
            names.add(entry.name)
            if entry.is_constant and entry.name not in self.roles:
                continue
            dtype = TYPES.get(entry.type)
            if dtype is None:
                self.skipped.append(skip(entry))
                continue
            try:
                self.tensors.append(self._name(entry, dtype))
            except Missing as error:
                self.lost.setdefault(entry.external.get("location", ""), []).append(error)
        if self.model.sparse:
            self.skipped.append(Skipped(quantity(self.model.sparse, "sparse tensor"), "sparse tensors are not read"))

    def _name(self, entry: TensorEntry, dtype: str) -> Tensor:
        role = self.roles.get(entry.name, "")
        leaf = entry.name.removesuffix(":0").replace("/", ".").rpartition(".")[2]
        return Tensor(
            name=entry.name,
            shape=entry.shape,
            dtype=dtype,
            values=read_values(entry, dtype, self.companions),
            is_buffer=not role and leaf not in ROLES,
            known_as=role,
        )

    def describe_lost(self) -> Iterable[Flaw]:
        for name, errors in self.lost.items():
            yield Flaw(f"{errors[0].message}; its {quantity(len(errors), 'tensor')} cannot be examined", shown(name))


loader = OnnxLoader()
