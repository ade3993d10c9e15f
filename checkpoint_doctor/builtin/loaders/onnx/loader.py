"""The loader of ONNX models: the weights in a model's graph, and in the files beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Checkpoint, Patch, Tensor
from checkpoint_doctor.errors import NotACheckpoint, UnreadableCheckpoint
from checkpoint_doctor.sources import Source

VERSION = b"\x08"
"""The first byte of a model: the key of its version, which every writer writes first."""


class OnnxLoader(Struct, frozen=True):
    """Opens ``*.onnx``: initializers, and the constants that layers read as weights."""

    name: str = "onnx"
    suffixes: tuple[str, ...] = (".onnx",)

    def recognizes(self, source: Source) -> bool:
        """See ``Loader.recognizes``."""
        try:
            if source.read(0, min(1, source.size)) != VERSION:
                return False
            from checkpoint_doctor.builtin.loaders.onnx.model import is_model

            return is_model(source)
        except UnreadableCheckpoint:
            return False

    def open(self, source: Source) -> Checkpoint:
        """See ``Loader.open``. Tensors come in the order of the file.

        Raises:
            NotACheckpoint: the graph has no weights.
            UnreadableCheckpoint: the file is truncated or damaged, or all its weights are in files that are not there.
        """
        from checkpoint_doctor.builtin.loaders.onnx.model import read_model
        from checkpoint_doctor.builtin.loaders.onnx.opening import Opening

        model = read_model(source)
        if not model.tensors:
            raise NotACheckpoint(
                f"{source.name} is an ONNX model without weights", "export it with its parameters (export_params=True)"
            )
        opening = Opening(source, model)
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
        from checkpoint_doctor.builtin.loaders._patching.in_place import patch_in_place

        return patch_in_place(changes)


loader = OnnxLoader()
