"""The loader of NumPy's archives (``.npz``). Arrays of objects are pickles; they are named and never unpickled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.builtin.loaders._patching.places import checksum_of
from checkpoint_doctor.builtin.loaders._zip.archive import first_name, is_zip, list_names, open_archive
from checkpoint_doctor.builtin.loaders._zip.member import InflatedMember, Member
from checkpoint_doctor.checkpoint import Checkpoint, Patch, Skipped, Tensor
from checkpoint_doctor.errors import NotACheckpoint, UnreadableCheckpoint
from checkpoint_doctor.sources import Source
from checkpoint_doctor.sources.budget import TENSORS
from checkpoint_doctor.text import quantity, shown

if TYPE_CHECKING:
    from checkpoint_doctor.builtin.loaders.numpy.header import Header

SIGNATURE = b"\x93NUMPY"
ENDING = ".npy"


class NumpyLoader(Struct, frozen=True):
    """Opens what ``numpy.savez`` and ``savez_compressed`` write where it is a model, and names other arrays."""

    name: str = "numpy"
    suffixes: tuple[str, ...] = (".npz",)

    def recognizes(self, source: Source) -> bool:
        """See ``Loader.recognizes``: a zip with nothing but arrays, or a single array."""
        try:
            if source.read(0, min(len(SIGNATURE), source.size)) == SIGNATURE:
                return True
            if not is_zip(source) or not first_name(source).endswith(ENDING):
                return False
            try:
                return all(name.endswith(ENDING) for name in list_names(source))
            except UnreadableCheckpoint:
                return True  # truncated, as opening it will say
        except UnreadableCheckpoint:
            return False

    def open(self, source: Source) -> Checkpoint:
        """See ``Loader.open``.

        Raises:
            NotACheckpoint: it is a single array, or an archive of data.
            UnreadableCheckpoint: it is damaged.
        """
        from checkpoint_doctor.builtin.loaders._trees.optax import find_root
        from checkpoint_doctor.builtin.loaders.numpy.header import read_header
        from checkpoint_doctor.builtin.loaders.numpy.models import may_name_model, name_parameters

        if source.read(0, len(SIGNATURE)) == SIGNATURE:
            raise _name_array(source, read_header(source))
        archive = open_archive(source)
        members = {name.removesuffix(ENDING): member for name, member in archive.members.items()}
        if not may_name_model(members):
            raise _name_data(source, members)
        source.budget.spend(TENSORS, len(members))
        tensors, skipped = [], []
        for name, member in members.items():
            header = read_header(member.source)
            if header.dtype is None:
                skipped.append(Skipped(f"array {name}", header.problem))
            else:
                tensors.append(_as_tensor(name, member.source, header, header.dtype))
        if any(find_root(tuple(name.split("/"))) is not None for name in members):
            # A training state of JAX, flattened: its optimizer is read as from the formats of Flax and Orbax.
            return replace(
                _as_training_state(source.name, self.name, tensors),
                flaws=tuple(archive.flaws),
                checksums=tuple(checksum_of(member) for member in members.values()),
                skipped=tuple(skipped),
                is_patchable=_is_patchable(members),
            )
        known = name_parameters({each.name: each.shape for each in tensors if each.is_floating})
        if known is None:
            raise _name_data(source, members)
        tensors = [replace(each, known_as=known.get(each.name, "")) for each in tensors]
        return Checkpoint(
            path=source.name,
            format=self.name,
            tensors=tuple(tensors),
            flaws=tuple(archive.flaws),
            checksums=tuple(checksum_of(member) for member in members.values()),
            skipped=tuple(skipped),
            is_patchable=_is_patchable(members),
        )

    def patch(self, checkpoint: Checkpoint, changes: Mapping[Tensor, NDArray]) -> Mapping[Source, Sequence[Patch]]:
        """See ``Loader.patch``."""
        from checkpoint_doctor.builtin.loaders._patching.in_place import patch_in_place

        return patch_in_place(changes)


def _is_patchable(members: Mapping[str, Member]) -> bool:
    """False for what ``numpy.savez_compressed`` writes."""
    return any(not isinstance(member.source, InflatedMember) for member in members.values())


def _as_tensor(name: str, source: Source, header: Header, dtype: str) -> Tensor:
    from checkpoint_doctor.builtin.loaders._storage.converted_values import stored_values

    values = stored_values(
        source, header.start, dtype, header.shape, header.strides, is_big_endian=header.is_big_endian
    )
    return Tensor(name, header.shape, dtype, values)


def _as_training_state(path: str, format: str, tensors: Sequence[Tensor]) -> Checkpoint:
    from checkpoint_doctor.builtin.loaders._trees.leaves import Leaf
    from checkpoint_doctor.builtin.loaders._trees.tree import build_checkpoint

    leaves = [Leaf(tuple(each.name.split("/")), each.shape, each.dtype, each.values) for each in tensors]
    return build_checkpoint(path, format, leaves)


def _name_array(source: Source, header: Header) -> NotACheckpoint:
    shape = " × ".join(map(str, header.shape)) or "a single value"
    if header.holds_objects:
        return NotACheckpoint(
            f"{source.name} is a NumPy array of Python objects (.npy), a pickle that NumPy would execute",
            "save the model's arrays with numpy.savez, or as safetensors",
        )
    return NotACheckpoint(
        f"{source.name} is a single NumPy array (.npy; {shown(header.code)}, {shape}), which does not say what it is",
        "save the arrays of a model with numpy.savez, under the names of its parameters",
    )


def _name_data(source: Source, members: Mapping[str, Member]) -> NotACheckpoint:
    names = ", ".join(shown(name) for name in list(members)[:3]) + (" …" if len(members) > 3 else "")
    return NotACheckpoint(
        f"{source.name} is a NumPy archive (.npz) of {quantity(len(members), 'array')} ({names}) that are not the "
        "parameters of a model",
        "name the file that holds the model's parameters",
    )


loader = NumpyLoader()
